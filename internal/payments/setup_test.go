package payments_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/check"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// within bounds every wait for something that must happen, on a machine with other work.
const within = 30 * time.Second

var policy = payments.Policy{ProviderTimeout: 5 * time.Second, Lease: 15 * time.Second, Horizon: 12 * time.Hour}

var errCut = errors.New("the line was cut")

// bundle is a shop of services on a database of its own. The provider is the real simulator on a
// socket; the line to it can be held, cut and garbled. Nothing runs in the background: reconciling
// is called by the test.
type bundle struct {
	url    string
	pool   *pgxpool.Pool
	orders *orders.Service
	shop   *payments.Service
	line   *line
	log    *shoptest.Transcript
	alice  uuid.UUID
	held   []func() // ends what hold keeps
}

// setup returns a shop that sells 1,000,000 COINs at 1.00. When the test ends, the invariants must
// hold.
func setup(t testing.TB) *bundle {
	t.Helper()
	b := &bundle{url: shoptest.DatabaseURL(t), line: newLine(t), log: &shoptest.Transcript{}, alice: uuid.New()}
	b.pool = shoptest.Pool(t, b.url)
	b.orders = orders.New(b.pool, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
	b.shop = b.node(t, b.line)
	b.exec(t, "INSERT INTO customers (id) VALUES ($1)", b.alice)
	coin := orders.Product{SKU: "COIN", Name: "Coin", Description: "A coin.", Currency: "EUR", UnitPrice: 100}
	if err := b.orders.AddProduct(t.Context(), coin, 1); err != nil {
		t.Fatal(err)
	}
	delivery := orders.ReceiveDelivery{CustomerID: b.alice, Key: "opening",
		Lines: []orders.LineRequest{{SKU: "COIN", Quantity: stock}}}
	if _, err := b.orders.Receive(t.Context(), delivery); err != nil {
		t.Fatal(err)
	}
	b.guardSteps(t)
	t.Cleanup(func() { consistent(t, check.Sources{DB: b.pool, ProviderURL: b.line.address}) })
	return b
}

const stock = 1_000_000

// node is another worker of the same shop with a line of its own to the provider.
func (b *bundle) node(t testing.TB, provider payments.Provider) *payments.Service {
	t.Helper()
	return payments.New(b.pool, b.orders, provider, policy, time.Now, nil, b.log.Logger())
}

// exec runs a statement of the test, which may take any step from a state to another.
func (b *bundle) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), b.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "SET LOCAL session_replication_role = replica"); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), sql, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bundle) count(t testing.TB, sql string, args ...any) int {
	t.Helper()
	return count(t.Context(), t, b.pool, sql, args...)
}

