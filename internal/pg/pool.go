// Package pg connects the service to Postgres: the pool, transactions, migrations, and the meaning
// of the database's errors.
package pg

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	pgxuuid "github.com/vgarvardt/pgx-google-uuid/v5"
)

// lookUps are a session's settings for a service that finds all its rows by indexes. Postgres plans
// each statement once, with index scans. Otherwise it plans repeatedly, or keeps a plan that scans
// a table because the table was small at the time. See docs/performance.md, P3, and
// db/migrations/00007_tuning.sql.
var lookUps = map[string]string{
	"plan_cache_mode": "force_generic_plan",
	"enable_seqscan":  "off", "enable_hashjoin": "off", "enable_mergejoin": "off",
	"jit": "off", // it believes that a scan without an alternative is worth a compiler
}

// Open returns a pool for the URL. It does not wait for the server; Ping does.
func Open(ctx context.Context, url string, maxConns int32) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL is not a Postgres address such as "+
			"postgres://user:password@host:5432/shop: %w", err)
	}
	config.MaxConns = maxConns
	config.ConnConfig.ConnectTimeout = 5 * time.Second
	// A session that is idle in a transaction holds locks that buyers wait for. A statement that
	// runs longer than its timeout is a fault.
	params := config.ConnConfig.RuntimeParams
	params["application_name"] = "onceshop"
	params["idle_in_transaction_session_timeout"] = "15s"
	params["statement_timeout"] = "30s"
	maps.Copy(params, lookUps)
	config.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		// pgx alone tries a uuid.UUID as many types before it encodes it as text. For a batch of
		// orders this takes longer than planning its SQL.
		pgxuuid.Register(conn.TypeMap())
		return nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open the database pool: %w", err)
	}
	return pool, nil
}
