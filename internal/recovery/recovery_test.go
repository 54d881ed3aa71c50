package recovery_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/outbox/broker"
	natsbroker "github.com/onceshop/onceshop/internal/outbox/broker/nats"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
	"github.com/onceshop/onceshop/internal/recovery"
	"github.com/onceshop/onceshop/internal/redisclient"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestMain(m *testing.M) { shoptest.Main(m) }

var quiet = slog.New(slog.DiscardHandler)

// shop is a shop of services, in which nothing runs in the background.
type shop struct {
	recovery.Services
	t        *testing.T
	url      string
	provider string
	redis    string
	js       jetstream.JetStream
	broker   broker.Broker
}

func open(t *testing.T) *shop {
	t.Helper()
	s := &shop{t: t, url: shoptest.DatabaseURL(t), redis: shoptest.Miniredis(t),
		provider: shoptest.Provider(t, shoptest.ProviderOptions{})}
	conn, err := nats.Connect(shoptest.NATS(t, t.TempDir()).URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if s.js, err = jetstream.New(conn); err != nil {
		t.Fatal(err)
	}
	s.connect()
	apptest.Seed(t, s.Pool)
	return s
}

// connect opens the services on the database as it is now.
func (s *shop) connect() {
	t := s.t
	t.Helper()
	s.Pool = shoptest.Pool(t, s.url)
	s.Accounts = accounts.New(s.Pool, true)
	s.Orders = orders.New(s.Pool, orders.DefaultExpiry, time.Now, quiet)
	client := psp.NewClient(s.provider, 5*time.Second)
	t.Cleanup(client.CloseIdleConnections)
	s.Payments = payments.New(s.Pool, s.Orders, client, payments.Policy{ProviderTimeout: 5 * time.Second,
		Lease: 15 * time.Second, Horizon: time.Hour}, time.Now, nil, quiet)
	redis, err := redisclient.Open(s.redis)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = redis.Close() })
	s.Notify = notify.New(s.Pool, s.Orders, dedup.NewClaims(redis, "test:"), nil, notify.Shop{}, nil, quiet)
	s.broker = natsbroker.New(s.js, natsbroker.Settings{Window: time.Minute, MaxAge: time.Hour}, quiet)
	if err := s.broker.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.History = s.broker.History()
}

// backUp copies the database. The function restores it, and returns the time of the copy.
func (s *shop) backUp() (restore func() (since time.Time)) {
	s.t.Helper()
	fromCopy, at := shoptest.Backup(s.t, s.url), time.Now()
	s.connect()
	return func() time.Time {
		s.t.Helper()
		fromCopy()
		s.connect()
		return at
	}
}

