package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// caller makes one call and waits for its answer; an error is an answer that should not have come.
type caller func(ctx context.Context) error

// side is one of the two that a scenario compares.
type side struct {
	// open prepares the n-th of the callers, counted from 0.
	open func(ctx context.Context, n int) (call caller, done func(), err error)
	// run, if set, takes the place of callers: it does its own calls for the time and returns how
	// many.
	run func(ctx context.Context, callers int, length time.Duration) (sample, error)
	// books, if set, are what must agree with the answers, and each call's share of them. Only what
	// is newer than since is read in them.
	books *books
	each  entry
	since uuid.UUID
}

// sample is one round of one side.
type sample struct {
	calls int
	rate  float64
	// median and p99 are of the time between a call and its answer. They are 0 with several
	// callers, who wait for each other, unless these are a crowd: there the wait is the question.
	median, p99 time.Duration
}

// load lets the callers call for the length of time, each its next when the last is answered. A
// call that has begun is waited for.
func (s side) load(ctx context.Context, callers int, length time.Duration) (sample, error) {
	if s.run != nil {
		return s.run(ctx, callers, length)
	}
	calls := make([]caller, callers)
	for n := range calls {
		call, done, err := s.open(ctx, n)
		if err != nil {
			return sample{}, err
		}
		defer done()
		calls[n] = call
	}
	counts, failures, times := make([]int, callers), make([]error, callers), make([][]time.Duration, callers)
	timed := callers == 1 || callers > maxCallers
	var group sync.WaitGroup
	begin := time.Now()
	end := begin.Add(length)
	for n, call := range calls {
		group.Go(func() {
			for last := time.Now(); ; {
				if failures[n] = call(ctx); failures[n] != nil {
					return
				}
				counts[n]++
				now := time.Now()
				if timed {
					times[n] = append(times[n], now.Sub(last))
				}
				if last = now; now.After(end) || ctx.Err() != nil {
					return
				}
			}
		})
	}
	group.Wait()
	elapsed := time.Since(begin)
	if err := errors.Join(ctx.Err(), errors.Join(failures...)); err != nil {
		return sample{}, fmt.Errorf("a call failed: %w", err)
	}
	var result sample
	for _, count := range counts {
		result.calls += count
	}
	result.rate = float64(result.calls) / elapsed.Seconds()
	if timed {
		took := slices.Sorted(slices.Values(slices.Concat(times...)))
		result.median, result.p99 = took[len(took)/2], took[len(took)*99/100]
	}
	return result, nil
}

// middle is the median of at least one value.
func middle[T int | float64 | time.Duration](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
