package pg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Pipe is a transaction that saves round trips. It queues BEGIN and every statement whose result is
// not needed yet, and sends them with the next Flush or with the COMMIT. The error of a queued
// statement is therefore the error of a later call.
type Pipe struct {
	conn  *pgxpool.Conn
	batch *pgx.Batch
	// query stands in for Query while Later runs one of sqlc's methods.
	query func(sql string, args []any) (pgx.Rows, error)
}

// InPipe is InTx for a transaction whose statements need few results.
func InPipe(ctx context.Context, pool *pgxpool.Pool, fn func(tx *Pipe) error) error {
	return untilSettled(ctx, func() error { return tryPipe(ctx, pool, fn) })
}

func tryPipe(ctx context.Context, pool *pgxpool.Pool, fn func(tx *Pipe) error) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer conn.Release() // closes a connection whose transaction is still open
	p := &Pipe{conn: conn, batch: &pgx.Batch{}}
	p.batch.Queue("BEGIN")
	// Deferred, so that a panic in fn keeps neither locks nor the connection.
	defer p.rollback(ctx)
	if err := fn(p); err != nil {
		return err
	}
	return p.commit(ctx)
}

// ReadBatch sends the queries that queue adds in one round trip, without a transaction. It retries
// on deadlock: the batch keeps its table locks until its end, and they can conflict with a
// migration.
func ReadBatch(ctx context.Context, pool *pgxpool.Pool, queue func(*Pipe)) error {
	return untilSettled(ctx, func() error {
		p := &Pipe{batch: &pgx.Batch{}}
		queue(p)
		return pool.SendBatch(ctx, p.batch).Close()
	})
}

var errQueued = errors.New("pg: the query is queued")

// Later queues a query: one of sqlc's methods on Queries made with this pipe, and its parameters.
// The result is set by the next Flush. The method runs twice: first to get its SQL, and again to
// scan the rows. See docs/decisions.md, D72.
func Later[P, R any](tx *Pipe, method func(context.Context, P) ([]R, error), params P) *[]R {
	result := new([]R)
	tx.query = func(sql string, args []any) (pgx.Rows, error) {
		tx.Queue(sql, args...).Query(func(rows pgx.Rows) (err error) {
			tx.query = func(string, []any) (pgx.Rows, error) { return rows, nil }
			defer func() { tx.query = nil }()
			*result, err = method(context.Background(), params)
			return err
		})
		return nil, errQueued
	}
	defer func() { tx.query = nil }()
	_, _ = method(context.Background(), params)
	return result
}

// LimitLockWait bounds how long the transaction waits for each lock, in place of the session's
// lock_timeout. IsLockTimeout reports the error.
func (p *Pipe) LimitLockWait(most time.Duration) {
	p.Queue(fmt.Sprintf("SET LOCAL lock_timeout = %d", most.Milliseconds()))
}

// Queue adds a statement without sending it. Set a handler for its result on the returned value.
func (p *Pipe) Queue(sql string, args ...any) *pgx.QueuedQuery { return p.batch.Queue(sql, args...) }

// Flush sends the queued statements in one round trip.
func (p *Pipe) Flush(ctx context.Context) error {
	batch := p.batch
	p.batch = &pgx.Batch{}
	if batch.Len() == 0 {
		return nil
	}
	return p.conn.SendBatch(ctx, batch).Close()
}

// Exec queues a statement. The command tag is empty, so sqlc's :execrows methods return 0.
func (p *Pipe) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	p.Queue(sql, args...)
	return pgconn.CommandTag{}, nil
}

// Query sends the queued statements, then one more, and returns its rows.
func (p *Pipe) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if p.query != nil {
		return p.query(sql, args)
	}
	if err := p.Flush(ctx); err != nil {
		return nil, err
	}
	return p.conn.Query(ctx, sql, args...)
}

// QueryRow is Query for one row.
func (p *Pipe) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if err := p.Flush(ctx); err != nil {
		return rowError{err}
	}
	return p.conn.QueryRow(ctx, sql, args...)
}

type rowError struct{ error }

func (r rowError) Scan(...any) error { return r.error }

// commit sends the queued statements with the COMMIT. If the connection breaks before the reply,
// the outcome of the COMMIT is unknown.
func (p *Pipe) commit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	p.Queue("COMMIT").Exec(func(tag pgconn.CommandTag) error {
		if tag.String() == "ROLLBACK" {
			return pgx.ErrTxCommitRollback
		}
		return nil
	})
	return committed(p.Flush(ctx))
}

// rollback ends the transaction unless it was committed or never sent.
func (p *Pipe) rollback(ctx context.Context) {
	if p.conn.Conn().IsClosed() || p.conn.Conn().PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	_, _ = p.conn.Exec(ctx, "ROLLBACK") // if this fails, the pool closes the connection and Postgres rolls back
}