func count(ctx context.Context, t testing.TB, pool *pgxpool.Pool, sql string, args ...any) (n int) {
	t.Helper()
	if err := pool.QueryRow(ctx, sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// text returns the single string that the query selects.
func (b *bundle) text(t testing.TB, sql string, args ...any) (s string) {
	t.Helper()
	if err := b.pool.QueryRow(t.Context(), sql, args...).Scan(&s); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return s
}

// place returns a new order of one coin.
func (b *bundle) place(t testing.TB) orders.Order {
	t.Helper()
	answer, err := b.orders.Place(t.Context(), orders.PlaceOrder{CustomerID: b.alice, Key: dedup.Key(uuid.NewString()),
		Email: "alice@example.com", Lines: []orders.LineRequest{{SKU: "COIN", Quantity: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	return b.order(t, answer.ID)
}

func (b *bundle) order(t testing.TB, id uuid.UUID) orders.Order {
	t.Helper()
	order, err := b.orders.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return order
}

func (b *bundle) chargeOf(order orders.Order, key dedup.Key) payments.ChargeOrder {
	return payments.ChargeOrder{CustomerID: b.alice, Key: key, OrderID: order.ID, PaymentMethod: "pm_ok"}
}

// charge asks to pay and expects this status.
func (b *bundle) charge(t testing.TB, order orders.Order, key dedup.Key, status int) payments.Charge {
	t.Helper()
	answer, err := b.shop.Charge(t.Context(), b.chargeOf(order, key))
	if err != nil || answer.Status != status {
		t.Fatalf("charge: %d %s %v, want %d", answer.Status, answer.Body, err, status)
	}
	if status == 402 {
		return decode[struct{ Charge payments.Charge }](t, answer.Body).Charge
	}
	return decode[payments.Charge](t, answer.Body)
}

func (b *bundle) refund(charge payments.Charge, key dedup.Key, amount *int64) payments.RefundCharge {
	return payments.RefundCharge{CustomerID: b.alice, Key: key, ChargeID: charge.ID, Amount: amount}
}

// cancel asks to call the order off under a key.
func (b *bundle) cancel(t testing.TB, order orders.Order, key dedup.Key) (dedup.Answer, error) {
	return b.shop.Cancel(t.Context(), payments.CancelOrder{CustomerID: b.alice, Key: key, OrderID: order.ID})
}

// timePasses ends every lease and pause.
func (b *bundle) timePasses(t testing.TB) {
	t.Helper()
	b.exec(t, `UPDATE charges SET lease_until = now() - interval '1 second' WHERE settled_at IS NULL`)
	b.exec(t, `UPDATE charges SET return_due = now() - interval '1 second' WHERE return_due IS NOT NULL`)
	b.exec(t, `UPDATE refunds SET lease_until = now() - interval '1 second' WHERE settled_at IS NULL`)
	b.exec(t, `UPDATE provider_events SET due_at = now() - interval '1 second' WHERE state = 'received'`)
}

// settleAll lets time pass and reconciles until nothing is open.
func (b *bundle) settleAll(t testing.TB) {
	t.Helper()
	for range 10 {
		if b.count(t, "SELECT "+open) == 0 {
			return
		}
		b.timePasses(t)
		b.reconcile(t)
	}
	t.Fatal("something is never settled")
}

func (b *bundle) reconcile(t testing.TB) {
	t.Helper()
	if _, err := b.shop.ReconcileOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.shop.ApplyOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// available is how many coins can be promised, besides those of all other orders.
func (b *bundle) available(t testing.TB) int {
	t.Helper()
	return b.count(t, "SELECT available FROM stock WHERE sku = 'COIN'")
}

// trail tells an order's life: its status, charges, refunds, stock movements and events.
func (b *bundle) trail(t testing.TB, order orders.Order) string {
	t.Helper()
	return b.text(t, `SELECT concat_ws(' | ', o.status,
		(SELECT string_agg(concat_ws(' ', status, decline_code, amount_refunded), ', ' ORDER BY created_at, id)
			FROM charges WHERE order_id = o.id),
		(SELECT string_agg(concat_ws(' ', r.cause, r.status, r.amount), ', ' ORDER BY r.created_at, r.id)
			FROM refunds r JOIN charges c ON c.id = r.charge_id WHERE c.order_id = o.id),
		(SELECT string_agg(kind, ' ' ORDER BY id) FROM stock_movements WHERE order_id = o.id),
		(SELECT string_agg(replace(type, 'order.', ''), ' ' ORDER BY id) FROM outbox WHERE order_id = o.id))
		FROM orders o WHERE o.id = $1`, order.ID)
}

func (b *bundle) expectTrail(t testing.TB, order orders.Order, want string) {
	t.Helper()
	if got := b.trail(t, order); got != want {
		t.Errorf("the order's trail:\n%s\nwant\n%s", got, want)
	}
}

func decode[T any](t testing.TB, body []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return v
}

// captureEvent is what the provider tells about a capture.
func captureEvent(capture payments.Capture) payments.Event {
	return payments.Event{ID: "evt_" + capture.ID, Type: "capture." + capture.Status,
		Capture: &capture, Payload: payload(capture)}
}

func refundEvent(refund payments.ProviderRefund) payments.Event {
	return payments.Event{ID: "evt_" + refund.ID, Type: "refund." + refund.Status, Refund: &refund,
		Payload: payload(refund)}
}

func payload(data any) []byte {
	body, err := json.Marshal(map[string]any{"data": data})
	if err != nil {
		panic(err)
	}
	return body
}

// line is the way to the provider, with a hand on it.
type line struct {
	address  string
	provider *psp.Client
	asked    struct{ captures, finds, cancels, refunds atomic.Int32 }

	mu          sync.Mutex
	capture     captureFunc
	find        captureFunc
	cancel      captureFunc
	refund      refundFunc
	findRefunds error
}

type (
	captureFunc func(ctx context.Context, ask func() (payments.Capture, error)) (payments.Capture, error)
	refundFunc  func(ctx context.Context, ask func() (payments.ProviderRefund, error)) (payments.ProviderRefund, error)
)

func newLine(t testing.TB) *line {
	t.Helper()
	address := shoptest.Provider(t, shoptest.ProviderOptions{})
	l := &line{address: address, provider: psp.NewClient(address, policy.ProviderTimeout)}
	t.Cleanup(l.provider.CloseIdleConnections)
	return l
}

// again is another line to the same provider.
func (l *line) again() *line { return &line{address: l.address, provider: l.provider} }

// onCapture sets what happens to captures from now on; nil heals the line. Likewise the others.
func (l *line) onCapture(f captureFunc) { l.mu.Lock(); defer l.mu.Unlock(); l.capture = f }
func (l *line) onFind(f captureFunc)    { l.mu.Lock(); defer l.mu.Unlock(); l.find = f }
func (l *line) onCancel(f captureFunc)  { l.mu.Lock(); defer l.mu.Unlock(); l.cancel = f }
func (l *line) onRefund(f refundFunc)   { l.mu.Lock(); defer l.mu.Unlock(); l.refund = f }
func (l *line) onFindRefunds(err error) { l.mu.Lock(); defer l.mu.Unlock(); l.findRefunds = err }

// cut lets nothing through, in either direction.
func (l *line) cut() {
	nothing := func(context.Context, func() (payments.Capture, error)) (payments.Capture, error) {
		return payments.Capture{}, errCut
	}
	l.onCapture(nothing)
	l.onFind(nothing)
	l.onCancel(nothing)
	l.onRefund(func(context.Context, func() (payments.ProviderRefund, error)) (payments.ProviderRefund, error) {
		return payments.ProviderRefund{}, errCut
	})
	l.onFindRefunds(errCut)
}

// hold stops the next capture before it reaches the provider: arrived says that it has come, goOn
// lets it on or, with an error, never reach the provider.
func (l *line) hold() (arrived chan struct{}, goOn chan error) {
	arrived, goOn = make(chan struct{}), make(chan error, 1)
	l.onCapture(func(ctx context.Context, ask func() (payments.Capture, error)) (payments.Capture, error) {
		l.onCapture(nil)
		close(arrived)
		if err := wait(ctx, goOn); err != nil {
			return payments.Capture{}, err
		}
		return ask()
	})
	return arrived, goOn
}

// heal lets everything through.
func (l *line) heal() {
	l.onCapture(nil)
	l.onFind(nil)
	l.onCancel(nil)
	l.onRefund(nil)
	l.onFindRefunds(nil)
}

// loseAnswer moves the money and loses the answer.
func loseAnswer(_ context.Context, ask func() (payments.Capture, error)) (payments.Capture, error) {
	if _, err := ask(); err != nil {
		return payments.Capture{}, err
	}
	return payments.Capture{}, errCut
}

func (l *line) Name() string { return l.provider.Name() }

func (l *line) Capture(ctx context.Context, r payments.CaptureRequest) (payments.Capture, error) {
	l.asked.captures.Add(1)
	return l.hand(ctx, &l.capture, func() (payments.Capture, error) { return l.provider.Capture(ctx, r) })
}

func (l *line) FindCapture(ctx context.Context, r payments.CaptureRequest) (payments.Capture, error) {
	l.asked.finds.Add(1)
	return l.hand(ctx, &l.find, func() (payments.Capture, error) { return l.provider.FindCapture(ctx, r) })
}

func (l *line) CancelCapture(ctx context.Context, r payments.CaptureRequest) (payments.Capture, error) {
	l.asked.cancels.Add(1)
	return l.hand(ctx, &l.cancel, func() (payments.Capture, error) { return l.provider.CancelCapture(ctx, r) })
}

func (l *line) hand(ctx context.Context, on *captureFunc, ask func() (payments.Capture, error)) (payments.Capture,
	error) {
	l.mu.Lock()
	hand := *on
	l.mu.Unlock()
	if hand == nil {
		return ask()
	}
	return hand(ctx, ask)
}

func (l *line) Refund(ctx context.Context, r payments.RefundRequest) (payments.ProviderRefund, error) {
	l.asked.refunds.Add(1)
	ask := func() (payments.ProviderRefund, error) { return l.provider.Refund(ctx, r) }
	l.mu.Lock()
	hand := l.refund
	l.mu.Unlock()
	if hand == nil {
		return ask()
	}
	return hand(ctx, ask)
}

func (l *line) FindRefunds(ctx context.Context, captureID string) ([]payments.ProviderRefund, error) {
	l.mu.Lock()
	err := l.findRefunds
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return l.provider.FindRefunds(ctx, captureID)
}

func (l *line) ListCaptures(ctx context.Context, since time.Time, each func(payments.Capture) error) error {
	return l.provider.ListCaptures(ctx, since, each)
}

func (l *line) ListRefunds(ctx context.Context, since time.Time, each func(payments.ProviderRefund) error) error {
	return l.provider.ListRefunds(ctx, since, each)
}

// captures are what the provider itself holds for a charge, whatever the line does.
func (l *line) captures(t testing.TB, charge uuid.UUID) []payments.Capture {
	t.Helper()
	return l.held(t, "reference="+charge.String())
}

func (l *line) held(t testing.TB, query string) []payments.Capture {
	t.Helper()
	answer, err := http.Get(l.address + "/v1/captures?" + query)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var held struct{ Captures []payments.Capture }
	if err := json.NewDecoder(answer.Body).Decode(&held); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(held.Captures, func(c payments.Capture) bool {
		return c.Status == payments.CaptureCanceled
	})
}
