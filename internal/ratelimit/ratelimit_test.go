package ratelimit_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/onceshop/onceshop/internal/ratelimit"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newLimiter(t *testing.T, perGuest, perToken int) *ratelimit.Limiter {
	t.Helper()
	l := ratelimit.New(perGuest, perToken)
	t.Cleanup(l.Close)
	return l
}

// passed is how many of n requests got through, all at once.
func passed(t *testing.T, n int, request func(i int) error) (passed int) {
	t.Helper()
	for _, err := range shoptest.Race(n, request) {
		if err == nil {
			passed++
		} else if !errors.Is(err, ratelimit.ErrTooMany) {
			t.Error(err)
		}
	}
	return passed
}

func TestBurstThenRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := ratelimit.New(10, 20)
		defer l.Close()
		l.Accepted("alice")
		guest := func(int) error { return l.Guest("192.0.2.1") }
		alice := func(int) error { return l.Token("192.0.2.1", "alice") }
		for _, step := range []struct {
			after        time.Duration
			guest, alice int
		}{{0, 50, 100}, {0, 0, 0}, {time.Second, 10, 20}, {time.Hour, 50, 100}} {
			time.Sleep(step.after) //nolint:forbidigo // the clock of the bubble
			if got := passed(t, 200, guest); got != step.guest {
				t.Errorf("after %s %d requests of the guest pass, want %d", step.after, got, step.guest)
			}
			if got := passed(t, 200, alice); step.after < time.Hour && got != step.alice {
				t.Errorf("after %s %d requests of alice pass, want %d", step.after, got, step.alice)
			}
		}
	})
}

func TestOneGuestPerNetwork(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, 1, 1)
	for name, addresses := range map[string]func(i int) string{
		"one address":         func(int) string { return "192.0.2.1" },
		"the same, as IPv6":   func(int) string { return "::ffff:192.0.2.2" },
		"one network of IPv6": func(i int) string { return fmt.Sprintf("2001:db8::%x", i+1) },
		"no address":          func(i int) string { return fmt.Sprint("nonsense", i) },
	} {
		if got := passed(t, 50, func(i int) error { return l.Guest(addresses(i)) }); got != 5 {
			t.Errorf("%s: %d pass, want 5", name, got)
		}
	}
	if got := passed(t, 50, func(i int) error { return l.Guest(fmt.Sprintf("198.51.100.%d", i)) }); got != 50 {
		t.Errorf("of 50 guests %d pass", got)
	}
}

// Guessing tokens counts as one guest's, whatever tokens are made up; whose token is good is not
// held back by it.
func TestGuessedTokens(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, 1, 100)
	l.Accepted("alice")
	if got := passed(t, 100, func(i int) error { return l.Token("192.0.2.1", fmt.Sprint("guess", i)) }); got != 5 {
		t.Errorf("%d guesses pass, want 5", got)
	}
	if got := passed(t, 100, func(int) error { return l.Token("192.0.2.1", "alice") }); got != 100 {
		t.Errorf("%d of alice's 100 requests pass", got)
	}
}

func TestNoLimit(t *testing.T) {
	t.Parallel()
	for name, l := range map[string]*ratelimit.Limiter{"none": nil, "zero": newLimiter(t, 0, 0)} {
		l.Accepted("alice")
		if got := passed(t, 1000, func(i int) error {
			return errors.Join(l.Guest("192.0.2.1"), l.Token("192.0.2.1", "alice"), l.Token("192.0.2.1", fmt.Sprint(i)))
		}); got != 1000 {
			t.Errorf("%s: %d of 1000 pass", name, got)
		}
	}
}
