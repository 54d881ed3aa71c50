package orders_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// Lists of one customer or product step down their index, even if the statistics have seen only
// another: the primary key would lead through all rows of the other.
func TestListsOfOneStayOnTheirIndex(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	pool := shoptest.DB(t)
	busy, other := uuid.New(), uuid.New()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	run := func(statement string, args ...any) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), statement, args...); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	run(`INSERT INTO customers (id) VALUES ($1), ($2)`, busy, other)
	run(`INSERT INTO products VALUES ('BUSY', '', '', 'EUR', 1, 1), ('QUIET', '', '', 'EUR', 1, 2)`)
	run(`INSERT INTO orders (id, customer_id, idempotency_key, fingerprint, answer, email, status, currency,
			total, created_at)
		SELECT gen_random_uuid(), $1, n::text, sha256('x'), '{}', 'a@example.com', 'expired', 'EUR', 1, now()
		FROM generate_series(1, 50000) n`, busy)
	run(`INSERT INTO stock_movements (sku, kind, quantity, supplier, delivery_id, line)
		SELECT 'BUSY', 'delivered', 1, 's', 'd', n FROM generate_series(1, 50000) n`)
	run(`ANALYZE orders`)
	run(`ANALYZE stock_movements`)

	for _, test := range []struct{ statement, args, index string }{
		{ordersdb.ListOrders, "'" + other.String() + "', 50, NULL", "orders_of_customer"},
		{ordersdb.PlacedLately, "'" + other.String() + "', 'k', now(), '{}'", "orders_of_customer"},
		{ordersdb.ListMovements, "'QUIET', 50, NULL", "stock_movements_of_sku"},
	} {
		run("PREPARE list AS " + test.statement)
		rows, err := conn.Query(t.Context(), "EXPLAIN EXECUTE list ("+test.args+")", pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		plan := strings.Join(lines, "\n")
		if !strings.Contains(plan, "using "+test.index+" on") || strings.Contains(plan, "orders_pkey") ||
			strings.Contains(plan, "stock_movements_pkey") {
			t.Errorf("the plan is\n%s\nwant one with %s", plan, test.index)
		}
		run("DEALLOCATE list")
	}
}
