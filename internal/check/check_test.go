package check_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/smtp"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/onceshop/onceshop/db/migrations"
	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/check"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const within = 30 * time.Second

// history is a shop in which everything has happened, each to another order.
type history struct {
	*apptest.Shop
	alice, admin *apitest.Client

	// Ids of orders. Those that were refunded have their charge's id, those that were paid have an
	// accepted receipt.
	placed, paid, declined, canceled, returned, refunded, partly, expired string
	partlyCharge                                                          string
}

func makeHistory(t *testing.T) *history {
	t.Helper()
	shop := apptest.Start(t, 1, func(c *app.Config) { c.ProviderTimeout = time.Second })
	h := &history{Shop: shop, alice: shop.Alice(t), admin: shop.Admin(t)}
	h.admin.Post(t.Context(), "/v1/deliveries", "delivery",
		`{"lines":[{"sku":"LAST-ONE","quantity":3},{"sku":"LAST-ONE","quantity":2}]}`)
	h.placed = h.order(t, "placed")
	h.paid = h.order(t, "paid")
	h.pay(t, h.paid, "pm_insufficient_funds", http.StatusPaymentRequired)
	h.pay(t, h.paid, "pm_ok", http.StatusCreated)
	h.declined = h.order(t, "declined")
	h.pay(t, h.declined, "pm_declined", http.StatusPaymentRequired)
	h.canceled = h.order(t, "canceled")
	h.cancel(t, h.canceled)
	h.returned = h.order(t, "returned")
	h.pay(t, h.returned, "pm_webhook_storm", http.StatusCreated)
	h.cancel(t, h.returned)
	h.refunded = h.order(t, "refunded")
	h.refund(t, h.pay(t, h.refunded, "pm_webhook_first", http.StatusCreated), `{}`)
	h.partly = h.order(t, "partly")
	h.partlyCharge = h.pay(t, h.partly, "pm_ok", http.StatusCreated)
	h.refund(t, h.partlyCharge, `{"amount":100,"reason":"a chip"}`)
	h.pay(t, h.order(t, "unknown"), "pm_error_before_capture", http.StatusAccepted)
	h.expired = h.order(t, "expired")
	h.Exec(t, "UPDATE orders SET expires_at = now() - interval '1 day' WHERE id = $1", h.expired)
	if _, err := orders.New(h.Pool, orders.DefaultExpiry, time.Now,
		slog.New(slog.DiscardHandler)).ExpireOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.awaitQuiet(t)
	return h
}

func (h *history) awaitQuiet(t *testing.T) {
	t.Helper()
	shoptest.Eventually(t, within, "everything is settled, sent and told", func() bool {
		return h.Count(t, `SELECT (SELECT count(*) FROM charges
			WHERE status IN ('pending', 'unknown')) + (SELECT count(*) FROM refunds WHERE status <> 'succeeded')
			+ (SELECT count(*) FROM outbox WHERE sent_at IS NULL)
			+ abs((SELECT count(*) FROM charges WHERE status = 'succeeded') - (SELECT count(*) FROM receipts
				WHERE sent_at IS NOT NULL))
			+ abs((SELECT count(*) FROM provider_events) - (SELECT count(*) FROM charges) - (SELECT count(*)
				FROM refunds))`) == 0
	})
}

// order places an order of two mugs in two lines, and a pin.
func (h *history) order(t *testing.T, name string) (id string) {
	t.Helper()
	var order orders.Order
	body := fmt.Sprintf(`{"email":"%s@example.com","lines":[{"sku":"MUG-ONCE","quantity":1},`+
		`{"sku":"PIN-KEY","quantity":1},{"sku":"MUG-ONCE","quantity":1}]}`, name)
	h.alice.Post(t.Context(), "/v1/orders", "order-"+name, body).JSON(t, &order)
	return order.ID.String()
}

// pay returns the charge's id if there is one.
func (h *history) pay(t *testing.T, order, method string, want int) (charge string) {
	t.Helper()
	answer := h.alice.Post(t.Context(), "/v1/orders/"+order+"/charges", "pay-"+order+method,
		`{"payment_method":"`+method+`"}`)
	if answer.Status != want {
		t.Fatalf("pay with %s: %d %s", method, answer.Status, answer.Body)
	}
	var body struct{ ID string }
	answer.JSON(t, &body)
	return body.ID
}

