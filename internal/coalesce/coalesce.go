// Package coalesce turns many small writes into few large ones: callers that come while a batch runs wait for the next one
// together, and nobody waits for company.
package coalesce

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
)

// ErrFull reports that too many callers are waiting already. Nothing was done: try again later.
var ErrFull = errors.New("coalesce: the queue is full")

// Outcome is what a batch did for one request: its answer, or its own error.
type Outcome[A any] struct {
	Answer A
	Err    error
}

// Batcher collects requests and runs them together, one batch at a time. It holds no goroutine while nobody calls, and needs no
// closing: a batch lasts as long as somebody has asked for it, so a server that waits for its requests has drained it.
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
	ctx     context.Context //nolint:containedctx // asked only whether its caller still waits
	outcome Outcome[A]
	done    chan struct{}
}

// New returns a batcher that hands at most `most` requests at once to run and lets at most `waiting` wait. Run returns one outcome for each
// request, in their order, or an error when the batch as a whole has failed and has had no effect: its requests are then tried in
// halves, so that in the end only the guilty ones get the error. An error that wraps ErrShared is
// given to every request of its batch instead. Run's context belongs to no caller: it must bound itself.
func New[Q, A any](most, waiting int, run func(context.Context, []Q) ([]Outcome[A], error)) *Batcher[Q, A] {
	return &Batcher[Q, A]{run: run, most: most, waiting: waiting}
}

// ErrShared marks the error of a batch that is nobody's own fault, or that may have had its effect after all: the batch is not run again.
var ErrShared = errors.New("coalesce: the whole batch failed")

// Do adds the request to the next batch and returns its outcome. A caller whose ctx ends stops waiting; its request still runs if its
// batch has begun.
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

// drain runs batches until nobody waits.
func (b *Batcher[Q, A]) drain() {
	for {
		// Those who can run right now, such as the callers just answered, come along. Nobody else is waited for.
		runtime.Gosched()
		batch := b.next()
		if batch == nil {
			return
		}
		b.settle(batch)
	}
}

// next takes what waits, without those whose callers have gone.
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

// settle runs the batch and answers its callers.
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

// safely runs the batch in a goroutine that nobody above could recover.
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
