package coalesce_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/onceshop/onceshop/internal/coalesce"
	"github.com/onceshop/onceshop/internal/pg"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errGuilty = errors.New("it is my fault")

// worker records its batches and fails those that hold a guilty request. Each takes a second.
type worker struct {
	mu      sync.Mutex
	batches [][]int
	guilty  map[int]bool
	fails   error
}

func (w *worker) run(_ context.Context, requests []int) ([]coalesce.Outcome[string], error) {
	w.mu.Lock()
	w.batches = append(w.batches, slices.Clone(requests))
	w.mu.Unlock()
	<-time.After(time.Second) // the bubble's
	outcomes := make([]coalesce.Outcome[string], len(requests))
	for i, r := range requests {
		if w.guilty[r] {
			return nil, fmt.Errorf("request %d: %w", r, w.fails)
		}
		outcomes[i] = coalesce.Outcome[string]{Answer: fmt.Sprint("answer ", r)}
	}
	return outcomes, nil
}

type run = func(context.Context, []int) ([]coalesce.Outcome[string], error)

func newBatcher(most, waiting int, run run) *coalesce.Batcher[int, string] {
	return coalesce.New(coalesce.Batch[int, string]{Most: most, Waiting: waiting, Run: run})
}

// callAll lets n callers come one after another without waiting, and returns their errors.
func callAll(t *testing.T, b *coalesce.Batcher[int, string], n int) []error {
	t.Helper()
	failures := make([]error, n)
	var callers sync.WaitGroup
	for i := range n {
		callers.Go(func() {
			answer, err := b.Do(t.Context(), i)
			if err == nil && answer != fmt.Sprint("answer ", i) {
				t.Errorf("caller %d got %q", i, answer)
			}
			failures[i] = err
		})
		synctest.Wait()
	}
	callers.Wait()
	return failures
}

// Who comes first does not wait for company; who comes meanwhile goes together, in the order of
// arrival, and no more than may.
func TestWhoComesMeanwhileGoesTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &worker{}
		for i, err := range callAll(t, newBatcher(4, 100, w.run), 8) {
			if err != nil {
				t.Errorf("caller %d: %v", i, err)
			}
		}
		if got := fmt.Sprint(w.batches); got != "[[0] [1 2 3 4] [5 6 7]]" {
			t.Errorf("batches %s", got)
		}
	})
}

func TestOnlyTheGuiltyGetTheError(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 30).Draw(rt, "callers")
		w := &worker{guilty: map[int]bool{}, fails: errGuilty}
		for _, r := range rapid.SliceOf(rapid.IntRange(0, n-1)).Draw(rt, "guilty") {
			w.guilty[r] = true
		}
		synctest.Test(t, func(t *testing.T) {
			for i, err := range callAll(t, newBatcher(16, 100, w.run), n) {
				if errors.Is(err, errGuilty) != w.guilty[i] {
					t.Errorf("caller %d: %v", i, err)
				}
			}
		})
	})
}

// What may have happened is not tried again, and its error is everybody's.
func TestSharedErrorIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &worker{guilty: map[int]bool{2: true}, fails: pg.ErrCommitUnknown}
		for i, err := range callAll(t, newBatcher(16, 100, w.run), 4) {
			if errors.Is(err, pg.ErrCommitUnknown) != (i > 0) {
				t.Errorf("caller %d: %v", i, err)
			}
		}
		if got := fmt.Sprint(w.batches); got != "[[0] [1 2 3]]" {
			t.Errorf("batches %s", got)
		}
	})
}

func TestCallerThatGivesUpDisturbsNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &worker{}
		b := newBatcher(16, 100, w.run)
		var callers sync.WaitGroup
		for i := range 4 {
			ctx, giveUp := context.WithCancel(t.Context())
			callers.Go(func() {
				if _, err := b.Do(ctx, i); errors.Is(err, context.Canceled) != (i == 0 || i == 2) {
					t.Errorf("caller %d: %v", i, err)
				}
			})
			synctest.Wait()
			if i == 0 || i == 2 { // the first in the midst of its batch, the third while it waits for its
				giveUp()
			}
			t.Cleanup(giveUp)
		}
		callers.Wait()
		if got := fmt.Sprint(w.batches); got != "[[0] [1 3]]" {
			t.Errorf("batches %s", got)
		}
	})
}

func TestFullQueueRefuses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &worker{}
		for i, err := range callAll(t, newBatcher(16, 3, w.run), 6) {
			if errors.Is(err, coalesce.ErrFull) != (i > 3) {
				t.Errorf("caller %d: %v", i, err)
			}
		}
	})
}