func (h *history) cancel(t *testing.T, order string) {
	t.Helper()
	if answer := h.alice.Post(t.Context(), "/v1/orders/"+order+"/cancel", "cancel-"+order,
		nil); answer.Status != http.StatusOK {
		t.Fatalf("cancel: %d %s", answer.Status, answer.Body)
	}
}

func (h *history) refund(t *testing.T, charge, body string) {
	t.Helper()
	if answer := h.admin.Post(t.Context(), "/v1/charges/"+charge+"/refunds", "refund-"+charge,
		body); answer.Status != http.StatusCreated {
		t.Fatalf("refund: %d %s", answer.Status, answer.Body)
	}
}

func (h *history) sources() check.Sources {
	return check.Sources{DB: h.Pool, ProviderURL: h.Config.PSPURL, MailboxURL: h.Mailbox}
}

func (h *history) run(t *testing.T) check.Report {
	t.Helper()
	report, err := check.Run(t.Context(), h.sources())
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// outcome counts what stands out, as "I5 provider" or "I11 mailbox warning".
func outcome(report check.Report) map[string]int64 {
	found := map[string]int64{}
	for _, r := range report {
		name := r.Invariant + " " + string(r.Source)
		if r.Violations.Count > 0 {
			found[name] = r.Violations.Count
		}
		if r.Warnings.Count > 0 {
			found[name+" warning"] = r.Warnings.Count
		}
	}
	return found
}

func expect(t *testing.T, report check.Report, want map[string]int64) {
	t.Helper()
	if diff := cmp.Diff(want, outcome(report)); diff != "" {
		t.Errorf("(-want +got)\n%s%+v", diff, report.Violated())
	}
}

func TestWholeShop(t *testing.T) {
	t.Parallel()
	h := makeHistory(t)
	report := h.run(t)
	expect(t, report, map[string]int64{})
	for _, r := range report {
		if r.Rows == 0 || r.NotChecked != "" {
			t.Errorf("%s by %s looked at %d rows, %s", r.Invariant, r.Source, r.Rows, r.NotChecked)
		}
	}
	lookWithoutWitnesses(t, h)
	fired := map[string]bool{}
	breakData(t, h, fired)
	foolWitnesses(t, h, fired)
	for _, r := range report {
		if name := r.Invariant + " " + string(r.Source); !fired[name] {
			t.Errorf("%s has never fired: is it checked?", name)
		}
	}
}

// A fork can delete 00007_tuning.sql and the planner switches: an order is placed and every
// statement of the check runs.
func TestWithoutTuning(t *testing.T) {
	t.Parallel()
	config := shoptest.DB(t).Config()
	for _, name := range []string{"plan_cache_mode", "enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"} {
		delete(config.ConnConfig.RuntimeParams, name)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if _, err := pool.Exec(t.Context(), "DROP SCHEMA public CASCADE; CREATE SCHEMA public"); err != nil {
		t.Fatal(err)
	}
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS,
		goose.WithExcludeNames([]string{"00007_tuning.sql"}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.Up(t.Context()); err != nil {
		t.Fatal(err)
	}

	buyer := uuid.New()
	if _, err := pool.Exec(t.Context(), "INSERT INTO customers (id) VALUES ($1)", buyer); err != nil {
		t.Fatal(err)
	}
	shop := orders.New(pool, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
	cup := orders.Product{SKU: "CUP", Name: "Cup", Description: "A cup.", Currency: "EUR", UnitPrice: 250}
	if err := shop.AddProduct(t.Context(), cup, 1); err != nil {
		t.Fatal(err)
	}
	lines := []orders.LineRequest{{SKU: "CUP", Quantity: 2}}
	delivery := orders.ReceiveDelivery{CustomerID: buyer, Key: "k", Lines: lines}
	if _, err := shop.Receive(t.Context(), delivery); err != nil {
		t.Fatal(err)
	}
	if _, err := shop.Place(t.Context(), orders.PlaceOrder{CustomerID: buyer, Key: "k", Email: "a@example.com",
		Lines: lines}); err != nil {
		t.Fatal(err)
	}

	report, err := check.Run(t.Context(), check.Sources{DB: pool})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, report, map[string]int64{})
	placed := slices.ContainsFunc(report, func(r check.Result) bool { return r.Invariant == "I1" && r.Rows > 0 })
	if !placed {
		t.Errorf("no order was seen: %+v", report)
	}
}

// breakData breaks one promise at a time, in a transaction that is rolled back.
// outsideWindows are no order's faults.
var outsideWindows = []string{"more on the shelf than came", "sold more than there is", "a line of no order",
	"a movement of no stock"}

func breakData(t *testing.T, h *history, fired map[string]bool) {
	t.Helper()
	for _, c := range []struct{ name, breaks, want string }{
		{"two orders under a key", `ALTER TABLE orders DROP CONSTRAINT orders_one_per_key;
			UPDATE orders SET idempotency_key = 'order-placed' WHERE id = '$canceled'`, "I1 database"},
		{"two charges under a key", `ALTER TABLE charges DROP CONSTRAINT charges_one_per_key;
			UPDATE charges SET idempotency_key = 'k'`, "I1 database"},
		{"two refunds under a key", `ALTER TABLE refunds DROP CONSTRAINT refunds_one_per_key;
			UPDATE refunds SET idempotency_key = 'k' WHERE customer_id IS NOT NULL`, "I1 database"},
		{"another order's answer", `UPDATE orders SET answer = (SELECT answer FROM orders WHERE id = '$placed')
			WHERE id = '$paid'`, "I3 database"},
		{"an answer that is not text", `UPDATE orders SET answer = '\xff00'::bytea WHERE id = '$paid'`, "I3 database"},
		{"an answer with another total",
			`UPDATE orders SET answer = convert_to(replace(convert_from(answer, 'UTF8'), '"total":', '"total":1'),
				'UTF8') WHERE id = '$placed'`, "I3 database"},
		{"a charge's answer", `UPDATE charges SET answer = '{}' WHERE order_id = '$declined'`, "I3 database"},
		{"a 201 for a declined charge", `UPDATE charges SET answer_status = 201 WHERE order_id = '$declined'`,
			"I3 database"},
		{"a refund without its answer", `UPDATE refunds SET answer = NULL, answer_status = NULL
			WHERE charge_id = '$partlyCharge'`, "I3 database"},
		{"a cancellation's answer", `UPDATE cancellations SET answer = '' WHERE order_id = '$returned'`, "I3 database"},
		{"a delivery's answer", `UPDATE deliveries SET answer = ''`, "I3 database"},

		{"captured twice", `DROP INDEX charges_one_live_per_order;
			INSERT INTO charges (id, order_id, customer_id, idempotency_key, fingerprint, payment_method, status,
				amount, currency, provider, provider_id, lease_until, answer_status, answer, created_at, settled_at)
			SELECT i.id, c.order_id, c.customer_id, 'other', c.fingerprint, c.payment_method, c.status, c.amount,
				c.currency, c.provider, 'cap_2', c.lease_until, 201,
				convert_to(replace(convert_from(c.answer, 'UTF8'), c.id::text, i.id::text), 'UTF8'),
				c.created_at, now() + interval '1 h'
			FROM charges c, gen_random_uuid() AS i (id)
			WHERE c.order_id = '$paid' AND c.status = 'succeeded'`, "I5 database"},
		{"charged more than the total", `UPDATE charges SET amount = amount + 1,
			answer = convert_to(replace(convert_from(answer, 'UTF8'), format('"amount":%s,', amount),
				format('"amount":%s,', amount + 1)), 'UTF8') WHERE order_id = '$declined'`, "I5 database"},
		{"a charge without an order", `ALTER TABLE charges DROP CONSTRAINT charges_order_id_fkey;
			UPDATE charges SET order_id = gen_random_uuid() WHERE order_id = '$declined'`, "I5 database"},

		{"unpaid and being paid", `UPDATE provider_events SET state = 'dismissed';
			UPDATE charges SET status = 'pending', answer = NULL, answer_status = NULL, settled_at = NULL
				WHERE order_id = '$declined'`, "I6 database"},
		{"paid without a capture", `UPDATE provider_events SET state = 'dismissed';
			UPDATE charges SET status = 'declined', answer_status = 402 WHERE order_id = '$paid'`,
			"I6 database, I9 database"},
		{"refunded and owed, which is forgotten", `UPDATE provider_events SET state = 'dismissed';
			UPDATE charges SET amount_refunded = 0 WHERE order_id = '$returned';
			DELETE FROM refunds WHERE charge_id = (SELECT id FROM charges
				WHERE order_id = '$returned')`, "I6 database"},
		{"paid and wholly given back", `UPDATE orders SET status = 'paid' WHERE id = '$refunded';
			DELETE FROM outbox WHERE order_id = '$refunded' AND type = 'order.refunded'`, "I6 database"},
		{"placed and captured", `UPDATE provider_events SET state = 'dismissed';
			UPDATE charges SET order_id = '$declined' WHERE order_id = '$paid' AND status = 'succeeded'`,
			"I5 provider, I6 database"},
		{"unknown for too long", `UPDATE provider_events SET state = 'dismissed';
			UPDATE refunds SET status = 'unknown', answer = NULL, answer_status = NULL,
				settled_at = NULL, provider_id = NULL, started_at = now() - interval '61 s'
				WHERE charge_id = '$partlyCharge';
			UPDATE charges SET refund_reserved = amount_refunded, amount_refunded = 0 WHERE id = '$partlyCharge'`,
			"I6 database"},

		{"more on the shelf than came", `UPDATE stock SET available = available + 1 WHERE sku = 'MUG-ONCE'`,
			"I7 database"},
		{"sold more than there is", `ALTER TABLE stock DROP CONSTRAINT stock_available_check;
			UPDATE stock SET available = -1 WHERE sku = 'LAST-ONE'`, "I7 database"},
		{"sold and released", `DROP INDEX stock_movements_one_end; INSERT INTO stock_movements (sku, kind, quantity,
			order_id) VALUES ('MUG-ONCE', 'released', 2, '$paid');
			UPDATE stock SET available = available + 2 WHERE sku = 'MUG-ONCE'`, "I7 database"},
		{"never released", `DELETE FROM stock_movements WHERE order_id = '$expired' AND kind = 'released'
			AND sku = 'PIN-KEY';
			UPDATE stock SET available = available - 1 WHERE sku = 'PIN-KEY'`, "I7 database"},
		{"returned without being called off", `INSERT INTO stock_movements (sku, kind, quantity, order_id)
			VALUES ('MUG-ONCE', 'returned', 2, '$refunded');
			UPDATE stock SET available = available + 2 WHERE sku = 'MUG-ONCE'`, "I7 database"},
		{"reserved less than ordered", `UPDATE stock_movements SET quantity = 1 WHERE order_id = '$placed'
			AND sku = 'MUG-ONCE';
			UPDATE stock SET available = available + 1 WHERE sku = 'MUG-ONCE'`, "I7 database"},
		{"reserved in two halves", `ALTER TABLE stock_movements DROP CONSTRAINT stock_movements_one_per_order_kind;
			UPDATE stock_movements SET quantity = 1 WHERE order_id = '$placed' AND sku = 'MUG-ONCE';
			INSERT INTO stock_movements (sku, kind, quantity, order_id)
				VALUES ('MUG-ONCE', 'reserved', 1, '$placed')`, "I7 database"},
		{"a movement without a line", `INSERT INTO stock_movements (sku, kind, quantity, order_id)
			VALUES ('NOTE-LOG', 'reserved', 1, '$placed');
			UPDATE stock SET available = available - 1 WHERE sku = 'NOTE-LOG'`, "I7 database"},

		{"a line of no order", `ALTER TABLE order_lines DROP CONSTRAINT IF EXISTS order_lines_order_id_fkey;
			INSERT INTO order_lines (order_id, line, sku, name, quantity, unit_price)
			VALUES (gen_random_uuid(), 1, 'MUG-ONCE', 'Mug', 1, 1)`, "I7 database"},
		{"a line of no product", `ALTER TABLE stock DROP CONSTRAINT stock_sku_fkey;
			ALTER TABLE order_lines DROP CONSTRAINT IF EXISTS order_lines_sku_fkey;
			DELETE FROM products WHERE sku = 'MUG-ONCE'`, "I7 database"},
		{"a movement of no stock", `ALTER TABLE stock_movements
				DROP CONSTRAINT IF EXISTS stock_movements_sku_fkey;
			INSERT INTO stock_movements (sku, kind, quantity, supplier, delivery_id, line)
			VALUES ('NONE', 'delivered', 1, 's', 'd', 99)`, "I7 database"},

		{"gave back more than was captured", `ALTER TABLE charges DROP CONSTRAINT charges_refunds_within_capture;
			UPDATE charges SET amount_refunded = amount + 1 WHERE id = '$partlyCharge';
			INSERT INTO refunds (id, charge_id, cause, status, amount, currency, provider_id, lease_until, created_at,
				settled_at)
			SELECT $new, id, 'outside', 'succeeded', amount - 99, currency, 'ref_more', now(), now(),
				now() + interval '1 h' FROM charges WHERE id = '$partlyCharge'`, "I6 database, I8 database"},
		{"a forgotten refund", `UPDATE charges SET amount_refunded = amount_refunded + 1 WHERE id = '$partlyCharge'`,
			"I8 database"},
		{"a refund in another currency",
			`UPDATE refunds SET currency = 'JPY', settled_at = now() + interval '1 h'
				WHERE charge_id = '$partlyCharge'`,
			"I8 database"},
		{"a capture nobody made", `UPDATE provider_events SET state = 'dismissed' WHERE type = 'capture.succeeded';
			UPDATE charges SET provider_id = 'cap_none' WHERE order_id = '$paid'
				AND status = 'succeeded'`, "I8 provider"},
		{"a refund nobody made", `INSERT INTO refunds (id, charge_id, cause, status, amount, currency, provider_id,
			lease_until, answer_status, answer, created_at, settled_at)
			SELECT i.id, c.id, 'late', 'succeeded', 1, currency, 'ref_none', now(), 201,
				convert_to(format('"id":"%s" "amount":1,', i.id), 'UTF8'), now(), '2020-01-01'
			FROM charges c, gen_random_uuid() AS i (id) WHERE c.id = '$partlyCharge';
			UPDATE charges SET amount_refunded = amount_refunded + 1 WHERE id = '$partlyCharge'`, "I8 provider"},

		{"a change without its event", `DELETE FROM outbox WHERE order_id = '$paid' AND type = 'order.paid'`,
			"I9 database"},
		{"a decline without its event", `UPDATE outbox SET payload = payload - 'origin'
			WHERE order_id = '$declined' AND type = 'order.payment_declined'`, "I9 database"},
		{"a late decline of an order that goes on", `INSERT INTO outbox (id, type, order_id, payload, sent_at)
			SELECT $new, 'payment.declined_late', id, jsonb_build_object('status', status, 'total', total), now()
			FROM orders WHERE id = '$placed'`, "I9 database"},
		{"an event without its order", `INSERT INTO outbox (id, type, order_id, payload)
			VALUES ($new, 'order.placed', gen_random_uuid(), '{"status":"placed"}')`, "I9 database"},
		{"an event of another total", `UPDATE outbox SET payload = payload || '{"total":1}'
			WHERE order_id = '$placed'`, "I9 database"},

		{"an event that nobody sends", `UPDATE outbox SET sent_at = NULL, created_at = now() - interval '61 s',
			claimed_until = 'infinity' WHERE order_id = '$placed'`, "I10 database"},
		{"a receipt that nobody sends", `UPDATE outbox SET created_at = now() - interval '61 s'
			WHERE order_id = '$paid';
			UPDATE receipts SET sent_at = NULL WHERE order_id = '$paid'`, "I10 database"},
		{"a receipt that became a dead letter", `UPDATE outbox SET created_at = now() - interval '61 s'
			WHERE order_id = '$paid';
			UPDATE receipts SET sent_at = NULL, failures = 24, dead_at = now() WHERE order_id = '$paid'`,
			"I10 database"},

		{"a receipt that never arrived",
			`INSERT INTO receipts (order_id, kind, lease_until, sent_at) VALUES ('$placed', 'paid', now(), now())`,
			"I11 mailbox"},

		{"an event without its effect", `UPDATE provider_events
			SET facts = convert_to(replace(convert_from(facts, 'UTF8'), '"id":"cap_', '"id":"cap_other_'), 'UTF8')
			WHERE type = 'capture.succeeded' AND position('$paid' IN convert_from(facts, 'UTF8')) > 0`, "I12 database"},
		{"a success against a decline",
			`UPDATE provider_events
			SET facts = convert_to(replace(convert_from(facts, 'UTF8'), '"declined"', '"succeeded"'), 'UTF8')
			WHERE type = 'capture.declined' AND position('$declined' IN convert_from(facts, 'UTF8')) > 0`,
			"I12 database"},
		{"a refund of nobody", `INSERT INTO provider_events (id, type, payload, facts, state)
			VALUES ('e', 'refund.succeeded', '', '{"refund":{"id":"ref_none","status":"succeeded"}}', 'applied')`,
			"I12 database"},
		{"a dispute of nothing", `INSERT INTO provider_events (id, type, payload, facts, state)
			VALUES ('e', 'dispute.opened', '', '{"dispute":{"id":"dp_none"}}', 'applied')`, "I12 database"},
		{"an event that is never applied", `INSERT INTO provider_events (id, type, payload, facts, state, due_at)
			VALUES ('e', 'dispute.opened', '', '{}', 'received', now() - interval '61 s')`, "I12 database"},
		{"a quarantined event", `INSERT INTO provider_events (id, type, payload, facts, state)
			VALUES ('e', 'capture.succeeded', '', '{}', 'quarantined')`, "I12 database warning"},

		{"a step back", `INSERT INTO outbox (id, type, order_id, payload, sent_at)
			SELECT $new, 'order.payment_declined', id, jsonb_build_object('status', 'placed', 'total',
			total, 'currency', currency), now()
			FROM orders WHERE id = '$paid'`, "I13 database"},
		{"paid twice", `INSERT INTO outbox (id, type, order_id, payload, sent_at)
			SELECT $new, 'order.paid', id, jsonb_build_object('status', 'paid', 'total', total,
			'currency', currency), now()
			FROM orders WHERE id = '$paid'`, "I13 database"},
		{"an event that lies about the step",
			`UPDATE outbox SET payload = payload || '{"status":"paid"}' WHERE order_id = '$placed'`, "I13 database"},
		{"an unknown step", `INSERT INTO outbox (id, type, order_id, payload, sent_at)
			VALUES ($new, 'order.lost', '$paid', '{}', now())`, "I13 database"},
	} {
		for _, since := range []time.Duration{0, 24 * time.Hour} {
			report := h.broken(t, h.name(c.breaks), 0, since)
			var found []string
			for name := range outcome(report) {
				found = append(found, name)
				fired[name] = true
			}
			slices.Sort(found)
			want := c.want
			if since > 0 && slices.Contains(outsideWindows, c.name) {
				want = ""
			}
			if got := strings.Join(found, ", "); got != want {
				t.Errorf("%s, since %s: found %q, want %q\n%+v", c.name, since, got, want, report.Violated())
			}
		}
	}
	// The recipient's server wants it later, and the row holds the time.
	if found := outcome(h.broken(t, h.name(`UPDATE outbox SET created_at = now() - interval '61 s'
		WHERE order_id = '$paid'; UPDATE receipts SET sent_at = NULL, failures = 3, due_at = now() + interval '40 s'
		WHERE order_id = '$paid'`), 0, 0)); found["I10 database"] != 0 {
		t.Errorf("a receipt that is put off: found %v", found)
	}
}

// broken is what the check finds, later by the time given, after a statement that is undone again.
func (h *history) broken(t *testing.T, statement string, later, since time.Duration) check.Report {
	t.Helper()
	tx, err := h.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context()) //nolint:errcheck // the end of the test data
	if _, err := tx.Exec(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	sources := h.sources()
	sources.Since = since
	return check.RunTx(t, tx, sources, later)
}

// newID is a random id that is newer than each window. Of all random ids, one in 150 is older.
const newID = "('f' || substr(gen_random_uuid()::text, 2))::uuid"

// name puts the ids of the history, and new ones, into a statement.
func (h *history) name(statement string) string {
	return strings.NewReplacer("$new", newID, "$placed", h.placed, "$partlyCharge", h.partlyCharge, "$paid", h.paid,
		"$declined", h.declined, "$canceled", h.canceled, "$returned", h.returned, "$refunded", h.refunded, "$partly",
		h.partly, "$expired", h.expired).Replace(statement)
}

// foolWitnesses lets the witnesses see what should not have happened. The check runs as if some
// minutes later, so that nothing is young.
func foolWitnesses(t *testing.T, h *history, fired map[string]bool) {
	t.Helper()
	look := func() map[string]int64 { return outcome(h.broken(t, "", 2*time.Minute, 0)) }
	for _, c := range []struct{ name, breaks, want string }{
		{"captured, and declined here", `UPDATE charges SET status = 'declined', answer_status = 402
			WHERE order_id = '$paid'`, "I6 provider"},
		{"given back, and not booked", `DELETE FROM refunds WHERE charge_id = '$partlyCharge'`, "I8 provider"},
	} {
		if outcome(h.broken(t, h.name(c.breaks), 2*time.Minute, 0))[c.want] == 0 {
			t.Errorf("%s: not found", c.name)
		}
		fired[c.want] = true
	}
	provider := psp.NewClient(h.Config.PSPURL, 5*time.Second)
	defer provider.CloseIdleConnections()
	paid, declined := h.Captures(t, h.paid)[1], h.Captures(t, h.declined)[0]
	// capture takes money behind the shop's back. Its event is quarantined.
	capture := func(reference, order string, amount int64) func() {
		return func() {
			before := h.Count(t, "SELECT count(*) FROM provider_events WHERE state <> 'received'")
			if _, err := provider.Capture(t.Context(),
				payments.CaptureRequest{Key: uuid.NewString(), Reference: reference, OrderID: order, Amount: amount,
					Currency: "EUR", PaymentMethod: "pm_ok"}); err != nil {
				t.Fatal(err)
			}
			shoptest.Eventually(t, within, "the event is dealt with", func() bool {
				return h.Count(t, "SELECT count(*) FROM provider_events WHERE state <> 'received'") > before
			})
		}
	}
	nobody := "00000000-0000-4000-8000-000000000000"
	for _, c := range []struct {
		name  string
		plant func()
		want  map[string]int64
	}{
		{"captured twice", capture(paid.Reference, h.paid, paid.Amount),
			map[string]int64{"I5 provider": 2, "I12 database warning": 1}},
		{"captured for no order", capture(nobody, nobody, 5),
			map[string]int64{"I5 provider": 1, "I12 database warning": 1}},
		{"captured after a decline", func() {
			capture(declined.Reference, h.declined, declined.Amount)()
			shoptest.Eventually(t, within, "the money goes back", func() bool {
				return h.Count(t, "SELECT count(*) FROM charges WHERE owes = 'late' AND amount_refunded = amount") == 1
			})
		}, map[string]int64{}},
		{"captured too much, and twice", capture(declined.Reference, h.declined, declined.Amount+1),
			map[string]int64{"I5 provider": 2, "I12 database warning": 1}},
		{"given back unasked", func() {
			if _, err := provider.Refund(t.Context(),
				payments.RefundRequest{Key: uuid.NewString(), CaptureID: paid.ID, Amount: 5}); err != nil {
				t.Fatal(err)
			}
			shoptest.Eventually(t, within, "it is booked", func() bool {
				return h.Count(t, "SELECT count(*) FROM refunds WHERE cause = 'outside' AND status = 'succeeded'") == 1
			})
		}, map[string]int64{}},
		{"a lost mail", func() { h.deleteMail(t, h.partly) }, map[string]int64{"I11 mailbox": 1}},
		{"a mail twice", func() { h.mail(t, "receipt."+h.paid, "paid@example.com") },
			map[string]int64{"I11 mailbox warning": 1}},
		{"a mail to somebody else", func() { h.mail(t, "receipt."+h.refunded, "eve@example.com") },
			map[string]int64{"I11 mailbox": 1, "I11 mailbox warning": 1}},
		{"a mail for an unpaid order", func() {
			h.mail(t, "receipt."+h.placed, "placed@example.com")
		}, map[string]int64{"I11 mailbox": 1}},
		{"a mail for no order", func() {
			h.mail(t, "receipt."+nobody, "nobody@example.com")
		}, map[string]int64{"I11 mailbox": 1}},
		{"another mail", func() { h.mail(t, "newsletter.1", "paid@example.com") }, map[string]int64{}},
	} {
		before := look()
		c.plant()
		found := look()
		for name := range found {
			if found[name] -= before[name]; found[name] == 0 {
				delete(found, name)
				continue
			}
			fired[name] = true
		}
		if diff := cmp.Diff(c.want, found); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.name, diff)
		}
	}
}

func (h *history) mail(t *testing.T, id, to string) {
	t.Helper()
	server, err := url.Parse(h.Config.SMTPURL)
	if err != nil {
		t.Fatal(err)
	}
	message := fmt.Sprintf("From: shop@example.com\r\nTo: %s\r\nMessage-ID: <%s@localhost>\r\nSubject: "+
		"twin\r\n\r\ntext\r\n", to, id)
	if err := smtp.SendMail(server.Host, nil, "shop@example.com", []string{to}, []byte(message)); err != nil {
		t.Fatal(err)
	}
}

// deleteMail deletes the receipt of an order from the mailbox.
func (h *history) deleteMail(t *testing.T, order string) {
	t.Helper()
	answer := h.mailbox(t, http.MethodGet, "/api/v1/search?query=message-id:"+order, "")
	var found struct{ Messages []struct{ ID string } }
	answer.JSON(t, &found)
	if len(found.Messages) != 1 {
		t.Fatalf("mails of order %s: %s", order, answer.Body)
	}
	h.mailbox(t, http.MethodDelete, "/api/v1/messages", `{"IDs":["`+found.Messages[0].ID+`"]}`)
}

func (h *history) mailbox(t *testing.T, method, path, body string) apitest.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, h.Mailbox+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %v", method, path, answer.Status, err)
	}
	return apitest.Response{Status: answer.StatusCode, Body: text}
}

