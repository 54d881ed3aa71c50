package psp_test

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/demo/psp"
	"github.com/onceshop/onceshop/internal/payments"
)

func TestEveryPaymentMethodMovesMoneyOnce(t *testing.T) {
	t.Parallel()
	methods := map[string]struct {
		firstFails bool
		afterFirst int // captures right after the first try
		decline    string
	}{
		"pm_ok":                     {false, 1, ""},
		"pm_declined":               {false, 0, "card_declined"},
		"pm_insufficient_funds":     {false, 0, "insufficient_funds"},
		"pm_timeout_before_capture": {true, 0, ""},
		"pm_timeout_after_capture":  {true, 1, ""},
		"pm_timeout_late_webhook":   {true, 1, ""},
		"pm_error_before_capture":   {true, 0, ""},
		"pm_error_after_capture":    {true, 1, ""},
		"pm_slow":                   {true, 1, ""},
		"pm_webhook_first":          {false, 1, ""},
		"pm_webhook_storm":          {false, 1, ""},
		"pm_refund_refused":         {false, 1, ""},
		"pm_refund_pending":         {false, 1, ""},
		"pm_refund_fails_later":     {false, 1, ""},
		"pm_disputed":               {false, 1, ""},
	}
	listed := append(slices.Collect(maps.Keys(methods)), "pm_requires_action") // TestBuyerDecidesOnce
	slices.Sort(listed)
	unknown := start(t, psp.Config{}).post("/v1/captures", "k", captureBody("ch1", "pm_gold"))
	if want := "is not one of " + strings.Join(listed, ", ") + `"`; !strings.Contains(unknown.body, want) {
		t.Errorf("got %s, want the methods of this test: %s", unknown.body, want)
	}
	for method, want := range methods {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			p := start(t, psp.Config{Slow: time.Hour})
			c := p.client(patience)
			first, err := firstTry(t, p, method)
			if (err != nil) != want.firstFails || errors.Is(err, payments.ErrRefused) {
				t.Fatalf("first try: error %v, want one of unknown outcome: %t", err, want.firstFails)
			}
			if n := p.logged("succeeded"); n != want.afterFirst {
				t.Errorf("%d captures after the first try, want %d", n, want.afterFirst)
			}
			again, err := c.Capture(t.Context(), keyedRequest("k", "ch1", method))
			if err != nil {
				t.Fatalf("second try: %v", err)
			}
			if !want.firstFails && again != first {
				t.Errorf("first %+v, then %+v", first, again)
			}
			succeeded, declined, status := 1, 0, payments.CaptureSucceeded
			if want.decline != "" {
				succeeded, declined, status = 0, 1, payments.CaptureDeclined
			}
			if again.Status != status || again.DeclineCode != want.decline {
				t.Errorf("got %+v, want %s %s", again, status, want.decline)
			}
			if s, d := p.logged("succeeded"), p.logged("declined"); s != succeeded || d != declined {
				t.Errorf("the log has %d captures and %d declines, want %d and %d", s, d, succeeded, declined)
			}
			found, err := c.FindCapture(t.Context(), captureRequest("ch1", method))
			if err != nil || !reflect.DeepEqual(found, again) {
				t.Errorf("found %+v, %v, want %+v", found, err, again)
			}
		})
	}
}

// firstTry captures as a buyer does: of a method that does not answer, the buyer goes away as
// soon as the provider has logged what it did.
func firstTry(t *testing.T, p *provider, method string) (payments.Capture, error) {
	t.Helper()
	c := p.client(time.Hour)
	if !strings.Contains(method, "timeout") && method != "pm_slow" {
		return c.Capture(t.Context(), keyedRequest("k", "ch1", method))
	}
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	var got payments.Capture
	failed := make(chan error, 1)
	go func() {
		var err error
		got, err = c.Capture(ctx, keyedRequest("k", "ch1", method))
		failed <- err
	}()
	eventually(t, "the provider logged the first try", func() bool {
		return p.logLines("capture")+p.logLines("fault") == 1
	})
	leave()
	err := <-failed
	return got, err
}

func TestTimeoutIsUnknown(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	_, err := p.client(50*time.Millisecond).Capture(t.Context(), keyedRequest("k", "ch1", "pm_timeout_before_capture"))
	if err == nil || errors.Is(err, payments.ErrRefused) {
		t.Errorf("got %v, want an unknown outcome", err)
	}
}

func TestSlowAnswersLate(t *testing.T) {
	t.Parallel()
	const slow = 100 * time.Millisecond
	p := start(t, psp.Config{Slow: slow})
	c := p.client(patience)
	began := time.Now()
	captured, err := c.Capture(t.Context(), keyedRequest("k", "ch1", "pm_slow"))
	if err != nil || time.Since(began) < slow {
		t.Errorf("capture: %v after %v, want an answer after %v", err, time.Since(began), slow)
	}
	began = time.Now()
	_, err = c.Refund(t.Context(), payments.RefundRequest{Key: "r", CaptureID: captured.ID, Amount: 1})
	if err != nil || time.Since(began) < slow {
		t.Errorf("refund: %v after %v, want an answer after %v", err, time.Since(began), slow)
	}
}

func TestShutdownCutsHeldRequests(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	c := p.client(time.Hour)
	failed := make(chan error, 1)
	go func() {
		_, err := c.Capture(t.Context(), keyedRequest("k", "ch1", "pm_timeout_after_capture"))
		failed <- err
	}()
	eventually(t, "the money moved", func() bool { return p.logged("succeeded") == 1 })
	p.stop()
	if err := <-failed; err == nil || errors.Is(err, payments.ErrRefused) {
		t.Errorf("got %v, want an unknown outcome", err)
	}
}

func TestPing(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	c := p.client(patience)
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	p.stop()
	if err := c.Ping(t.Context()); err == nil {
		t.Error("a stopped provider answers")
	}
}
