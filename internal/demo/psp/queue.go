package psp

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// job is something to do at a moment or as soon after as a worker is free.
type job struct {
	due time.Time
	run func(context.Context)
}

// queue holds jobs until they are due.
type queue struct {
	mu    sync.Mutex
	items byDue
	wake  chan struct{} // holds a token when something was pushed since the last await
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

func (q *queue) push(j job) {
	q.mu.Lock()
	heap.Push(&q.items, j)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// work runs the jobs as they come due until ctx ends; it returns when the running ones are done.
func (q *queue) work(ctx context.Context, workers int) {
	var running errgroup.Group
	running.SetLimit(workers)
	for ctx.Err() == nil {
		j, wait := q.pop(time.Now())
		if j == nil {
			q.await(ctx, wait)
			continue
		}
		running.Go(func() error {
			j.run(ctx)
			return nil
		})
	}
	_ = running.Wait() // no job returns an error
}

// pop takes the job that is due first, or returns nil and how long it is until one is due.
func (q *queue) pop(now time.Time) (*job, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		return nil, time.Hour
	}
	if wait := q.items[0].due.Sub(now); wait > 0 {
		return nil, wait
	}
	j := heap.Pop(&q.items).(job)
	return &j, 0
}

// await returns after d, or earlier when something is pushed or ctx ends.
func (q *queue) await(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-q.wake:
	case <-ctx.Done():
	}
}

// byDue is a heap.Interface.
type byDue []job

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h byDue) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byDue) Push(x any)        { *h = append(*h, x.(job)) }
func (h *byDue) Pop() any {
	last := len(*h) - 1
	j := (*h)[last]
	(*h)[last] = job{}
	*h = (*h)[:last]
	return j
}