func lookWithoutWitnesses(t *testing.T, h *history) {
	t.Helper()
	report, err := check.Run(t.Context(), check.Sources{DB: h.Pool})
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	if err := report.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{"not checked: PSP_URL is missing": 3,
		"not checked: SHOP_MAILBOX_ADDR is missing": 1, " ok\n": 11} {
		if got := strings.Count(table.String(), text); got != want {
			t.Errorf("%q stands %d times in\n%s", text, got, table.String())
		}
	}
	report, err = check.Run(t.Context(), check.Sources{DB: h.Pool, ProviderURL: h.Mailbox, MailboxURL: h.Mailbox})
	if err == nil || !strings.Contains(err.Error(), "PSP_URL") || len(report) == 0 {
		t.Errorf("the provider's address is wrong: %v, %d results", err, len(report))
	}
	for _, r := range report {
		if want := r.Source == check.Provider; (r.NotChecked != "") != want {
			t.Errorf("%s by %s: %q", r.Invariant, r.Source, r.NotChecked)
		}
	}
}

// A check between any two statements of a busy shop finds nothing.
func TestBusyShop(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	shop := apptest.Start(t, 2, func(c *app.Config) { c.ProviderTimeout = 300 * time.Millisecond })
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var buyers sync.WaitGroup
	for n := range 6 {
		buyers.Go(func() { keepBuying(ctx, t, shop, n) })
	}
	busy := func() bool {
		return shop.Count(t, "SELECT count(*) FROM charges WHERE status = 'succeeded'") >= 20 &&
			shop.Count(t, "SELECT count(*) FROM refunds") >= 5
	}
	for n := 0; n < 40 || n < 400 && !busy(); n++ {
		// Every other window begins half a second ago, in the midst of what is going on.
		since := time.Duration(n%2) * (500*time.Millisecond - check.ClockSkew)
		report, err := check.Run(t.Context(), check.Sources{DB: shop.Pool, ProviderURL: shop.Config.PSPURL,
			MailboxURL: shop.Mailbox, Since: since})
		if err != nil {
			t.Error(err)
			break
		}
		if violated := report.Violated(); len(violated) > 0 {
			t.Errorf("cried wolf: %+v", violated)
			break
		}
	}
	stop()
	buyers.Wait()
	t.Logf("%d orders, %d captured", shop.Count(t, "SELECT count(*) FROM orders"),
		shop.Count(t, "SELECT count(*) FROM charges WHERE status = 'succeeded'"))
	if !busy() {
		t.Error("the shop was not busy: this test proves nothing")
	}
}

