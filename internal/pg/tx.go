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

// ErrCommitUnknown reports a COMMIT without a reply: the transaction took effect or it did not. A
// later read by the idempotency key shows that it did, if it finds the row.
var ErrCommitUnknown = errors.New("pg: the outcome of the commit is unknown")

const (
	// maxTries is how often a transaction runs that Postgres ends because of a conflict.
	maxTries = 5
	// commitTimeout bounds a COMMIT in place of the caller's context, whose end would leave its
	// outcome unknown.
	commitTimeout = 5 * time.Second
)

// InTx runs fn in a READ COMMITTED transaction and commits it. If Postgres ends the transaction
// because of a deadlock or a serialization conflict, InTx runs fn again, so fn must have no effect
// outside tx. If fn returns an error, InTx rolls back and returns that error.
func InTx(ctx context.Context, pool *pgxpool.Pool, fn func(tx pgx.Tx) error) error {
	return untilSettled(ctx, func() error { return tryTx(ctx, pool, fn) })
}

// untilSettled runs a transaction again when Postgres ends it because of a conflict, or has no
// connection for it.
func untilSettled(ctx context.Context, run func() error) error {
	for try := 1; ; try++ {
		err := whileFull(ctx, run)
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

// rollback ends the transaction unless it was committed. If it fails, the connection is lost and
// Postgres rolls back.
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

// committed returns the error for the reply to a COMMIT.
func committed(err error) error {
	var answer *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrTxCommitRollback), errors.As(err, &answer) && answer.SeverityUnlocalized == "ERROR":
		return fmt.Errorf("commit: %w", err)
	}
	// A FATAL reply ends the session, and the COMMIT may have taken effect: a pooler sends one when
	// it has lost the server.
	return fmt.Errorf("%w: %w", ErrCommitUnknown, err)
}

func retryable(err error) bool {
	switch code(err) {
	case "40001", "40P01": // serialization_failure, deadlock_detected
		return true
	}
	return false
}
