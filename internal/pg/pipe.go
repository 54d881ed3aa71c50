package pg

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Pipe is a transaction that saves round trips: BEGIN and statements wait, and travel together when a result is asked for or with the
// COMMIT. An error of a statement that waits is therefore the error of a later call.
type Pipe struct {
	conn  *pgxpool.Conn
	batch *pgx.Batch
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
	defer conn.Release() // a connection with an open transaction is closed
	p := &Pipe{conn: conn, batch: &pgx.Batch{}}
	p.batch.Queue("BEGIN")
	// Deferred, so that a panic in fn keeps neither locks nor the connection.
	defer p.rollback(ctx)
	if err := fn(p); err != nil {
		return err
	}
	return p.commit(ctx)
}

// Look sends reads in one round trip, and again when Postgres ends them in favor of others: what they have locked until the last is read can
// meet a migration.
func Look(ctx context.Context, pool *pgxpool.Pool, queue func(*pgx.Batch)) error {
	return untilSettled(ctx, func() error {
		batch := &pgx.Batch{}
		queue(batch)
		return pool.SendBatch(ctx, batch).Close()
	})
}

// Queue lets a statement wait. What should become of its result is said on what it returns, before Flush.
func (p *Pipe) Queue(sql string, args ...any) *pgx.QueuedQuery { return p.batch.Queue(sql, args...) }

// Flush sends what is queued, in one round trip, and hands out its results.
func (p *Pipe) Flush(ctx context.Context) error {
	batch := p.batch
	p.batch = &pgx.Batch{}
	if batch.Len() == 0 {
		return nil
	}
	return p.conn.SendBatch(ctx, batch).Close()
}

// Exec queues a statement. Its command tag is not known and empty.
func (p *Pipe) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	p.Queue(sql, args...)
	return pgconn.CommandTag{}, nil
}

// Query flushes, and returns the rows of one more statement.
func (p *Pipe) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
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

// Into collects the rows of a queued query, whose columns are T's fields in their order.
func Into[T any](rows *[]T) func(pgx.Rows) error {
	return func(r pgx.Rows) (err error) {
		*rows, err = pgx.CollectRows(r, pgx.RowToStructByPos[T])
		return err
	}
}

// commit sends what is queued with the COMMIT. When the connection is lost meanwhile, nobody knows whether the COMMIT came to its end.
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

// rollback ends the transaction unless it is committed or was never sent.
func (p *Pipe) rollback(ctx context.Context) {
	if p.conn.Conn().IsClosed() || p.conn.Conn().PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	_, _ = p.conn.Exec(ctx, "ROLLBACK") // a connection that fails here is closed, and Postgres rolls back by itself
}
