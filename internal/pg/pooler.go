package pg

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// CheckPooler returns an error that names the setting if a pooler before the server cannot carry
// the pool's sessions. It returns the settings of the pool that the server does not have: a pooler
// can ignore them. It finds nothing while the server is away. See docs/operations.md, Poolers.
func CheckPooler(ctx context.Context, pool *pgxpool.Pool) (lost []string, err error) {
	conn, err := pool.Acquire(ctx)
	if refused(err, "08P01") && strings.Contains(err.Error(), "unsupported startup parameter") {
		return nil, fmt.Errorf("DATABASE_URL leads to a pooler that refuses the shop's session settings: list them in "+
			"its ignore_startup_parameters and set them with ALTER ROLE: %w", err)
	}
	if err != nil {
		return nil, nil // not now
	}
	defer conn.Release()
	settings := sessionSettings()
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		var is string
		want := settings[name]
		if pool.Config().ConnConfig.RuntimeParams[name] == want && name != "application_name" &&
			setting(ctx, conn, name, &is) == nil && is != want {
			lost = append(lost, name)
		}
	}
	if pool.Config().ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement && pool.Config().MaxConns > 1 {
		err = checkPrepared(ctx, pool, conn.Conn().PgConn())
	}
	return lost, err
}

// setting reads a setting without a prepared statement.
func setting(ctx context.Context, conn *pgxpool.Conn, name string, into *string) error {
	return conn.QueryRow(ctx, "SELECT current_setting($1)", pgx.QueryExecModeSimpleProtocol, name).Scan(into)
}

// checkPrepared prepares a statement, lets another session take the connection that the pooler used
// for it, and runs the statement.
func checkPrepared(ctx context.Context, pool *pgxpool.Pool, conn *pgconn.PgConn) error {
	other, err := pool.Acquire(ctx)
	if err != nil {
		return nil // not now
	}
	defer other.Release()
	name := "pooler_" + rand.Text()
	if _, err := conn.Prepare(ctx, name, "SELECT 1", nil); err != nil {
		return nil // not now
	}
	if _, err := other.Exec(ctx, "BEGIN"); err != nil {
		return nil // not now
	}
	defer other.Exec(context.WithoutCancel(ctx), "ROLLBACK") //nolint:errcheck // the pool closes it if this fails
	err = conn.ExecPrepared(ctx, name, nil, nil, nil).Read().Err
	if code(err) == "26000" {
		return fmt.Errorf("DATABASE_URL leads to a pooler that loses prepared statements between transactions: "+
			"add default_query_exec_mode=cache_describe, or set its max_prepared_statements (PgBouncer 1.21 or "+
			"newer): %w", err)
	}
	return nil
}
