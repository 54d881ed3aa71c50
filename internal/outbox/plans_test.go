package outbox

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/outbox/internal/outboxdb"
)

// The statements of the relay look up each row by its id, although the statistics have seen no
// unsent row: the index of these would be read once for each id.
func TestRelayLooksUpItsRows(t *testing.T) {
	t.Parallel()
	b := setup(t)
	conn, err := b.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	run := func(statement string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	run(`INSERT INTO outbox (id, type, order_id, payload, sent_at, stream_seq)
		SELECT gen_random_uuid(), 'order.placed', gen_random_uuid(), '{}', now(), n FROM generate_series(1, 50000) n`)
	run(`VACUUM ANALYZE outbox`)
	b.backlog(t, relayBatch)
	for name, test := range map[string]struct{ statement, args string }{
		"MarkSent":      {outboxdb.MarkSent, "now(), ARRAY[gen_random_uuid()], ARRAY[1]"},
		"FailClaims":    {outboxdb.FailClaims, "now(), ARRAY[gen_random_uuid()]"},
		"ReleaseClaims": {outboxdb.ReleaseClaims, "ARRAY[gen_random_uuid()], now()"},
	} {
		run("PREPARE step AS " + test.statement)
		rows, err := conn.Query(t.Context(), "EXPLAIN EXECUTE step ("+test.args+")", pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if plan := strings.Join(lines, "\n"); !strings.Contains(plan, "Index Cond: (id = ") {
			t.Errorf("%s: the plan is\n%s", name, plan)
		}
		run("DEALLOCATE step")
	}
}
