package check

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// No statement compares each row with each other row, neither of the tables nor of a window: among
// millions of orders that would never end.
func TestNoStatementIsQuadratic(t *testing.T) {
	t.Parallel()
	pool := shoptest.DB(t)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context()) //nolint:errcheck // nothing was written
	if err := prepare(t.Context(), tx, true); err != nil {
		t.Fatal(err)
	}
	since := time.Now().Add(-time.Minute)
	args := legalChanges()
	args["since"], args["since_id"], args["asked"] = since, pg.FirstID(since), time.Now()
	new(seen).columns(args)
	changed := make([]uuid.UUID, 10_000)
	for i := range changed {
		changed[i] = uuid.New()
	}
	args["orders"], args["charges"] = changed, changed
	for _, i := range invariants {
		for _, tables := range []string{"", window} {
			for _, statement := range []string{"SELECT " + i.rows, i.violations, i.warnings} {
				if statement == "" || tables != "" && i.whole {
					continue
				}
				rows, err := tx.Query(t.Context(), "EXPLAIN "+tables+"SELECT * FROM ("+statement+") AS found", args)
				if err != nil {
					t.Fatal(err)
				}
				plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
				if err != nil {
					t.Fatalf("%s: %v", i.name, err)
				}
				if text := strings.Join(plan, "\n"); strings.Contains(text, "Nested Loop") {
					t.Errorf("%s joins row by row, in a window: %t\n%s\n%s", i.name, tables != "", statement, text)
				}
			}
		}
	}
}
