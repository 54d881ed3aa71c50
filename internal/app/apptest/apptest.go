// Package apptest runs the whole shop for a test: real nodes, a database of its own, and its own
// Redis, NATS, payment provider and mailbox behind real sockets.
package apptest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/notify"
	natsbroker "github.com/onceshop/onceshop/internal/outbox/broker/nats"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// Shop is a running shop with the demo's customers, products and stock.
type Shop struct {
	Config app.Config
	Pool   *pgxpool.Pool
	// Nodes are the base URLs, all on one database.
	Nodes []string
	// Mailbox is the base URL of the mail sink's API.
	Mailbox string
	// PSPLog is the provider's own append-only record of captures and refunds.
	PSPLog string
	// Ops are the nodes' addresses for operators.
	Ops []string
	// Log is what the nodes have logged.
	Log *shoptest.Transcript
}

// WebhookSecret is what the provider of every test shop signs with.
const WebhookSecret = "whsec_c2VjcmV0IGZvciB0ZXN0cw=="

// Start runs a shop with this many nodes until the test ends. Change may adapt the settings before
// the nodes start; the provider runs by then and sends its webhooks to the first node.
func Start(t testing.TB, nodes int, change ...func(*app.Config)) *Shop {
	t.Helper()
	return start(t, nodes, app.Everything, change)
}

// StartWeb is Start for nodes without workers. See StartWorker.
func StartWeb(t testing.TB, nodes int, change ...func(*app.Config)) *Shop {
	t.Helper()
	return start(t, nodes, app.OnlyWeb, change)
}