// keepBuying orders, pays in every way, gives back and calls off until ctx ends.
func keepBuying(ctx context.Context, t *testing.T, shop *apptest.Shop, n int) {
	t.Helper()
	client, admin := shop.Client(t, n%2, "demo-alice"), shop.Client(t, (n+1)%2, "demo-admin")
	methods := []string{"pm_ok", "pm_declined", "pm_ok", "pm_error_after_capture", "pm_webhook_storm",
		"pm_webhook_first", "pm_timeout_after_capture", "pm_error_before_capture"}
	post := func(c *apitest.Client, path, body string) (id string) {
		answer, err := c.Try(ctx, http.MethodPost, path, uuid.NewString(), body)
		if err != nil || answer.Status >= http.StatusBadRequest {
			return ""
		}
		var made struct{ ID string }
		answer.JSON(t, &made)
		return made.ID
	}
	for i := n; ctx.Err() == nil; i++ {
		order := post(client, "/v1/orders", apptest.OrderBody(fmt.Sprintf("buyer%d@example.com", n), "PIN-KEY", 1+i%3))
		charge := post(client, "/v1/orders/"+order+"/charges", `{"payment_method":"`+methods[i%len(methods)]+`"}`)
		switch {
		case i%4 == 0:
			post(client, "/v1/orders/"+order+"/cancel", "")
		case i%4 == 1 && charge != "":
			post(admin, "/v1/charges/"+charge+"/refunds", `{"amount":1}`)
			post(admin, "/v1/charges/"+charge+"/refunds", `{}`)
		}
	}
}
