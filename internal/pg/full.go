package pg

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// fullPause is the pause before another try to get a connection. Others end their work within
	// it, and return one to the pool.
	fullPause = 20 * time.Millisecond
	// fullPatience bounds the tries of a caller without a deadline.
	fullPatience = 10 * time.Second
	// fullFor is how long a server without a connection to give is not asked for one.
	fullFor = 100 * time.Millisecond
)

// errFull is the outcome of a connection that the server was not asked for.
var errFull = &pgconn.PgError{Severity: "FATAL", Code: tooMany,
	Message: "the server had no more connections to give a moment ago"}

// gate keeps a pool from asking a full server for connections all the time: each try costs the
// server a process. While it is shut, one caller asks every fullFor.
type gate struct{ until atomic.Int64 } // in nanoseconds, or 0 while it is open

// guard puts the gate before the pool's connections.
func (g *gate) guard(config *pgxpool.Config) {
	config.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
		now, until := time.Now().UnixNano(), g.until.Load()
		if until == 0 || now >= until && g.until.CompareAndSwap(until, now+int64(fullFor)) {
			return nil
		}
		return errFull
	}
	onError := config.ConnConfig.OnPgError
	config.ConnConfig.OnPgError = func(conn *pgconn.PgConn, e *pgconn.PgError) bool {
		if e.Code == tooMany {
			g.until.Store(time.Now().UnixNano() + int64(fullFor))
		}
		return onError(conn, e)
	}
	afterConnect := config.AfterConnect
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		g.until.Store(0)
		return afterConnect(ctx, conn)
	}
}

// whileFull runs a call of the pool again while it gets no connection because the server, the
// database or the role has no more to give. The pool's own connections come free meanwhile. It
// gives up when ctx ends.
func whileFull(ctx context.Context, run func() error) error {
	patience := time.After(fullPatience)
	for {
		err := run()
		if !refused(err, tooMany) {
			return err
		}
		select {
		case <-time.After(fullPause + rand.N(fullPause)): //nolint:gosec // jitter needs no secrecy
		case <-ctx.Done():
			return err
		case <-patience:
			return err
		}
	}
}

// refused reports whether the server refused a connection with the code.
func refused(err error, with string) bool {
	var connect *pgconn.ConnectError
	return (errors.As(err, &connect) || errors.Is(err, errFull)) && code(err) == with
}

// Patient is a pool for sqlc's Queries. Its calls wait for a connection when the server has no more
// to give.
type Patient struct{ *pgxpool.Pool }

// Exec runs a statement.
func (p Patient) Exec(ctx context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	err = whileFull(ctx, func() (err error) {
		tag, err = p.Pool.Exec(ctx, sql, args...)
		return err
	})
	return tag, err
}

// Query runs a query.
func (p Patient) Query(ctx context.Context, sql string, args ...any) (rows pgx.Rows, err error) {
	err = whileFull(ctx, func() (err error) {
		rows, err = p.Pool.Query(ctx, sql, args...) //nolint:sqlclosecheck // the caller closes them
		return err
	})
	return rows, err
}

// QueryRow runs a query for one row, when its result is scanned.
func (p Patient) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return rowFunc(func(into ...any) error {
		return whileFull(ctx, func() error { return p.Pool.QueryRow(ctx, sql, args...).Scan(into...) })
	})
}

type rowFunc func(into ...any) error

func (f rowFunc) Scan(into ...any) error { return f(into...) }
