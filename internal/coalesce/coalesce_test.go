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

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/onceshop/onceshop/internal/coalesce"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errGuilty = errors.New("it is my fault")

// worker records its batches and fails those that hold a guilty request. Each takes a second.
type worker struct {
	batches [][]int
	guilty  map[int]bool
	fails   error
}

func (w *worker) run(_ context.Context, requests []int) ([]coalesce.Outcome[string], error) {
	w.batches = append(w.batches, slices.Clone(requests))
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
		for i, err := range callAll(t, coalesce.New(4, 100, w.run), 8) {
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
			for i, err := range callAll(t, coalesce.New(16, 100, w.run), n) {
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
		w := &worker{guilty: map[int]bool{2: true}, fails: coalesce.ErrShared}
		for i, err := range callAll(t, coalesce.New(16, 100, w.run), 4) {
			if errors.Is(err, coalesce.ErrShared) != (i > 0) {
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
		b := coalesce.New(16, 100, w.run)
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
		for i, err := range callAll(t, coalesce.New(16, 3, w.run), 6) {
			if errors.Is(err, coalesce.ErrFull) != (i > 3) {
				t.Errorf("caller %d: %v", i, err)
			}
		}
	})
}

func TestPanicIsAnError(t *testing.T) {
	t.Parallel()
	b := coalesce.New(16, 16, func(context.Context, []int) ([]coalesce.Outcome[int], error) { panic("ouch") })
	if _, err := b.Do(t.Context(), 1); err == nil {
		t.Error("no error")
	}
	short := coalesce.New(16, 16, func(context.Context, []int) ([]coalesce.Outcome[int], error) { return nil, nil })
	if _, err := short.Do(t.Context(), 1); err == nil {
		t.Error("no error without an outcome")
	}
}
