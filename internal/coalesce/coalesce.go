// Package coalesce runs calls that arrive at the same time as one batch. A call that arrives while
// a batch is running waits for the next one. A call that arrives when none is running starts at
// once. One call cannot delay the others: see docs/decisions.md, D90, and docs/performance.md, P1.
package coalesce

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/tracing"
)

// ErrFull reports that too many callers are waiting. Nothing was done: try again later.
var ErrFull = errors.New("coalesce: the queue is full")

// Outcome is the result of one request of a batch.
type Outcome[A any] struct {
	Answer A
	Err    error
}

// Batch describes the batches of a Batcher.
type Batch[Q, A any] struct {
	// Name is the name of a batch's span, and About returns the order that a request is about, for
	// the events of the batch. It may be nil. See tracing.Batch.
	Name  string
	About func(Q) uuid.UUID
	// Most is how many requests share a batch, and Waiting how many more may wait.
	Most, Waiting int
	// Run returns one outcome per request, in their order. If it returns an error, the batch had no
	// effect: each half of it runs again, so that in the end only the requests that cause the error
	// get it. If pg.IsUnavailable holds for the error, no request caused it, and all of them get
	// it. Run waits at most LockWait for a lock. The context has no deadline: Run must set its own.
	Run func(context.Context, []Q) ([]Outcome[A], error)
	// Rivals returns what a request competes for, and as what. Two requests that compete for the
	// same thing as different ones never share a batch. If one fails alone, its rivals and its own
	// next tries wait outside the batches for a while. It may be nil.
	Rivals func(Q) (over, as any)
	// Rows describes the rows that requests lock. It may be nil.
	Rows *Rows[Q]
}

// Batcher collects requests and runs them in batches, one batch at a time. What failed runs again
// beside the next batches. An idle Batcher has no goroutine and need not be closed.
type Batcher[Q, A any] struct {
	Batch[Q, A]
	held  gates
	again chan struct{} // one token for each part of a failed batch that runs beside the others

	mu      sync.Mutex
	queue   []*call[Q, A]
	running bool
}

type call[Q, A any] struct {
	request Q
	// over and as are what the request competes for, if it has rivals.
	over, as any
	ctx      context.Context //nolint:containedctx // tells whether the caller still waits
	outcome  Outcome[A]
	done     chan struct{}
}

// LockWait is how long a batch waits for a lock. It is long beside a batch of another node, and
// short for a caller who waits for something else.
const LockWait = 250 * time.Millisecond

// maxAgain bounds the connections that parts of failed batches take.
const maxAgain = 4

// New returns a batcher.
func New[Q, A any](b Batch[Q, A]) *Batcher[Q, A] {
	return &Batcher[Q, A]{Batch: b, again: make(chan struct{}, maxAgain)}
}

// Do adds the request to the next batch and returns its outcome. It returns early when ctx ends.
// The request still runs if its batch has begun.
func (b *Batcher[Q, A]) Do(ctx context.Context, request Q) (A, error) {
	for {
		if err := b.waitForRows(ctx, request); err != nil {
			var none A
			return none, err
		}
		if answer, err := b.do(ctx, request); !errors.Is(err, errHeld) {
			return answer, err
		}
	}
}

func (b *Batcher[Q, A]) do(ctx context.Context, request Q) (A, error) {
	c := &call[Q, A]{request: request, ctx: ctx, done: make(chan struct{})}
	if b.Rivals != nil {
		c.over, c.as = b.Rivals(request)
	}
	if err := b.enqueue(c); err != nil {
		return c.outcome.Answer, err
	}
	select {
	case <-c.done:
		return c.outcome.Answer, c.outcome.Err
	case <-ctx.Done():
		var none A
		return none, ctx.Err()
	}
}

func (b *Batcher[Q, A]) enqueue(c *call[Q, A]) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) >= b.Waiting {
		return ErrFull
	}
	b.queue = append(b.queue, c)
	if !b.running {
		b.running = true
		go b.drain()
	}
	return nil
}

