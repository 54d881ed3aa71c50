package app_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// After the stop signal a node is not ready, and serves on until load balancers have noticed. Each
// answer ends its connection.
func TestServesOnAfterTheStopSignal(t *testing.T) {
	t.Parallel()
	url := shoptest.DatabaseURL(t)
	apptest.Seed(t, shoptest.Pool(t, url))
	config := webConfig(t, url)
	config.Demo = true // for its tokens
	delay := 2 * time.Second
	config.DrainDelay = &delay
	a, err := app.New(t.Context(), config, app.OnlyWeb, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	var listeners [2]net.Listener
	for i := range listeners {
		if listeners[i], err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	public := "http://" + listeners[0].Addr().String()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx, listeners[0], listeners[1]) }()
	if status, _, err := ask(t, http.MethodGet, public+"/readyz", ""); err != nil || status != http.StatusOK {
		t.Fatalf("ready: %d, %v", status, err)
	}
	stop()
	shoptest.Eventually(t, time.Minute, "the node is not ready", func() bool {
		status, _, err := ask(t, http.MethodGet, public+"/readyz", "")
		return err == nil && status == http.StatusServiceUnavailable
	})
	noticed, orders := time.Now(), 0
	pace := time.NewTicker(10 * time.Millisecond) // without it a fast machine sells out
	defer pace.Stop()
	for ; time.Since(noticed) < delay/2; orders++ {
		status, closes, err := ask(t, http.MethodPost, public+"/v1/orders",
			apptest.OrderBody("alice@example.com", "MUG-ONCE", 1))
		if err != nil || status != http.StatusCreated {
			t.Fatalf("order %d after the signal: %d, %v", orders, status, err)
		}
		if !closes {
			t.Fatal("the answer does not end its connection")
		}
		<-pace.C
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, _, err := ask(t, http.MethodGet, public+"/readyz", ""); err == nil {
		t.Error("the node serves after its end")
	}
	t.Logf("%d orders in %s after the signal", orders, delay/2)
}

// ask sends a request as Alice, with a new key.
func ask(t *testing.T, method, address, body string) (status int, closes bool, err error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+accounts.DemoAlice)
	request.Header.Set("Idempotency-Key", uuid.NewString())
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, false, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, answer.Close, err
}

// A database that is down hides no other metric.
func TestMetricsWithoutTheDatabase(t *testing.T) {
	t.Parallel()
	config := webConfig(t, "postgres://shop@127.0.0.1:1/shop")
	config.RedisURL, config.BrokerURL = "redis://127.0.0.1:1", "nats://127.0.0.1:1"
	config.SMTPURL = "smtp://127.0.0.1:1"
	var log shoptest.Transcript
	_, ops := startNode(t, config, &log)
	status, metrics := read(t, ops+"/metrics")
	if status != http.StatusOK {
		t.Errorf("metrics: %d", status)
	}
	for _, want := range []string{"go_goroutines ", "onceshop_dependency_up{dependency=\"postgres\"} 0",
		"onceshop_refused_requests_total{"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics miss %s", want)
		}
	}
	if !strings.Contains(log.String(), "the broker's connection failed") {
		t.Error("the log does not show that the broker is away")
	}
}

// Each request counts by its route, and nothing that a client invents becomes a time series.
func TestRequestMetrics(t *testing.T) {
	t.Parallel()
	url := shoptest.DatabaseURL(t)
	apptest.Seed(t, shoptest.Pool(t, url))
	config := webConfig(t, url)
	config.RedisURL, config.BrokerURL = "redis://127.0.0.1:1", "nats://127.0.0.1:1"
	config.SMTPURL = "smtp://127.0.0.1:1"
	config.Demo = true
	var log shoptest.Transcript
	public, ops := startNode(t, config, &log)
	body := apptest.OrderBody("alice@example.com", "MUG-ONCE", 1)
	for _, request := range [][2]string{{http.MethodPost, "/v1/orders"}, {http.MethodPost, "/v1/orders/"},
		{"BREW", "/v1/orders"}, {http.MethodGet, "/no/such/page"}, {http.MethodGet, "/v1/no-such-call"}} {
		if _, _, err := ask(t, request[0], public+request[1], body); err != nil {
			t.Fatal(err)
		}
	}
	_, metrics := read(t, ops+"/metrics")
	for _, want := range []string{
		`onceshop_http_request_duration_seconds_count{method="POST",route="/v1/orders",status="201"}`,
		`onceshop_http_request_duration_seconds_count{method="other",`,
		`onceshop_events_total{type="order.placed"}`,
		`onceshop_database_connections{state="most"} 16`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics miss %s", want)
		}
	}
	for _, invented := range []string{"BREW", "no-such", "no/such"} {
		if strings.Contains(metrics, invented) {
			t.Errorf("%s is a label", invented)
		}
	}
}
