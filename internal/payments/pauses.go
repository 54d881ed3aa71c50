package payments

import (
	"math/rand/v2"
	"time"
)

// How long the workers of this package wait before they try again.

const (
	// firstLook is when to ask about an outcome that did not arrive.
	firstLook = 2 * time.Second
	// longestPause lets a charge heal well within a minute of the provider.
	longestPause = 15 * time.Second
	// actionPause is how often to ask whether the buyer has acted. An event is usually faster.
	actionPause = 5 * time.Second
	// longestPendingPause is how often to ask for a refund that the provider works on for days.
	longestPendingPause = time.Hour
)

// pauseAfter doubles with every attempt. The jitter keeps nodes from asking together.
func pauseAfter(attempt int32) time.Duration {
	pause := min(firstLook<<min(attempt, 8), longestPause)
	return pause/2 + rand.N(pause/2) //nolint:gosec // jitter needs no secrecy
}

// pendingPause is how long to wait for a refund that the provider works on.
func pendingPause(attempt int32) time.Duration {
	return min(firstLook<<min(attempt, 16), longestPendingPause)
}

const (
	// MaxReturnTries is how often the shop tries to return what it owes before it asks an operator.
	MaxReturnTries     = 8
	firstReturnPause   = 10 * time.Second
	longestReturnPause = time.Hour
)

// returnPause is how long after a failed try the next one begins, 0 if there is none.
func returnPause(tries int32) time.Duration {
	if tries >= MaxReturnTries {
		return 0
	}
	return min(firstReturnPause<<tries, longestReturnPause)
}

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }
