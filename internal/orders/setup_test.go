package orders_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// bundle is a shop of one node with the customer Alice.
type bundle struct {
	url   string
	pool  *pgxpool.Pool
	nodes []*pgxpool.Pool // of the other nodes
	shop  *orders.Service
	alice uuid.UUID
}

// setup returns a shop that sells CUP at 2.50, POT at 39.00 and TEA at 0.99, without stock. When
// the test ends, the invariants must hold.
func setup(t testing.TB) *bundle {
	t.Helper()
	b := &bundle{url: shoptest.DatabaseURL(t)}
	b.pool = shoptest.Pool(t, b.url)
	b.shop = orders.New(b.pool, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
	b.alice = b.newCustomer(t)
	for i, p := range []orders.Product{
		{SKU: "CUP", Name: "Cup", Description: "A cup.", Currency: "EUR", UnitPrice: 250},
		{SKU: "POT", Name: "Teapot", Description: "A pot.", Currency: "EUR", UnitPrice: 3900},
		{SKU: "TEA", Name: "Tea", Description: "Leaves.", Currency: "EUR", UnitPrice: 99},
	} {
		if err := b.shop.AddProduct(t.Context(), p, i); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { checkInvariants(t, b.pool) })
	return b
}

// node is another machine of the same shop: a service and a pool of its own, and a clock that is
// ten minutes late.
func (b *bundle) node(t testing.TB) *orders.Service {
	t.Helper()
	late := func() time.Time { return time.Now().Add(-10 * time.Minute) }
	pool := shoptest.Pool(t, b.url)
	b.nodes = append(b.nodes, pool)
	return orders.New(pool, orders.DefaultExpiry, late, slog.New(slog.DiscardHandler))
}

func (b *bundle) newCustomer(t testing.TB) uuid.UUID {
	t.Helper()
	id := uuid.New()
	b.exec(t, "INSERT INTO customers (id) VALUES ($1)", id)
	return id
}

func (b *bundle) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	if _, err := b.pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func (b *bundle) count(t testing.TB, sql string, args ...any) int {
	t.Helper()
	return number(t.Context(), t, b.pool, sql, args...)
}

func number(ctx context.Context, t testing.TB, pool *pgxpool.Pool, sql string, args ...any) (n int) {
	t.Helper()
	if err := pool.QueryRow(ctx, sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// deliver raises stock under a key of its own.
func (b *bundle) deliver(t testing.TB, lines ...orders.LineRequest) {
	t.Helper()
	_, err := b.shop.Receive(t.Context(),
		orders.ReceiveDelivery{CustomerID: b.alice, Key: dedup.Key(uuid.NewString()), Lines: lines})
	if err != nil {
		t.Fatal(err)
	}
}

// delivery is Alice's request under the key.
func (b *bundle) delivery(key dedup.Key, lines ...orders.LineRequest) orders.ReceiveDelivery {
	return orders.ReceiveDelivery{CustomerID: b.alice, Key: key, Lines: lines}
}

// order is Alice's request under the key.
func (b *bundle) order(key dedup.Key, lines ...orders.LineRequest) orders.PlaceOrder {
	return orders.PlaceOrder{CustomerID: b.alice, Key: key, Email: "alice@example.com", Lines: lines}
}

func (b *bundle) place(t testing.TB, c orders.PlaceOrder) dedup.Answer {
	t.Helper()
	answer, err := b.shop.Place(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func (b *bundle) available(t testing.TB, sku string) int {
	t.Helper()
	return b.count(t, "SELECT available FROM stock WHERE sku = $1", sku)
}

func line(sku string, quantity int64) orders.LineRequest {
	return orders.LineRequest{SKU: sku, Quantity: quantity}
}

func decode[T any](t testing.TB, body []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return v
}

// deadlocks is how many Postgres had to break. A session reports its own at the latest when it
// ends.
func (b *bundle) deadlocks(t testing.TB) int {
	t.Helper()
	shoptest.EndSessions(t, append(b.nodes, b.pool)...)
	return b.count(t, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
}

// snapshot is the content of every table: two that are equal say that nothing was written in
// between.
func (b *bundle) snapshot(t testing.TB) map[string]string {
	t.Helper()
	rows, err := b.pool.Query(t.Context(), "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	content := map[string]string{}
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			t.Fatal(err)
		}
		content[table] = ""
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for table := range content {
		var rows string
		sql := fmt.Sprintf("SELECT coalesce(string_agg(t::text, E'\n' ORDER BY t::text), '') FROM %q AS t", table)
		if err := b.pool.QueryRow(t.Context(), sql).Scan(&rows); err != nil {
			t.Fatal(err)
		}
		content[table] = rows
	}
	return content
}

func (b *bundle) unchanged(t testing.TB, before map[string]string) {
	t.Helper()
	for table, rows := range b.snapshot(t) {
		if rows != before[table] {
			t.Errorf("%s was written to:\n%s\nbefore:\n%s", table, rows, before[table])
		}
	}
}

// broken holds statements that count what must never be.
var broken = map[string]string{
	"I1: two orders under one key": `SELECT count(*) - count(DISTINCT (customer_id, idempotency_key)) FROM orders`,
	"I7: stock is negative or not the sum of its movements": `SELECT count(*) FROM stock s WHERE available < 0
		OR available <> (SELECT coalesce(sum(delta), 0) FROM stock_movements m WHERE m.sku = s.sku)`,
	"I7: an order's reservation is not what its lines say": `SELECT count(*)
		FROM (SELECT order_id, sku, sum(quantity) AS units FROM order_lines GROUP BY 1, 2) l
		FULL JOIN (SELECT order_id, sku, sum(quantity) AS units FROM stock_movements WHERE kind = 'reserved'
			GROUP BY 1, 2) m
		USING (order_id, sku) WHERE l.units IS DISTINCT FROM m.units`,
	"I7: what was sold is not what paid orders say": `SELECT count(*)
		FROM (SELECT order_id, sku, sum(quantity) AS units FROM order_lines JOIN orders o ON o.id = order_id
		      WHERE o.status IN ('paid', 'refunded') GROUP BY 1, 2) l
		FULL JOIN (SELECT order_id, sku, sum(quantity) AS units FROM stock_movements WHERE kind = 'sold'
			GROUP BY 1, 2) m
		USING (order_id, sku) WHERE l.units IS DISTINCT FROM m.units`,
	"an order's total is not the sum of its lines": `SELECT count(*) FROM orders o
		WHERE total IS DISTINCT FROM (SELECT sum(quantity * unit_price) FROM order_lines WHERE order_id = o.id)`,
	"I9: an event without its order": `SELECT count(*) FROM outbox x LEFT JOIN orders o ON o.id = x.order_id
		WHERE o.id IS NULL`,
}

// life is every legal change of an order, with the event that reports it. It is written down a
// second time here so that the code cannot vouch for itself.
var life = map[string]string{
	"→placed":       "order.placed",
	"placed→paying": "order.paying",
	"paying→placed": "order.payment_declined",
	"paying→paid":   "order.paid",

	"paid→refunded": "order.refunded", "placed→canceled": "order.canceled", "paying→canceled": "order.canceled",
	"placed→expired": "order.expired", "paying→expired": "order.expired",
}

// checkInvariants runs after the test, when the test's context is over.
func checkInvariants(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, what := range slices.Sorted(maps.Keys(broken)) {
		if n := number(ctx, t, pool, broken[what]); n != 0 {
			t.Errorf("%s: %d", what, n)
		}
	}
	rows, err := pool.Query(ctx, `SELECT o.id, o.status, coalesce(string_agg(x.type || '=' || (x.payload->>'status'),
		' ' ORDER BY x.id), '')
		FROM orders o LEFT JOIN outbox x ON x.order_id = o.id GROUP BY o.id`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id uuid.UUID
		var status, events string
		if err := rows.Scan(&id, &status, &events); err != nil {
			t.Fatal(err)
		}
		at := ""
		for _, event := range strings.Fields(events) {
			name, to, _ := strings.Cut(event, "=")
			if life[at+"→"+to] != name {
				t.Errorf("I13: order %s went from %q to %q by %s", id, at, to, name)
			}
			at = to
		}
		if at != status {
			t.Errorf("I9: order %s is %s, its events end at %q (%s)", id, status, at, events)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}
