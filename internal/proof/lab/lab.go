// Package lab shows what duplicates do: each experiment lets one fault happen to two programs, a
// naive one and the guarded one that the shop runs, and counts what really happened to the
// database, at the payment provider, in the broker's stream and in the mailbox. The naive twins
// live here and nowhere else; the guarded ones are the shop's own services, on a schema, streams
// and keys that belong to the lab.
package lab

import (
	"context"
	"errors"
	"slices"
	"time"
)

// Verdict is what a twin did under a fault, decided by counting effects.
type Verdict string

// The verdicts. A twin that duplicates one effect and loses another counts as one that duplicates.
const (
	Holds      Verdict = "holds"
	Duplicates Verdict = "duplicates"
	Loses      Verdict = "loses"
)

// Strategy is one of the four.
type Strategy string

// The four strategies.
const (
	Unique Strategy = "unique"
	Memory Strategy = "memory"
	Redis  Strategy = "redis"
	Broker Strategy = "broker"
)

// Strategies are all four, in the article's order.
var Strategies = []Strategy{Unique, Memory, Redis, Broker}

// Experiment is one fault that happens to both twins.
type Experiment struct {
	// ID is part of addresses: lower case words with dashes, the strategy first.
	ID       string
	Strategy Strategy
	// Fault names what goes wrong, in a few words.
	Fault string
	// Story says in a sentence or two what happens, Why in one paragraph what follows from it.
	Story, Why string
	// Shrunk says which windows are shorter here than in the shop, as in "the lease is 1 s instead
	// of 30 s". It may be empty.
	Shrunk string
	// Actors are the columns of the sequence diagram, from left to right.
	Actors         []Actor
	Naive, Guarded Twin
}

// Twin is one of the two programs of an experiment.
type Twin struct {
	// Title says in a few words how this twin works.
	Title string
	// Expect is the verdict that the tests hold it to.
	Expect Verdict
	// Code names the functions that a reader should see, as
	// "internal/orders/place.go:Service.placeTx".
	Code []string
	// Run lets the fault happen. It returns when everything that can still happen by itself has
	// happened.
	Run func(ctx context.Context, b *Bench) error
}

// Actor is a column of a sequence diagram.
type Actor string

// The actors. Node A and Node B are two processes of the shop.
const (
	Client   Actor = "Buyer"
	NodeA    Actor = "Node A"
	NodeB    Actor = "Node B"
	Database Actor = "Postgres"
	RedisBox Actor = "Redis"
	Stream   Actor = "NATS"
	Provider Actor = "Provider"
	Mailbox  Actor = "Mailbox"
)

// StepKind says how a step is drawn.
type StepKind string

// The kinds of steps: a message between two actors, one that never arrives, something an actor does
// by itself, a fault, and a duplicate that was stopped.
const (
	Sends   StepKind = "sends"
	Lost    StepKind = "lost"
	Does    StepKind = "does"
	Fault   StepKind = "fault"
	Stopped StepKind = "stopped"
)

// Step is a line of the sequence diagram. From and To are the same for what an actor does by
// itself.
type Step struct {
	At   time.Duration `json:"at"` // since the twin began
	From Actor         `json:"from"`
	To   Actor         `json:"to"`
	Kind StepKind      `json:"kind"`
	Text string        `json:"text"`
}

// Effect is something that should have happened Want times and happened Got times, counted by the
// Witness.
type Effect struct {
	Name    string `json:"name"`
	Witness string `json:"witness"`
	Want    int    `json:"want"`
	Got     int    `json:"got"`
}

func verdictOf(effects []Effect) Verdict {
	if slices.ContainsFunc(effects, func(e Effect) bool { return e.Got > e.Want }) {
		return Duplicates
	}
	if slices.ContainsFunc(effects, func(e Effect) bool { return e.Got < e.Want }) {
		return Loses
	}
	return Holds
}

// Side tells the twins of a run apart.
type Side string

// The two sides of every experiment.
const (
	NaiveSide   Side = "naive"
	GuardedSide Side = "guarded"
)

// Event is something that an observer of a run is told as it happens: a step, counts that have
// changed, or a twin's end.
type Event struct {
	Side    Side
	Step    *Step
	Effects []Effect
	Outcome *Outcome
}

// Outcome is how an experiment ended for one twin. Failure is why it could not be run to its end;
// there is no verdict then.
type Outcome struct {
	Verdict  Verdict       `json:"verdict,omitempty"`
	Expected Verdict       `json:"expected"`
	Effects  []Effect      `json:"effects"`
	Steps    []Step        `json:"steps"`
	Duration time.Duration `json:"duration"`
	Failure  string        `json:"failure,omitempty"`
}

// Result is how an experiment ended.
type Result struct {
	Experiment string  `json:"experiment"`
	Naive      Outcome `json:"naive"`
	Guarded    Outcome `json:"guarded"`
}

// Experiments are all of them: in the order of the strategies, the ones that hold first.
func Experiments() []Experiment {
	return slices.Concat(uniqueExperiments(), memoryExperiments(), redisExperiments(), brokerExperiments())
}

// ErrNotFound reports an experiment that does not exist.
var ErrNotFound = errors.New("lab: no such experiment")

// Find returns the experiment of that id, or ErrNotFound.
func Find(id string) (Experiment, error) {
	all := Experiments()
	at := slices.IndexFunc(all, func(e Experiment) bool { return e.ID == id })
	if at < 0 {
		return Experiment{}, ErrNotFound
	}
	return all[at], nil
}
