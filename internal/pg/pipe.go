package pg

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Pipe is a transaction that saves round trips: BEGIN and statements without a result wait, and travel with the next statement that has
// one, or with the COMMIT. An error of a statement that waits is therefore the error of a later call.
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

// Exec queues a statement. Its command tag is not known and empty.
func (p *Pipe) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	p.batch.Queue(sql, args...)
	return pgconn.CommandTag{}, nil
}

// Query sends what is queued and this statement, and returns its rows.
func (p *Pipe) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	results, err := p.send(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	rows, err := results.Query()
	if err != nil {
		return nil, errors.Join(err, results.Close())
	}
	return pipeRows{rows, results}, nil
}

// QueryRow is Query for one row.
func (p *Pipe) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := p.Query(ctx, sql, args...)
	return pipeRow{rows, err}
}

// send sends what is queued with one more statement and reads all answers but the last.
func (p *Pipe) send(ctx context.Context, sql string, args ...any) (pgx.BatchResults, error) {
	p.batch.Queue(sql, args...)
	before := p.batch.Len() - 1
	results := p.conn.SendBatch(ctx, p.batch)
	p.batch = &pgx.Batch{}
	for range before {
		if _, err := results.Exec(); err != nil {
			_ = results.Close() // it repeats the error
			return nil, err
		}
	}
	return results, nil
}

// commit sends what is queued with the COMMIT. When the connection is lost meanwhile, nobody knows whether the COMMIT came to its end.
func (p *Pipe) commit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	results, err := p.send(ctx, "COMMIT")
	if err == nil {
		var tag pgconn.CommandTag
		tag, err = results.Exec()
		err = errors.Join(err, results.Close())
		if err == nil && tag.String() == "ROLLBACK" {
			err = pgx.ErrTxCommitRollback
		}
	}
	return committed(err)
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

// pipeRows ends its round trip when it is closed.
type pipeRows struct {
	pgx.Rows
	results pgx.BatchResults
}

func (r pipeRows) Close() {
	r.Rows.Close()
	_ = r.results.Close() // an error of the rows is in Err
}

type pipeRow struct {
	rows pgx.Rows
	err  error
}

func (r pipeRow) Scan(into ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	return r.rows.Scan(into...)
}
