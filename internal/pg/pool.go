// Package pg connects the service to Postgres: the pool, transactions, migrations, and the meaning
// of the database's errors.
package pg

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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

// Open returns a pool for the URL. It does not wait for the server; Ping does. What the URL says
// wins over maxConns and over the settings of Open. At most one tracer may be given.
func Open(ctx context.Context, url string, maxConns int32, tracer ...pgx.QueryTracer) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL is not a Postgres address such as "+
			"postgres://user:password@host:5432/shop: %w", err)
	}
	if !strings.Contains(url, "pool_max_conns") {
		config.MaxConns = maxConns
	}
	if !strings.Contains(url, "connect_timeout") {
		config.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	mode := config.ConnConfig.DefaultQueryExecMode
	if mode == pgx.QueryExecModeExec || mode == pgx.QueryExecModeSimpleProtocol {
		return nil, fmt.Errorf("DATABASE_URL: default_query_exec_mode=%s cannot send lists of ids: use "+
			"cache_describe, which needs no prepared statements either", strings.ReplaceAll(mode.String(), " ", "_"))
	}
	params := config.ConnConfig.RuntimeParams
	for name, value := range sessionSettings() {
		if _, given := params[name]; !given && !strings.Contains(params["options"], name) {
			params[name] = value
		}
	}
	if err := checkCellName(cell(config.ConnConfig)); err != nil {
		return nil, err
	}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		// pgx alone tries a uuid.UUID as many types before it encodes it as text. For a batch of
		// orders this takes longer than planning its SQL.
		pgxuuid.Register(conn.TypeMap())
		return checkSchema(ctx, conn)
	}
	if !strings.Contains(url, "pool_ping_timeout") {
		config.PingTimeout = pingTimeout
	}
	for _, t := range tracer {
		config.ConnConfig.Tracer = t
	}
	if !strings.Contains(url, "pool_max_conn_idle_time") {
		config.MaxConnIdleTime, config.HealthCheckPeriod = maxIdle, maxIdle/4
	}
	config.ConnConfig.DialFunc = (&watch{dial: config.ConnConfig.DialFunc}).Dial
	var opened atomic.Pointer[pgxpool.Pool]
	closeStale(config, &opened)
	new(gate).guard(config)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open the database pool: %w", err)
	}
	opened.Store(pool)
	return pool, nil
}

// sessionSettings are those that Open gives each session. A session that is idle in a transaction
// holds locks that buyers wait for. A statement that runs longer than its timeout is a fault. A
// wait for a lock ends while a client still waits.
func sessionSettings() map[string]string {
	settings := map[string]string{
		"application_name":                    "onceshop",
		"idle_in_transaction_session_timeout": "15s",
		"statement_timeout":                   "30s",
		"lock_timeout":                        "5s",
	}
	maps.Copy(settings, lookUps)
	return settings
}

const (
	// pingTimeout bounds the look at a connection that was idle for a second.
	pingTimeout = time.Second
	// maxIdle is how long a connection may be idle. Another node may wait for it, with a mail to
	// record that it has sent: the role's limit counts the connections of all nodes.
	maxIdle = 4 * time.Second
	// kept is how many connections a pool keeps when it gives back what it has to other nodes.
	// Without any, a node could wait for as long as the others are busy.
	kept = 2
)

// closeStale makes the pool close all its connections that are idle or become it, once a second at
// most, when one of them breaks or leads to a server that has become read-only. After a fail-over
// they all lead to the old primary, and each would cost a request its time. When the server has no
// more connections to give, the pool closes all but the kept ones, so that the nodes share.
func closeStale(config *pgxpool.Config, pool *atomic.Pointer[pgxpool.Pool]) {
	var last atomic.Int64
	var spare atomic.Int32 // connections to close when they are next asked for
	onceASecond := func(do func(*pgxpool.Pool)) {
		now, before := time.Now().UnixNano(), last.Load()
		if p := pool.Load(); p != nil && now-before > int64(time.Second) && last.CompareAndSwap(before, now) {
			do(p)
		}
	}
	config.BeforeClose = func(conn *pgx.Conn) {
		if conn.IsClosed() { // not by the pool
			onceASecond((*pgxpool.Pool).Reset)
		}
	}
	config.PrepareConn = func(context.Context, *pgx.Conn) (keep bool, err error) {
		if spare.Load() > 0 && pool.Load().Stat().TotalConns() <= kept {
			spare.Store(0) // others have closed meanwhile
		}
		return spare.Load() <= 0 || spare.Add(-1) < 0, nil
	}
	closesOn := config.ConnConfig.OnPgError
	config.ConnConfig.OnPgError = func(conn *pgconn.PgConn, e *pgconn.PgError) (keep bool) {
		if e.Code == tooMany {
			onceASecond(func(p *pgxpool.Pool) {
				has := p.Stat()
				spare.Store(has.AcquiredConns() + has.IdleConns() - kept)
			})
		}
		return e.Code != readOnly && closesOn(conn, e)
	}
}
