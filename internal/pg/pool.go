// Package pg is the one place that knows how this service talks to Postgres: the pool,
// transactions, migrations, and what an error from the database means.
package pg

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Open returns a pool for the URL. It does not wait for the server; Ping does.
func Open(ctx context.Context, url string, maxConns int32) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL is not a Postgres address such as postgres://user:password@host:5432/shop: %w", err)
	}
	config.MaxConns = maxConns
	config.ConnConfig.ConnectTimeout = 5 * time.Second
	// A session that waits for its client in the middle of a transaction holds locks that
	// buyers queue for; a statement longer than this is a fault, not work.
	params := config.ConnConfig.RuntimeParams
	params["application_name"] = "onceshop"
	params["idle_in_transaction_session_timeout"] = "15s"
	params["statement_timeout"] = "30s"
	// All that a node asks is found by an index. A plan that was made while a table was small, and scans it, is kept when it has grown.
	for _, scan := range []string{"enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"} {
		params[scan] = "off"
	}
	config.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		rawUUIDs(conn.TypeMap())
		return nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open the database pool: %w", err)
	}
	return pool, nil
}