// drain runs batches until no call is waiting.
func (b *Batcher[Q, A]) drain() {
	for {
		// Goroutines that can run now, such as the callers just answered, join the next batch.
		runtime.Gosched()
		batch := b.next()
		if batch == nil {
			return
		}
		b.settle(batch)
	}
}

// next takes the waiting calls in their order, except those whose callers have gone and those that
// need a held row. Rivals of a call in the batch, and more than a batch holds, go on waiting.
func (b *Batcher[Q, A]) next() []*call[Q, A] {
	b.mu.Lock()
	defer b.mu.Unlock()
	var batch []*call[Q, A]
	var taken map[any]any
	if b.Rivals != nil && len(b.queue) > 1 {
		taken = make(map[any]any)
	}
	waiting := b.queue[:0]
	for _, c := range b.queue {
		switch {
		case c.ctx.Err() != nil:
		case b.closedGate(c.request) != nil: // it came before the gate was closed
			c.outcome.Err = errHeld
			close(c.done)
		case len(batch) == b.Most || rivals(taken, c.over, c.as):
			waiting = append(waiting, c)
		default:
			batch = append(batch, c)
		}
	}
	clear(b.queue[len(waiting):])
	if b.queue = waiting; len(waiting) == 0 {
		b.queue = nil
	}
	b.running = batch != nil
	return batch
}

// rivals reports whether a request competes with one in the batch for what is taken.
func rivals(taken map[any]any, over, as any) bool {
	if taken == nil {
		return false
	}
	holder, found := taken[over]
	if !found {
		taken[over] = as
	}
	return found && holder != as
}

// settle runs the batch and returns its outcomes to the callers.
func (b *Batcher[Q, A]) settle(batch []*call[Q, A]) {
	outcomes, err := b.safely(batch)
	switch {
	case err == nil:
		for i, c := range batch {
			c.outcome = outcomes[i]
			close(c.done)
		}
		return
	case pg.IsLockTimeout(err):
		if free := b.withoutHeld(batch); len(free) < len(batch) {
			b.settleAgain(free)
			return
		}
	}
	held := pg.IsLockTimeout(err)
	unavailable := pg.IsUnavailable(err) && !held
	if len(batch) == 1 && !unavailable {
		b.keepOut(batch[0].request)
		if held { // its key, or a row until a moment ago: it tries again until its deadline
			err = errHeld
		}
	}
	if len(batch) == 1 || unavailable {
		for _, c := range batch {
			c.outcome.Err = err
			close(c.done)
		}
		return
	}
	b.settleAgain(batch[:len(batch)/2])
	b.settleAgain(batch[len(batch)/2:])
}

// settleAgain settles a part of a failed batch beside the next batches, so that their callers do
// not wait for it. If too many parts run already, the next batches wait after all.
func (b *Batcher[Q, A]) settleAgain(part []*call[Q, A]) {
	if len(part) == 0 {
		return
	}
	select {
	case b.again <- struct{}{}:
		go func() {
			defer func() { <-b.again }()
			b.settle(part)
		}()
	default:
		b.settle(part)
	}
}

// safely turns a panic of Run into an error: the batch has a goroutine of its own, which would end
// the process.
func (b *Batcher[Q, A]) safely(batch []*call[Q, A]) (outcomes []Outcome[A], err error) {
	ctx, span := b.start(batch)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		tracing.End(span, err)
	}()
	requests := make([]Q, len(batch))
	for i, c := range batch {
		requests[i] = c.request
	}
	outcomes, err = b.Run(ctx, requests)
	if err == nil && len(outcomes) != len(requests) {
		err = fmt.Errorf("coalesce: %d outcomes for %d requests", len(outcomes), len(requests))
	}
	return outcomes, err
}

// start begins the span of a batch if its callers are traced.
func (b *Batcher[Q, A]) start(batch []*call[Q, A]) (context.Context, trace.Span) {
	if !tracing.On(batch[0].ctx) {
		return context.Background(), noop.Span{}
	}
	callers := make([]tracing.Caller, len(batch))
	for i, c := range batch {
		var about uuid.UUID
		if b.About != nil {
			about = b.About(c.request)
		}
		callers[i] = tracing.Caller{Context: c.ctx, About: about}
	}
	return tracing.Batch(b.Name, callers)
}
