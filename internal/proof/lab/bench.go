package lab

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/orders"
)

// Bench is what one twin works with during one run: the servers, a name that nothing else on them
// bears, and a pen for the diagram. Its methods may be called by several goroutines.
type Bench struct {
	*servers
	ids
	// Name is part of every key, stream, address and customer of this run.
	Name string

	side  Side
	begin time.Time

	// commands is held while Redis does one and it is drawn.
	commands sync.Mutex

	mu       sync.Mutex
	steps    []Step
	effects  []watched
	exceeded int // the step after which an effect had happened too often, counted from 1
	cleaners []func()
}

type watched struct {
	Effect
	count func(context.Context) (int, error)
}

// Count watches an effect: count asks the witness how often it has happened, want is how often it
// should have in the end.
func (b *Bench) Count(name, witness string, want int, count func(context.Context) (int, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.effects = append(b.effects, watched{Effect{Name: name, Witness: witness, Want: want}, count})
}

// Want changes how often an effect should happen, when the run itself decides.
func (b *Bench) Want(name string, want int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := slices.IndexFunc(b.effects, func(w watched) bool { return w.Name == name })
	b.effects[at].Want = want
}

// Says draws a message from one actor to another.
func (b *Bench) Says(ctx context.Context, from, to Actor, format string, args ...any) {
	b.draw(ctx, Step{From: from, To: to, Kind: Sends, Text: fmt.Sprintf(format, args...)})
}

// Loses draws a message that never arrives.
func (b *Bench) Loses(ctx context.Context, from, to Actor, format string, args ...any) {
	b.draw(ctx, Step{From: from, To: to, Kind: Lost, Text: fmt.Sprintf(format, args...)})
}

// Does draws what an actor does by itself.
func (b *Bench) Does(ctx context.Context, actor Actor, format string, args ...any) {
	b.draw(ctx, Step{From: actor, To: actor, Kind: Does, Text: fmt.Sprintf(format, args...)})
}

// Fails draws a fault.
func (b *Bench) Fails(ctx context.Context, actor Actor, format string, args ...any) {
	b.draw(ctx, Step{From: actor, To: actor, Kind: Fault, Text: fmt.Sprintf(format, args...)})
}

// Stops draws a duplicate that an actor recognized.
func (b *Bench) Stops(ctx context.Context, actor Actor, format string, args ...any) {
	b.draw(ctx, Step{From: actor, To: actor, Kind: Stopped, Text: fmt.Sprintf(format, args...)})
}

// Process runs work as a process of its own would, and reports whether it came to its end. Crash
// ends it before.
func (b *Bench) Process(work func() error) (finished bool, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = safely(work)
		finished = true
	}()
	<-done
	return finished, err
}

// Crash ends the process that calls it, here and now: nothing after it runs. It must be called from
// within Process, and with no transaction open, because deferred calls still run.
func (b *Bench) Crash(ctx context.Context, actor Actor, format string, args ...any) {
	b.Fails(ctx, actor, format, args...)
	runtime.Goexit()
}

// draw adds a step to the diagram and counts the effects.
func (b *Bench) draw(ctx context.Context, step Step) {
	b.mu.Lock()
	step.At = time.Since(b.begin)
	b.steps = append(b.steps, step)
	b.mu.Unlock()
	_ = b.recount(ctx) // the count after the end is the one that decides
}

// recount asks every witness, and notes after which step an effect had happened too often.
func (b *Bench) recount(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.effects {
		w := &b.effects[i]
		got, err := w.count(ctx)
		if err != nil {
			return fmt.Errorf("count %s: %w", w.Name, err)
		}
		w.Got = got
		if got > w.Want && b.exceeded == 0 {
			b.exceeded = len(b.steps)
		}
	}
	return nil
}

func (b *Bench) counts() []Effect {
	counts := make([]Effect, len(b.effects))
	for i, w := range b.effects {
		counts[i] = w.Effect
	}
	return counts
}

func (b *Bench) outcome(twin Twin, failure error) Outcome {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := Outcome{Expected: twin.Expect, Effects: b.counts(), Steps: b.steps, Duration: time.Since(b.begin)}
	if failure != nil {
		o.Failure = failure.Error()
		return o
	}
	o.Verdict = verdictOf(o.Effects)
	o.PartsAt = b.partsAt(o.Verdict)
	return o
}

// effectSteps are the texts of the steps in which an effect happens.
var effectSteps = map[string]string{"orders": "INSERT INTO orders", "captures": " succeeded",
	"stock movements": "INSERT INTO stock_movements", "receipts": "250"}

// partsAt returns the step where this twin parts from the other, counted from 1. A twin that
// duplicates does so where an effect happens once too often. A twin that loses one does so where it
// last does nothing but decide, or at its end. The guarded twin stops the duplicate after the last
// fault.
func (b *Bench) partsAt(verdict Verdict) int {
	last := func(kind StepKind) int {
		at := len(b.steps)
		for at > 0 && b.steps[at-1].Kind != kind {
			at--
		}
		return at
	}
	first := func(from int) int {
		at := slices.IndexFunc(b.steps[from:], func(s Step) bool { return s.Kind == Stopped })
		if at < 0 {
			return 0
		}
		return from + at + 1
	}
	switch {
	case verdict == Duplicates:
		return cmp.Or(b.tooOften(), b.exceeded)
	case verdict == Loses:
		return cmp.Or(last(Does), len(b.steps))
	case b.side == GuardedSide:
		return cmp.Or(first(last(Fault)), first(0))
	}
	return 0
}

// tooOften returns the step in which the first effect that happened too often did so, counted from
// 1, or 0 if no step shows it.
func (b *Bench) tooOften() int {
	at := slices.IndexFunc(b.effects, func(w watched) bool { return w.Got > w.Want && effectSteps[w.Name] != "" })
	if at < 0 {
		return 0
	}
	left := b.effects[at].Want
	for i, step := range b.steps {
		if !strings.Contains(step.Text, effectSteps[b.effects[at].Name]) {
			continue
		}
		if left == 0 {
			return i + 1
		}
		left--
	}
	return 0
}

// OnEnd has something removed when the run is over.
func (b *Bench) OnEnd(clean func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cleaners = append(b.cleaners, clean)
}

func (b *Bench) cleanUp() {
	for _, clean := range slices.Backward(b.cleaners) {
		clean()
	}
}

// Email is an address of this run: its mails can be counted.
func (b *Bench) Email() string { return "buyer@" + b.Name + ".example" }

// Buyer is a new customer of the guarded schema.
func (b *Bench) Buyer(ctx context.Context) (uuid.UUID, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return uuid.Nil, fmt.Errorf("make a customer id: %w", err)
	}
	return id, b.accounts.EnsureGuest(ctx, id)
}

// Basket is what every order in the lab asks for, unless its experiment is about another.
func Basket() []orders.LineRequest { return []orders.LineRequest{{SKU: sku, Quantity: 1}} }

// Until waits until the condition holds; an experiment whose fault does not show in time has
// failed.
func Until(ctx context.Context, what string, holds func(context.Context) (bool, error)) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := holds(ctx)
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}
