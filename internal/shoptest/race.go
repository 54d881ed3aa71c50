package shoptest

import (
	"sync"
	"testing"
	"time"
)

// Race calls run in n goroutines that start at the same moment. It returns their results in order.
func Race[T any](n int, run func(i int) T) []T {
	results := make([]T, n)
	gate := make(chan struct{})
	var ready, finished sync.WaitGroup
	ready.Add(n)
	for i := range n {
		finished.Go(func() {
			ready.Done()
			<-gate
			results[i] = run(i)
		})
	}
	ready.Wait()
	close(gate)
	finished.Wait()
	return results
}

// Eventually waits until the condition holds. It fails the test if it does not hold within the
// time. It looks every ten milliseconds, and less often if a look takes long, to leave the machine
// to what the test waits for.
func Eventually(t testing.TB, within time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(within)
	for {
		begin := time.Now()
		if holds() {
			return
		}
		pause := min(max(4*time.Since(begin), 10*time.Millisecond), 100*time.Millisecond)
		select {
		case <-deadline:
			t.Fatalf("not within %s: %s", within, what)
		case <-time.After(pause):
		}
	}
}
