package stripe_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// Stripe's own mock knows every path and parameter of the API and nothing of how it behaves: it
// says whether our requests have the right shape.
func TestRequestsHaveTheShapeOfTheAPI(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var statuses []int
	mock := startMock(t, func(status int) {
		mu.Lock()
		defer mu.Unlock()
		statuses = append(statuses, status)
	})
	client := open(t, mock)
	shoptest.Eventually(t, 20*time.Second, "stripe-mock answers", func() bool {
		return client.Ping(t.Context()) == nil
	})
	mu.Lock()
	statuses = nil
	mu.Unlock()

	// The mock's PaymentIntent is always the same and never ours, so a capture ends after its first
	// call, and a known one after the look.
	r := newRequest(t, "pm_card_visa")
	for range 2 {
		for name, ask := range asks {
			if got, err := ask(t, client, r); err == nil || errors.Is(err, payments.ErrRefused) {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
		}
		r.ID = "pi_1"
	}
	// The mock's refund has no metadata, and those it lists are another's.
	if got, err := client.Refund(t.Context(), refundRequest); err == nil || errors.Is(err, payments.ErrRefused) {
		t.Errorf("refund: %+v, %v", got, err)
	}
	_, _ = client.FindRefunds(t.Context(), "pi_1")
	send := func(path, form string) int {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, mock+path, strings.NewReader(form))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+secretKey)
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Close = true
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		return answer.StatusCode
	}
	send("/v1/payment_intents/pi_1/confirm", "return_url=https%3A%2F%2Fshop.test%2F")
	send("/v1/payment_intents/pi_1/cancel", "")
	mu.Lock()
	if len(statuses) < 10 || slices.ContainsFunc(statuses, func(s int) bool { return s != http.StatusOK }) {
		t.Errorf("stripe-mock answered %v", statuses)
	}
	mu.Unlock()
	if status := send("/v1/refunds", "amount=400&payment_intent=pi_1&made_up=1"); status != http.StatusBadRequest {
		t.Errorf("stripe-mock answers a made-up parameter with %d: it checks nothing", status)
	}
}

// startMock runs stripe-mock, which the tools module names, on a socket of its own, and returns the
// address of a proxy to it that notes every status.
func startMock(t *testing.T, note func(status int)) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "tool", "-modfile=../../../../tools/go.mod", "-n", "stripe-mock")
	path, err := command.Output()
	if err != nil {
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			t.Logf("%s", failed.Stderr)
		}
		shoptest.Missing(t, "stripe-mock cannot be built; once, with the module proxy in reach: go tool "+
			"-modfile=tools/go.mod stripe-mock -version")
	}
	//nolint:usetesting // a socket's path must be short, and t.TempDir's is long
	dir, err := os.MkdirTemp("", "stripe-mock-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	server := exec.CommandContext(t.Context(), strings.TrimSpace(string(path)), "-http-unix", socket)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "stripe-mock"})
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	proxy.Transport = transport
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	proxy.ModifyResponse = func(r *http.Response) error {
		note(r.StatusCode)
		return nil
	}
	front := httptest.NewServer(proxy)
	t.Cleanup(front.Close)
	return front.URL
}