func TestPanicIsAnError(t *testing.T) {
	t.Parallel()
	b := newBatcher(16, 16, func(context.Context, []int) ([]coalesce.Outcome[string], error) { panic("ouch") })
	if _, err := b.Do(t.Context(), 1); err == nil {
		t.Error("no error")
	}
	short := newBatcher(16, 16, func(context.Context, []int) ([]coalesce.Outcome[string], error) { return nil, nil })
	if _, err := short.Do(t.Context(), 1); err == nil {
		t.Error("no error without an outcome")
	}
}

// A request that fails is tried again beside the next batches: their callers do not wait for it.
func TestFailedBatchDelaysNobodyElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &worker{guilty: map[int]bool{1: true}, fails: errGuilty}
		b := newBatcher(8, 100, w.run)
		begun := time.Now()
		var callers sync.WaitGroup
		call := func(from, to int) {
			for i := from; i < to; i++ {
				callers.Go(func() { _, _ = b.Do(t.Context(), i) })
				synctest.Wait()
			}
		}
		call(0, 9) // batches [0] and [1 … 8], which fails
		<-time.After(1500 * time.Millisecond)
		innocent := make(chan time.Duration)
		go func() {
			_, _ = b.Do(t.Context(), 100)
			innocent <- time.Since(begun)
		}()
		if took := <-innocent; took != 3*time.Second {
			t.Errorf("the caller after the failed batch was answered after %s, not after the batch of its own", took)
		}
		callers.Wait()
	})
}

// Requests that give one thing different meanings take turns, however many they are; others share
// the batch of each.
func TestRivalsTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &worker{}
		b := coalesce.New(coalesce.Batch[int, string]{Most: 16, Waiting: 100, Run: w.run,
			Rivals: func(r int) (over, as any) { return r / 100, r }})
		var callers sync.WaitGroup
		for _, r := range []int{0, 101, 102, 102, 103, 201, 301} {
			callers.Go(func() { _, _ = b.Do(t.Context(), r) })
			synctest.Wait()
		}
		callers.Wait()
		if got := fmt.Sprint(w.batches); got != "[[0] [101 201 301] [102 102] [103]]" {
			t.Errorf("batches %s", got)
		}
	})
}

// Requests that need a held row leave their batch and wait until it is free. The others do not.
func TestHeldRowDelaysOnlyItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		const heldFor = 5 * time.Second
		isHeld := func() bool { return time.Since(begun) < heldFor }
		b := coalesce.New(coalesce.Batch[int, string]{Most: 16, Waiting: 100,
			Run: func(_ context.Context, requests []int) ([]coalesce.Outcome[string], error) {
				if slices.Contains(requests, 7) && isHeld() {
					<-time.After(250 * time.Millisecond)
					return nil, &pgconn.PgError{Code: "55P03"}
				}
				<-time.After(time.Millisecond)
				return make([]coalesce.Outcome[string], len(requests)), nil
			},
			Rows: &coalesce.Rows[int]{
				Of: func(r int) []string { return []string{fmt.Sprint(r)} },
				Held: func(_ context.Context, rows []string) (held []string, _ error) {
					if slices.Contains(rows, "7") && isHeld() {
						held = append(held, "7")
					}
					return held, nil
				},
			}})
		var callers sync.WaitGroup
		for range 3 {
			callers.Go(func() {
				if _, err := b.Do(t.Context(), 7); err != nil {
					t.Error(err)
				}
				if waited := time.Since(begun); waited < heldFor || waited > heldFor+500*time.Millisecond {
					t.Errorf("the buyer of the held row was answered after %s", waited)
				}
			})
		}
		callers.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := b.Do(ctx, 7); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Second {
				t.Errorf("after %s: %v", time.Since(begun), err)
			}
		})
		served := 0
		for isHeld() {
			if _, err := b.Do(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			served++
		}
		if served < 4000 { // of 5,000
			t.Errorf("only %d others were served in %s", served, heldFor)
		}
		callers.Wait()
	})
}

// A lock that comes free just when its wait ends, or that is not on a row, is waited for again,
// until the request's deadline.
func TestLockWithoutAHeldRow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		b := coalesce.New(coalesce.Batch[int, string]{Most: 16, Waiting: 100,
			Run: func(_ context.Context, requests []int) ([]coalesce.Outcome[string], error) {
				<-time.After(250 * time.Millisecond)
				if requests[0] == 8 || time.Since(begun) < 3*time.Second {
					return nil, &pgconn.PgError{Code: "55P03"}
				}
				return make([]coalesce.Outcome[string], len(requests)), nil
			},
			Rivals: func(r int) (over, as any) { return r, r }})
		if _, err := b.Do(t.Context(), 7); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := b.Do(ctx, 8); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a lock that never comes free: %v", err)
		}
		<-time.After(5 * time.Second) // the bubble's: the gates open
	})
}
