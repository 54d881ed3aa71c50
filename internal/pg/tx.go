package pg

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrCommitUnknown reports a COMMIT whose answer never came: the transaction may stand or not.
// Only a later read by the idempotency key can tell, and only when it finds the row.
var ErrCommitUnknown = errors.New("pg: the outcome of the commit is unknown")

const (
	// A transaction that lost against others is tried this often before its caller hears of it.
	maxTries = 5
	// A commit is given its own time: ending it with the caller's would leave its outcome unknown.
	commitTimeout = 5 * time.Second
)

// InTx runs fn in a READ COMMITTED transaction and commits it. When Postgres ends the transaction to
// resolve a deadlock or a serialization conflict, fn runs again from the start, so fn must
// have no effect outside tx. An error of fn rolls back and is returned as it is.
func InTx(ctx context.Context, pool *pgxpool.Pool, fn func(tx pgx.Tx) error) error {
	return untilSettled(ctx, func() error { return tryTx(ctx, pool, fn) })
}

// untilSettled runs a transaction again while Postgres ends it in favor of others.
func untilSettled(ctx context.Context, run func() error) error {
	for try := 1; ; try++ {
		err := run()
		if err == nil || try == maxTries || !retryable(err) {
			return err
		}
		select {
		case <-time.After(rand.N(time.Duration(try) * 10 * time.Millisecond)): //nolint:gosec // jitter needs no secrecy
		case <-ctx.Done():
			return err
		}
	}
}

func tryTx(ctx context.Context, pool *pgxpool.Pool, fn func(tx pgx.Tx) error) error {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	// Deferred, so that a panic in fn keeps neither locks nor the connection.
	defer rollback(ctx, tx)
	if err := fn(tx); err != nil {
		return err
	}
	return commit(ctx, tx)
}

// rollback ends the transaction unless it is committed. When it fails, the connection is lost and Postgres rolls back by itself.
func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	_ = tx.Rollback(ctx)
}

func commit(ctx context.Context, tx pgx.Tx) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	return committed(tx.Commit(ctx))
}

// committed says what the answer to a COMMIT means.
func committed(err error) error {
	var answer *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrTxCommitRollback), errors.As(err, &answer) && answer.SeverityUnlocalized == "ERROR":
		return fmt.Errorf("commit: %w", err)
	}
	// A FATAL answer ends the session and does not tell how far the COMMIT came: a pooler sends one when it has lost the server.
	return fmt.Errorf("%w: %w", ErrCommitUnknown, err)
}

func retryable(err error) bool {
	switch code(err) {
	case "40001", "40P01": // serialization_failure, deadlock_detected
		return true
	}
	return false
}
