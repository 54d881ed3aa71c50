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

	"github.com/google/uuid"

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

	// The mock's PaymentIntent is always the same and never ours.
	if got, err := client.Capture(t.Context(), "charge_1", newRequest(t, "pm_card_visa")); err == nil ||
		errors.Is(err, payments.ErrRefused) {
		t.Errorf("capture: %+v, %v", got, err)
	}
	if _, err := client.FindCaptures(t.Context(), uuid.Must(uuid.NewV7()).String()); err != nil {
		t.Errorf("find captures: %v", err)
	}
	if got, err := client.Refund(t.Context(), "refund_1",
		payments.RefundRequest{CaptureID: "pi_1", Amount: 400}); err != nil || got.Amount != 400 {
		t.Errorf("refund: %+v, %v", got, err)
	}
	_, _ = client.FindRefunds(t.Context(), "pi_1") // the mock lists another's
	if want := []int{200, 200, 200, 200}; !slices.Equal(statuses, want) {
		t.Errorf("stripe-mock answered %v", statuses)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, mock+"/v1/refunds",
		strings.NewReader("amount=400&payment_intent=pi_1&made_up=1"))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+secretKey)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Close = true
	wrong, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = wrong.Body.Close()
	if wrong.StatusCode != http.StatusBadRequest {
		t.Errorf("stripe-mock answers a made-up parameter with %d: it checks nothing", wrong.StatusCode)
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