func start(t testing.TB, nodes int, role app.Role, change []func(*app.Config)) *Shop {
	t.Helper()
	config, err := app.ConfigFrom([]string{"SHOP_SECRET=a-secret-for-tests-32-bytes-long!",
		"PSP_WEBHOOK_SECRET=" + WebhookSecret, "DATABASE_URL=" + shoptest.DatabaseURL(t)})
	if err != nil {
		t.Fatal(err)
	}
	config.Demo = true
	s := &Shop{Config: config, Log: &shoptest.Transcript{}}
	s.Pool = shoptest.Pool(t, s.Config.DatabaseURL)
	listeners := make([]net.Listener, nodes)
	for n := range listeners {
		listeners[n] = loopback(t)
		s.Nodes = append(s.Nodes, "http://"+listeners[n].Addr().String())
	}
	s.Config.PublicURL = s.Nodes[0]
	s.startServers(t)
	for _, f := range change {
		f(&s.Config)
	}
	if pool := shoptest.Pool(t, s.Config.DatabaseURL); pg.Cell(pool) != "" {
		s.Pool = pool
		if _, err := pg.Migrate(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
	}
	Seed(t, s.Pool)
	for _, listener := range listeners {
		s.startNode(t, role, listener)
	}
	return s
}

func (s *Shop) startServers(t testing.TB) {
	t.Helper()
	dir := t.TempDir()
	s.Config.RedisURL = shoptest.Miniredis(t)
	s.Config.BrokerURL = shoptest.NATS(t, filepath.Join(dir, "nats")).URL()
	s.PSPLog = filepath.Join(dir, "provider.jsonl")
	s.Config.PSPURL = shoptest.Provider(t, shoptest.ProviderOptions{
		Log: s.PSPLog, WebhookURL: s.Nodes[0] + app.WebhookPath, WebhookSecret: WebhookSecret,
	})
	s.Config.SMTPURL, s.Mailbox = shoptest.Mailbox(t)
}

// StartWorker runs one more node, which has the workers only.
func (s *Shop) StartWorker(t testing.TB) {
	t.Helper()
	s.startNode(t, app.OnlyWorker, nil)
}

func (s *Shop) startNode(t testing.TB, role app.Role, web net.Listener) {
	t.Helper()
	log := slog.New(slog.NewJSONHandler(io.MultiWriter(s.Log, testOutput(t)), nil))
	a, err := app.New(t.Context(), s.Config, role, log)
	if err != nil {
		t.Fatal(err)
	}
	ops := loopback(t)
	s.Ops = append(s.Ops, "http://"+ops.Addr().String())
	background(t, func(ctx context.Context, ready func()) error {
		defer a.Close()
		ready()
		return a.Run(ctx, web, ops)
	})
}

// Client talks to a node as the owner of the token and checks every answer against the OpenAPI
// document.
func (s *Shop) Client(t testing.TB, node int, token string) *apitest.Client {
	return apitest.NewClient(t, s.Nodes[node], token)
}

// Alice is a customer, on the first node.
func (s *Shop) Alice(t testing.TB) *apitest.Client { return s.Client(t, 0, accounts.DemoAlice) }

// Bob is another customer.
func (s *Shop) Bob(t testing.TB) *apitest.Client { return s.Client(t, 0, accounts.DemoBob) }

// Admin may raise stock.
func (s *Shop) Admin(t testing.TB) *apitest.Client { return s.Client(t, 0, accounts.DemoAdmin) }

// Captures are what the provider's API says it took for an order.
func (s *Shop) Captures(t testing.TB, orderID string) []payments.Capture {
	t.Helper()
	var answer struct {
		Captures []payments.Capture `json:"captures"`
	}
	getJSON(t, s.Config.PSPURL+"/v1/captures?order_id="+url.QueryEscape(orderID), &answer)
	return answer.Captures
}

// Refunds are what the provider's API says it gave back of a capture.
func (s *Shop) Refunds(t testing.TB, captureID string) []payments.ProviderRefund {
	t.Helper()
	var answer struct {
		Refunds []payments.ProviderRefund `json:"refunds"`
	}
	getJSON(t, s.Config.PSPURL+"/v1/refunds?capture_id="+url.QueryEscape(captureID), &answer)
	return answer.Refunds
}

// Mails are the ids of the messages that arrived for an address.
func (s *Shop) Mails(t testing.TB, address string) []string {
	t.Helper()
	var answer struct {
		Messages []struct{ MessageID string }
	}
	getJSON(t, s.Mailbox+"/api/v1/search?limit=1000&query="+url.QueryEscape("to:"+address), &answer)
	ids := make([]string, len(answer.Messages))
	for i, m := range answer.Messages {
		ids[i] = m.MessageID
	}
	return ids
}

// Count returns the single number that the query selects.
func (s *Shop) Count(t testing.TB, query string, args ...any) int64 {
	t.Helper()
	var n int64
	if err := s.Pool.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// Exec runs a statement, to set up what time or a crash would leave behind.
func (s *Shop) Exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	if _, err := s.Pool.Exec(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// Pending is how many events the receipts' consumer has not acknowledged.
func (s *Shop) Pending(t testing.TB) int64 {
	t.Helper()
	settings := natsbroker.Settings{Prefix: natsbroker.PrefixOf(pg.Cell(s.Pool))}
	broker, err := natsbroker.Connect(s.Config.BrokerURL, settings, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	pending, known, err := broker.Lag(t.Context(), notify.ConsumerName)
	if err != nil || !known {
		t.Fatalf("the lag is not known: %v", err)
	}
	return pending
}

// Log writes what servers log into the test's output when SHOP_TEST_LOG is set.
func Log(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(testOutput(t), nil)) }

func testOutput(t testing.TB) io.Writer {
	if os.Getenv("SHOP_TEST_LOG") != "" {
		return t.Output()
	}
	return io.Discard
}

// background runs a server until the test ends and returns when it is ready.
func background(t testing.TB, serve func(ctx context.Context, ready func()) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- serve(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func loopback(t testing.TB) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

func getJSON(t testing.TB, address string, into any) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s %v", address, answer.Status, err)
	}
	apitest.Response{Status: answer.StatusCode, Body: body}.JSON(t, into)
}

// OrderBody is an order of one product as a request body.
func OrderBody(email, sku string, quantity int) string {
	return fmt.Sprintf(`{"email":%q,"lines":[{"sku":%q,"quantity":%d}]}`, email, sku, quantity)
}
