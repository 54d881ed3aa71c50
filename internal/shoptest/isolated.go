package shoptest

import (
	"context"
	"sync"
	"testing"
	"time"
)

const (
	// isolatedTries is how often Isolated measures: the machine may be busy with something else.
	isolatedTries = 10
	// goodShare is what of their speed others keep beside something poisoned.
	goodShare = 0.8
	// worstShare is what they must keep at least in the best of all measurements: other tests run
	// beside this one.
	worstShare = 0.5
)

// Isolated fails the test unless work keeps its speed beside something poisoned. Work does a number
// of rounds, with the poison or without, and returns how long they took. Isolated logs the best
// share. Under the race detector the speed does not count.
func Isolated(t testing.TB, rounds int, work func(rounds int, poisoned bool) time.Duration) {
	t.Helper()
	if raceDetector {
		rounds = min(rounds, 10)
	}
	work(rounds, false) // warms up
	var best float64
	for range isolatedTries {
		clean := work(rounds, false)
		best = max(best, float64(clean)/float64(work(rounds, true)))
		if best >= goodShare || raceDetector {
			break
		}
	}
	t.Logf("the others kept %.0f %% of their speed", 100*best)
	if best < worstShare && !raceDetector {
		t.Errorf("want %.0f %%, and %.0f %% on an idle machine", 100*worstShare, 100*goodShare)
	}
}

// Beside makes work for Isolated whose poison is disturb: it runs beside the rounds until its
// context ends.
func Beside(t testing.TB, work func(rounds int) time.Duration,
	disturb func(ctx context.Context)) func(int, bool) time.Duration {
	return func(rounds int, poisoned bool) time.Duration {
		if !poisoned {
			return work(rounds)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var disturbing sync.WaitGroup
		disturbing.Go(func() { disturb(ctx) })
		defer disturbing.Wait()
		defer cancel()
		work(rounds / 10) // the disturbance begins
		return work(rounds)
	}
}
