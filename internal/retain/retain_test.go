package retain

import (
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/check"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const day = 24 * time.Hour

// bench has a database and a service whose clock stands still.
type bench struct {
	*testing.T
	pool     *pgxpool.Pool
	now      time.Time
	service  *Service
	customer uuid.UUID
}

func setup(t *testing.T) *bench {
	b := &bench{T: t, pool: shoptest.DB(t), now: time.Now().Truncate(time.Second), customer: uuid.New()}
	memory := Memory{Events: 90 * day, Receipts: 180 * day, ProviderEvents: 90 * day, StoppedTwins: 90 * day}
	b.service = New(b.pool, memory, func() time.Time { return b.now }, slog.New(slog.NewTextHandler(io.Discard, nil)))
	b.service.slice, b.service.pause = 2, 0
	b.exec(`INSERT INTO customers (id) VALUES ($1)`, b.customer)
	return b
}

func (b *bench) exec(statement string, args ...any) {
	b.Helper()
	if _, err := b.pool.Exec(b.Context(), statement, args...); err != nil {
		b.Fatalf("%s: %v", statement, err)
	}
}

func (b *bench) rows(query string, args ...any) []string {
	b.Helper()
	rows, err := b.pool.Query(b.Context(), query, args...)
	if err != nil {
		b.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		b.Fatal(err)
	}
	return list
}

func (b *bench) ago(days int) time.Time { return b.now.Add(-time.Duration(days) * day) }

// id is one that a node made at the time.
func id(at time.Time) uuid.UUID {
	first, random := pg.FirstID(at), uuid.New()
	copy(first[8:], random[8:])
	return first
}

// order is paid since then, with the key as its name.
func (b *bench) order(key, status string, days int) uuid.UUID {
	b.Helper()
	order := id(b.ago(days))
	b.exec(`INSERT INTO orders (id, customer_id, idempotency_key, fingerprint, answer, email, status, currency, total,
		created_at) VALUES ($1, $2, $3, sha256('x'), '{}', 'a@example.com', $4, 'EUR', 1, $5)`,
		order, b.customer, key, status, b.ago(days))
	return order
}

// event is of the order, sent at once or never.
func (b *bench) event(order uuid.UUID, event, status string, days int, sent bool) {
	b.Helper()
	b.exec(`INSERT INTO outbox (id, type, order_id, payload, created_at, sent_at, stream_seq)
		VALUES ($1, $2, $3, jsonb_build_object('status', $4::text, 'total', 1, 'currency', 'EUR'), $5::timestamptz,
			CASE WHEN $6 THEN $5::timestamptz END, 1)`, id(b.ago(days)), event, order, status, b.ago(days), sent)
}

// paid is an order that was placed and paid that many days ago.
func (b *bench) paid(key string, days int, sent bool) uuid.UUID {
	b.Helper()
	order := b.order(key, "paid", days)
	for event, status := range map[string]string{"order.placed": "placed", "order.paying": "paying"} {
		b.event(order, event, status, days, true)
	}
	b.event(order, "order.paid", "paid", days, sent)
	return order
}

func (b *bench) receipt(order uuid.UUID, column string, days int) {
	b.Helper()
	b.exec(`INSERT INTO receipts (order_id, kind, lease_until, `+column+`) VALUES ($1, 'paid', now(), $2)`, order,
		b.ago(days))
}

func (b *bench) runOnce() {
	b.Helper()
	if err := b.service.RunOnce(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// want expects the names of what is left.
func (b *bench) want(query string, names ...string) {
	b.Helper()
	if got := b.rows(query); !slices.Equal(got, names) {
		b.Errorf("%s\ngot %v, want %v", query, got, names)
	}
}

// violated returns the ids that break an invariant, of the orders that this test makes.
func (b *bench) violated(invariants ...string) (ids []string) {
	b.Helper()
	report, err := check.Run(b.Context(), check.Sources{DB: b.pool})
	if err != nil {
		b.Fatal(err)
	}
	for _, result := range report {
		if slices.Contains(invariants, result.Invariant) {
			for _, found := range result.Violations.First {
				ids = append(ids, found.ID)
			}
		}
	}
	return ids
}

const (
	ordersWithEvents = `SELECT DISTINCT idempotency_key FROM orders o JOIN outbox e ON e.order_id = o.id ORDER BY 1`
	receiptsLeft     = `SELECT idempotency_key FROM orders o JOIN receipts r ON r.order_id = o.id ORDER BY 1`
)

// Old rows go, of those only the ones that have ended, and what is left is no violation.
func TestOldRowsAreDeleted(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, key := range []string{"old 1", "old 2", "old 3"} {
		b.receipt(b.paid(key, 200, true), "sent_at", 181)
	}
	b.receipt(b.paid("dead", 200, true), "dead_at", 181)
	b.receipt(b.paid("sent late", 200, true), "sent_at", 179)
	b.receipt(b.paid("old events", 100, true), "sent_at", 100)
	b.receipt(b.paid("young", 89, true), "sent_at", 89)
	b.paid("unsent", 200, false)
	refunded := b.order("refunded late", "refunded", 300)
	b.event(refunded, "order.paid", "paid", 300, true)
	b.event(refunded, "order.refunded", "refunded", 89, true)
	b.receipt(refunded, "sent_at", 299)
	due := b.order("due", "paid", 200)
	b.exec(`INSERT INTO receipts (order_id, kind, lease_until) VALUES ($1, 'paid', now())`, due)
	for state, days := range map[string]int{"applied": 91, "dismissed": 91, "received": 400, "quarantined": 400} {
		b.exec(`INSERT INTO provider_events (id, type, payload, facts, state, received_at)
			VALUES ($1, 't', '', '{}', $1, $2)`, state, b.ago(days))
	}
	b.exec(`INSERT INTO provider_events (id, type, payload, facts, state, received_at)
		VALUES ('young', 't', '', '{}', 'applied', $1)`, b.ago(89))
	for kind, days := range map[string]int{"a": 91, "b": 92, "c": 1000, "young": 89} {
		b.exec(`INSERT INTO stopped_twins (subject, kind, operation, event_id, event_type, attempt, times, at)
			VALUES (gen_random_uuid(), $1, '', '', '', 0, 1, $2)`, kind, b.ago(days))
	}

	b.runOnce()
	b.want(ordersWithEvents, "refunded late", "unsent", "young")
	b.want(receiptsLeft, "due", "old events", "refunded late", "sent late", "young")
	b.want(`SELECT id FROM provider_events ORDER BY 1`, "quarantined", "received", "young")
	b.want(`SELECT kind FROM stopped_twins ORDER BY 1`, "young")
	b.want(`SELECT count(*)::text FROM orders`, "10")

	b.now = b.now.Add(2 * day)
	b.runOnce()
	b.want(ordersWithEvents, "unsent")
	b.want(receiptsLeft, "due", "old events", "young")
}

// An order without events is a violation only if they cannot have been deleted, and one that lost
// its beginning may go on.
func TestCheckAfterDeletion(t *testing.T) {
	t.Parallel()
	b := setup(t)
	old := b.paid("old", 200, true)
	b.receipt(old, "sent_at", 10)
	b.receipt(b.paid("young", 80, true), "sent_at", 80)
	if got := b.violated("I9", "I10", "I13"); got != nil {
		t.Fatalf("violated before anything is deleted: %v", got)
	}
	b.runOnce()
	b.want(ordersWithEvents, "young")
	if got := b.violated("I9", "I10", "I13"); got != nil {
		t.Errorf("violated after the deletion: %v", got)
	}
	b.exec(`UPDATE orders SET status = 'refunded' WHERE id = $1`, old)
	b.event(old, "order.refunded", "refunded", 0, true)
	if got := b.violated("I9", "I10", "I13"); got != nil {
		t.Errorf("violated by an event that came later: %v", got)
	}
	b.exec(`UPDATE orders SET status = 'paid' WHERE id = $1`, old)
	if got := b.violated("I9"); !slices.Equal(got, []string{old.String()}) {
		t.Errorf("the last event contradicts the order, and violated are %v", got)
	}
	b.exec(`UPDATE orders SET status = 'refunded' WHERE id = $1`, old)
	lost := b.order("lost", "paid", 89)
	if got := b.violated("I9"); !slices.Equal(got, []string{lost.String()}) {
		t.Errorf("a young order has no events, and violated are %v", got)
	}
}

// A memory of zero keeps everything, and a slice that takes too long becomes smaller.
func TestSlices(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.receipt(b.paid("old", 200, true), "sent_at", 190)
	memory := b.service.memory
	b.service.memory = Memory{}
	b.runOnce()
	b.want(ordersWithEvents, "old")

	b.service.memory, b.service.slice = memory, 1000
	b.exec(`CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF (SELECT count(*) FROM gone) > 1 THEN RAISE EXCEPTION USING ERRCODE = '57014'; END IF; RETURN NULL; END $$`)
	b.exec(`CREATE TRIGGER slow AFTER DELETE ON stopped_twins REFERENCING OLD TABLE AS gone
		FOR EACH STATEMENT EXECUTE FUNCTION slow()`)
	b.exec(`INSERT INTO stopped_twins (subject, kind, operation, event_id, event_type, attempt, times, at)
		SELECT gen_random_uuid(), '', '', '', '', 0, 1, $1 FROM generate_series(1, 5)`, b.ago(100))
	b.runOnce()
	b.want(ordersWithEvents)
	b.want(`SELECT count(*)::text FROM stopped_twins`, "0")
}
