// Package coalesce runs calls that arrive at the same time as one batch. A call that arrives while
// a batch is running waits for the next one. A call that arrives when none is running starts at
// once. See docs/performance.md, P1.
package coalesce

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
)

// ErrFull reports that too many callers are waiting. Nothing was done: try again later.
var ErrFull = errors.New("coalesce: the queue is full")

// Outcome is the result of one request of a batch.
type Outcome[A any] struct {
	Answer A
	Err    error
}

// Batcher collects requests and runs them in batches, one batch at a time. An idle Batcher has no
// goroutine and need not be closed.
type Batcher[Q, A any] struct {
	run     func(context.Context, []Q) ([]Outcome[A], error)
	most    int
	waiting int

	mu      sync.Mutex
	queue   []*call[Q, A]
	running bool
}

type call[Q, A any] struct {
	request Q
	ctx     context.Context //nolint:containedctx // tells whether the caller still waits
	outcome Outcome[A]
	done    chan struct{}
}

// New returns a batcher that calls run with at most `most` requests and lets at most `waiting` more
// wait. Run returns one outcome per request, in their order. If it returns an error, the batch had
// no effect: the batcher then runs each half of it again, so that in the end only the requests that
// cause the error get it. An error that wraps ErrShared goes to every request of the batch instead.
// The context of run has no deadline: run must set its own.
func New[Q, A any](most, waiting int, run func(context.Context, []Q) ([]Outcome[A], error)) *Batcher[Q, A] {
	return &Batcher[Q, A]{run: run, most: most, waiting: waiting}
}

// ErrShared marks an error that no single request caused, or after which the batch may have had its
// effect: the batch is not run again.
var ErrShared = errors.New("coalesce: the whole batch failed")

// Do adds the request to the next batch and returns its outcome. It returns early when ctx ends.
// The request still runs if its batch has begun.
func (b *Batcher[Q, A]) Do(ctx context.Context, request Q) (A, error) {
	c := &call[Q, A]{request: request, ctx: ctx, done: make(chan struct{})}
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
	if len(b.queue) >= b.waiting {
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

// next takes the waiting calls, except those whose callers have gone.
func (b *Batcher[Q, A]) next() []*call[Q, A] {
	b.mu.Lock()
	defer b.mu.Unlock()
	var batch []*call[Q, A]
	taken := 0
	for ; taken < len(b.queue) && len(batch) < b.most; taken++ {
		if c := b.queue[taken]; c.ctx.Err() == nil {
			batch = append(batch, c)
		}
	}
	clear(b.queue[:taken])
	if b.queue = b.queue[taken:]; len(b.queue) == 0 {
		b.queue = nil
	}
	b.running = batch != nil
	return batch
}

// settle runs the batch and returns its outcomes to the callers.
func (b *Batcher[Q, A]) settle(batch []*call[Q, A]) {
	requests := make([]Q, len(batch))
	for i, c := range batch {
		requests[i] = c.request
	}
	outcomes, err := b.safely(requests)
	switch {
	case err == nil:
		for i, c := range batch {
			c.outcome = outcomes[i]
			close(c.done)
		}
	case len(batch) == 1 || errors.Is(err, ErrShared):
		for _, c := range batch {
			c.outcome.Err = err
			close(c.done)
		}
	default:
		b.settle(batch[:len(batch)/2])
		b.settle(batch[len(batch)/2:])
	}
}

// safely turns a panic of run into an error: the batch has a goroutine of its own, which would end
// the process.
func (b *Batcher[Q, A]) safely(requests []Q) (outcomes []Outcome[A], err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	outcomes, err = b.run(context.Background(), requests)
	if err == nil && len(outcomes) != len(requests) {
		err = fmt.Errorf("coalesce: %d outcomes for %d requests", len(outcomes), len(requests))
	}
	return outcomes, err
}
