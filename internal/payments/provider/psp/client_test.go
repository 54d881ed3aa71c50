package psp_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func captureRequest(reference, method string) payments.CaptureRequest {
	return payments.CaptureRequest{Reference: reference, OrderID: "order-" + reference, Amount: 1250, Currency: "EUR",
		PaymentMethod: method}
}

// keyedRequest is captureRequest under an idempotency key.
func keyedRequest(key, reference, method string) payments.CaptureRequest {
	r := captureRequest(reference, method)
	r.Key = key
	return r
}

// captured is the provider's answer to captureRequest("ch1", …).
const captured = `{"id":"cap_1","status":"succeeded","reference":"ch1","order_id":"order-ch1",` +
	`"amount":1250,"currency":"EUR","created_at":"2026-01-02T03:04:05Z"}`

// breakingServer answers the first request and cuts the line in the middle of every later one.
func breakingServer(t *testing.T) (url string, hits *atomic.Int32) {
	t.Helper()
	hits = new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if hits.Add(1) > 1 {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, captured)
	}))
	t.Cleanup(server.Close)
	return server.URL, hits
}

func TestBrokenConnectionIsNotSentAgain(t *testing.T) {
	t.Parallel()
	url, hits := breakingServer(t)
	c := psp.NewClient(url, patience)
	t.Cleanup(c.CloseIdleConnections)
	if _, err := c.Capture(t.Context(), keyedRequest("k", "ch1", "pm_ok")); err != nil {
		t.Fatal(err)
	}
	_, err := c.Capture(t.Context(), keyedRequest("k", "ch1", "pm_ok"))
	if err == nil || errors.Is(err, payments.ErrRefused) {
		t.Errorf("got %v, want an unknown outcome", err)
	}
	if n := hits.Load(); n != 2 {
		t.Errorf("the server was hit %d times by 2 calls", n)
	}
}

// The trap that the client avoids: without it the test above would prove nothing.
func TestPlainClientSendsAgain(t *testing.T) {
	t.Parallel()
	url, hits := breakingServer(t)
	plain := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(plain.CloseIdleConnections)
	for range 2 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Idempotency-Key", "k")
		if resp, err := plain.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}
	if n := hits.Load(); n != 3 {
		t.Errorf("the server was hit %d times, want 3 by 2 calls", n)
	}
}

func TestOnlyTheProvidersOwnRefusalIsFinal(t *testing.T) {
	t.Parallel()
	const coded = `{"type":"about:blank","title":"x","status":400,"detail":"why","code":"because"}`
	for name, tc := range map[string]struct {
		status  int
		body    string
		refused bool
	}{
		"400":             {400, coded, true},
		"404":             {404, coded, true},
		"422":             {422, coded, false},
		"409":             {409, coded, false},
		"404 of a proxy":  {404, "not found", false},
		"500":             {500, coded, false},
		"503":             {503, "", false},
		"201":             {201, captured, false},
		"307":             {307, captured, false},
		"303":             {303, captured, false},
		"cut":             {200, captured[:40], false},
		"two answers":     {200, captured + captured, false},
		"empty object":    {200, `{}`, false},
		"other amount":    {200, strings.Replace(captured, "1250", "1251", 1), false},
		"other currency":  {200, strings.Replace(captured, "EUR", "USD", 1), false},
		"other reference": {200, strings.Replace(captured, `"ch1"`, `"ch2"`, 1), false},
		"other order":     {200, strings.Replace(captured, "order-ch1", "order-ch2", 1), false},
		"other status":    {200, strings.Replace(captured, "succeeded", "pending", 1), false},
		"endless":         {200, captured + strings.Repeat(" ", 2<<20), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var hits atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				hits.Add(1)
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			}))
			defer server.Close()
			c := psp.NewClient(server.URL+"/", patience)
			defer c.CloseIdleConnections()
			_, err := c.Capture(t.Context(), keyedRequest("k", "ch1", "pm_ok"))
			if err == nil || errors.Is(err, payments.ErrRefused) != tc.refused {
				t.Errorf("got %v, want refused: %t", err, tc.refused)
			}
			if tc.refused && !strings.Contains(err.Error(), "because: why") {
				t.Errorf("%v lacks the provider's code and detail", err)
			}
			if n := hits.Load(); n != 1 {
				t.Errorf("%d requests for one call", n)
			}
		})
	}
}

func TestListAnswersAreChecked(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"missing": `{}`,
		"null":    `{"captures":null,"refunds":null}`,
		"others":  `{"captures":[{"id":"cap_1","reference":"ch2"}],"refunds":[{"id":"ref_1","capture_id":"ch2"}]}`,
		"problem": `{"status":500,"code":"internal"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, body)
			}))
			defer server.Close()
			c := psp.NewClient(server.URL, patience)
			defer c.CloseIdleConnections()
			if got, err := c.FindCapture(t.Context(), captureRequest("ch1", "pm_ok")); err == nil {
				t.Errorf("captures: got %+v, want an error", got)
			}
			if got, err := c.FindRefunds(t.Context(), "ch1"); err == nil {
				t.Errorf("refunds: got %+v, want an error", got)
			}
			listed := c.ListCaptures(t.Context(), time.Time{}, func(payments.Capture) error { return nil })
			refunds := c.ListRefunds(t.Context(), time.Time{}, func(payments.ProviderRefund) error { return nil })
			if listed == nil || refunds == nil {
				t.Errorf("lists: %v, %v, want errors", listed, refunds)
			}
		})
	}
}