func (s *shop) count(query string) (n int64) {
	s.t.Helper()
	if err := s.Pool.QueryRow(s.t.Context(), query).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// alice is a customer whom every restore knows.
func (s *shop) alice() uuid.UUID {
	s.t.Helper()
	customer, err := s.Accounts.Authenticate(s.t.Context(), accounts.DemoAlice)
	if err != nil {
		s.t.Fatal(err)
	}
	return customer.ID
}

// visit places an order, and pays for it unless the method is "".
func (s *shop) visit(customer uuid.UUID, key dedup.Key, method string, quantity int64) (id uuid.UUID) {
	s.t.Helper()
	placed, err := s.Orders.Place(s.t.Context(), orders.PlaceOrder{CustomerID: customer, Key: key,
		Email: "buyer@example.com", Lines: []orders.LineRequest{{SKU: "MUG-ONCE", Quantity: quantity}}})
	if err != nil {
		s.t.Fatal(err)
	}
	if method != "" {
		_, err = s.Payments.Charge(s.t.Context(), payments.ChargeOrder{CustomerID: customer, Key: key,
			OrderID: placed.ID, PaymentMethod: method})
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return placed.ID
}

func (s *shop) cancel(customer uuid.UUID, key dedup.Key, order uuid.UUID) {
	s.t.Helper()
	if _, err := s.Payments.Cancel(s.t.Context(), payments.CancelOrder{CustomerID: customer, Key: key,
		OrderID: order}); err != nil {
		s.t.Fatal(err)
	}
}

// tables are the rows that clients and the books know, as text.
func (s *shop) tables() (rows []string) {
	s.t.Helper()
	for _, query := range []string{
		`SELECT concat_ws(' ', id, customer_id, idempotency_key, encode(fingerprint, 'hex'), encode(answer, 'escape'),
			status, total, created_at) FROM orders ORDER BY id`,
		`SELECT concat_ws(' ', id, order_id, idempotency_key, encode(fingerprint, 'hex'), payment_method, status,
			provider_id, decline_code, answer_status, encode(answer, 'escape'), owes, created_at)
			FROM charges ORDER BY id`,
		`SELECT concat_ws(' ', order_id, idempotency_key, encode(answer, 'escape')) FROM cancellations ORDER BY 1`,
		`SELECT concat_ws(' ', order_id, sku, kind, quantity) FROM stock_movements
			WHERE order_id IS NOT NULL ORDER BY 1`,
		`SELECT concat_ws(' ', id, type, order_id, payload, created_at, stream_seq) FROM outbox ORDER BY id`,
		`SELECT concat_ws(' ', sku, available) FROM stock ORDER BY sku`,
	} {
		found, err := s.Pool.Query(s.t.Context(), query)
		if err != nil {
			s.t.Fatal(err)
		}
		text, err := pgx.CollectRows(found, pgx.RowTo[string])
		if err != nil {
			s.t.Fatal(err)
		}
		rows = append(rows, text...)
	}
	return rows
}

func (s *shop) relay() {
	s.t.Helper()
	if err := outbox.NewRelay(s.Pool, s.broker, time.Minute, nil, quiet).Drain(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// The tables come back row by row, for a guest whom the restore lost, too.
func TestTablesComeBack(t *testing.T) {
	t.Parallel()
	s := open(t)
	customer := s.alice()
	before := s.visit(customer, "before", "", 1)
	s.relay()
	restore := s.backUp()
	guest := uuid.New()
	if err := s.Accounts.EnsureGuest(t.Context(), guest); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Payments.Charge(t.Context(), payments.ChargeOrder{CustomerID: customer, Key: "later",
		OrderID: before, PaymentMethod: "pm_ok"}); err != nil {
		t.Fatal(err)
	}
	s.visit(guest, "guest", "pm_ok", 2)
	s.visit(customer, "declined", "pm_declined", 1)
	s.cancel(customer, "cancel", s.visit(customer, "canceled", "", 3))
	s.cancel(customer, "cancel, paying", s.visit(customer, "declined late", "pm_requires_action", 1))
	if settled, err := s.Payments.ReconcileOnce(t.Context()); err != nil || settled != 1 {
		t.Fatalf("%d charges were settled late, %v", settled, err)
	}
	s.relay()
	want := s.tables()

	since := restore()
	if _, lost, err := outbox.Lost(t.Context(), s.Pool, s.broker); err != nil || !lost {
		t.Errorf("the restore is not noticed: %t, %v", lost, err)
	}
	if lost, err := s.Payments.Lost(t.Context()); err != nil || lost {
		t.Errorf("without a charge there is nothing to compare: %t, %v", lost, err)
	}
	for round, rebuilt := range []int{14, 0} {
		report, err := recovery.Run(t.Context(), s.Services, since, func(recovery.Report) {})
		if err != nil || report.Rebuilt != rebuilt || len(report.Lost) > 0 || report.Money.Booked > 0 {
			t.Errorf("round %d: %+v, %v", round, report, err)
		}
		if due := s.count("SELECT count(*) FROM receipts WHERE sent_at IS NULL AND dead_at IS NULL"); due != 2 {
			t.Errorf("round %d: %d receipts are due, want 2", round, due)
		}
	}
	got := s.tables()
	if !slices.Equal(got, want) {
		t.Errorf("the tables are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if _, lost, err := outbox.Lost(t.Context(), s.Pool, s.broker); err != nil || lost {
		t.Errorf("after the recovery: %t, %v", lost, err)
	}
}

// What cannot be made again is reported, with everything that follows from it, and the rest is
// rebuilt. Money without an order waits for an operator.
func TestLost(t *testing.T) {
	t.Parallel()
	s := open(t)
	customer := s.alice()
	restore := s.backUp()
	s.visit(customer, "whole", "pm_ok", 1)
	old := s.visit(customer, "old", "pm_ok", 1)
	const forget = "UPDATE outbox SET payload = payload - 'origin' WHERE order_id = $1 AND type = 'order.placed'"
	if _, err := s.Pool.Exec(t.Context(), forget, old); err != nil {
		t.Fatal(err)
	}
	s.relay()
	s.visit(customer, "not published", "pm_ok", 1)

	since := restore()
	report, err := recovery.Run(t.Context(), s.Services, since, func(recovery.Report) {})
	if err != nil || report.Rebuilt != 3 || len(report.Lost) != 3 ||
		!errors.Is(report.Lost[0].Reason, orders.ErrNoOrigin) || report.Lost[0].Event.OrderID != old {
		t.Errorf("%+v, %v", report, err)
	}
	if report.Money != (payments.Compared{Moved: 3, Booked: 2, Open: 2}) {
		t.Errorf("money %+v", report.Money)
	}
	answer, err := s.Orders.Place(t.Context(), orders.PlaceOrder{CustomerID: customer, Key: "whole",
		Email: "buyer@example.com", Lines: []orders.LineRequest{{SKU: "MUG-ONCE", Quantity: 1}}})
	if err != nil || !answer.Replayed || answer.Status != http.StatusCreated {
		t.Errorf("the rebuilt order's key: %+v, %v", answer, err)
	}
}

// Units that the restored stock lacks are booked in.
func TestStockOfARestore(t *testing.T) {
	t.Parallel()
	s := open(t)
	customer := s.alice()
	restore := s.backUp()
	s.visit(customer, "order", "", 7)
	s.relay()
	since := restore()
	left := func() int64 { return s.count("SELECT available FROM stock WHERE sku = 'MUG-ONCE'") }
	for n := 0; left() > 3; n++ { // others have bought it before
		s.visit(customer, dedup.Key(fmt.Sprint("earlier-", n)), "", min(left()-3, 100))
	}
	if report, err := recovery.Run(t.Context(), s.Services, since, func(recovery.Report) {}); err != nil ||
		report.Orders != 1 {
		t.Errorf("%+v, %v", report, err)
	}
	if left() != 0 {
		t.Errorf("%d units are available", left())
	}
}
