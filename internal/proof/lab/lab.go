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
	"sync"
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
	Lesson
	// Predict is what a reader guesses before the run.
	Predict Prediction
	// Shrunk lists the windows that are shorter here than in the shop, as in "the lease is 1 s
	// instead of 30 s". It may be empty.
	Shrunk string
	// Actors are the columns of the sequence diagram, from left to right.
	Actors         []Actor
	Naive, Guarded Twin
}

// Prediction is a question about the naive twin: how often it lets the named effect happen.
type Prediction struct {
	Question string
	Effect   string
	Choices  []int
}

// Twin is one of the two programs of an experiment.
type Twin struct {
	// Title describes in a few words how this twin works.
	Title string
	// Expect is the verdict that the tests hold it to.
	Expect Verdict
	// Constraint names what decides about a duplicate, or what bounds the memory that does.
	// Statement names what meets it, and Code the functions around it. All are references that
	// SourceOf reads.
	Constraint, Statement, Code []string
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

// StepKind is how a step is drawn.
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

// Side is one of the two twins of a run.
type Side string

// The two sides of every experiment.
const (
	NaiveSide   Side = "naive"
	GuardedSide Side = "guarded"
)

// Outcome is how an experiment ended for one twin. Failure is why it could not be run to its end;
// there is no verdict then.
type Outcome struct {
	Verdict  Verdict       `json:"verdict,omitempty"`
	Expected Verdict       `json:"expected"`
	Effects  []Effect      `json:"effects"`
	Steps    []Step        `json:"steps"`
	Duration time.Duration `json:"duration"`
	Failure  string        `json:"failure,omitempty"`
	// PartsAt is the step where the twins part, counted from 1: the duplicate gets through or is
	// stopped. It is 0 if there is none.
	PartsAt int `json:"parts_at,omitempty"`
}

// Result is how an experiment ended.
type Result struct {
	Experiment string  `json:"experiment"`
	Naive      Outcome `json:"naive"`
	Guarded    Outcome `json:"guarded"`
}

// Experiments returns all of them, in the order of the strategies. The caller must not change them.
var Experiments = sync.OnceValue(func() []Experiment {
	all := slices.Concat(uniqueExperiments(), memoryExperiments(), redisExperiments(), brokerExperiments())
	for i := range all {
		all[i].Lesson = lessonOf(all[i].ID)
	}
	return all
})

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
