package notify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/notify/internal/notifydb"
	"github.com/onceshop/onceshop/internal/tracing"
)

const (
	// sweepers is how many receipts of each queue one node sends at a time.
	sweepers = 4
	// sweepIdle bounds how long a due receipt waits for an idle sweeper.
	sweepIdle = time.Second
)

// Run sends the receipts that are due until ctx ends. Receipts that failed before have senders of
// their own, so that however many there are, the others are sent beside them.
func (s *Service) Run(ctx context.Context) error {
	var group errgroup.Group
	for _, failed := range []bool{false, true} {
		for range sweepers {
			group.Go(func() error { s.sweep(ctx, failed); return nil })
		}
	}
	return group.Wait()
}

func (s *Service) sweep(ctx context.Context, failed bool) {
	for ctx.Err() == nil {
		found, err := s.RunOnce(ctx, failed)
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "cannot look for receipts that are due; trying again", "error", err)
		}
		if found {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(sweepIdle):
		}
	}
}

// RunOnce sends the receipt that is due for longest, of those that failed before or of the others.
// It returns false if none is due or the mail server takes no mail. A mail on its way is sent even
// if ctx ends.
func (s *Service) RunOnce(ctx context.Context, failed bool) (found bool, err error) {
	// While the circuit is open, a receipt that never failed tries it first.
	if !s.circuit.ready() || failed && !s.circuit.closed() {
		return false, nil
	}
	row, err := s.db.ClaimDue(ctx, notifydb.ClaimDueParams{Failed: failed, Lease: sendLease})
	if errors.Is(err, pgx.ErrNoRows) && !failed && !s.circuit.closed() {
		row, err = s.db.ClaimDue(ctx, notifydb.ClaimDueParams{Failed: true, Lease: sendLease})
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("claim a receipt that is due: %w", err)
	}
	sending, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendLease)
	defer cancel()
	sending, span := tracing.Work(sending, "send receipt")
	defer span.End()
	s.sendClaimed(sending, claimed(row))
	return true, nil
}

// sendClaimed sends a claimed receipt, and lets Redis know of it in front of the row: the event may
// come again. The row has decided already, so whatever Redis answers, the receipt is sent.
func (s *Service) sendClaimed(ctx context.Context, r claimed) {
	claim, err := s.claims.Claim(ctx, claimKey(r.OrderID), sendLease)
	if err != nil && !errors.Is(err, dedup.ErrBusy) && !errors.Is(err, dedup.ErrDone) {
		degraded.Inc()
	}
	if s.send(ctx, r) {
		s.warn(ctx, claim.Done(ctx, Remembered))
		return
	}
	s.warn(ctx, claim.Release(ctx))
}

// Letters lists and retries the receipts that became dead letters.
type Letters struct{ db *notifydb.Queries }

// NewLetters returns the dead receipts in the pool's database.
func NewLetters(pool *pgxpool.Pool) *Letters { return &Letters{notifydb.New(pool)} }

// Letter is a receipt that the shop gave up on.
type Letter struct {
	OrderID uuid.UUID
	Attempt int32
	// Reason is the last failure.
	Reason string
	DeadAt time.Time
}

// List returns up to limit dead receipts, newest order first, and whether there are more. Their
// orders are older than before, unless it is nil.
func (l *Letters) List(ctx context.Context, before *uuid.UUID, limit int32) (list []Letter, more bool, err error) {
	rows, err := l.db.ListDead(ctx, notifydb.ListDeadParams{Before: before, Limit: limit + 1})
	if err != nil {
		return nil, false, fmt.Errorf("list dead receipts: %w", err)
	}
	for _, row := range rows[:min(len(rows), int(limit))] {
		list = append(list, Letter(row))
	}
	return list, len(rows) > int(limit), nil
}

// Retry has the receipt of an order tried again. It returns false if it is not a dead letter.
func (l *Letters) Retry(ctx context.Context, orderID uuid.UUID) (bool, error) {
	retried, err := l.retry(ctx, &orderID, 1)
	return retried > 0, err
}

// retrySlice is how many receipts one statement of RetryAll changes.
const retrySlice = 1000

// RetryAll has every dead receipt tried again and returns how many there were.
func (l *Letters) RetryAll(ctx context.Context) (total int, err error) {
	for {
		n, err := l.retry(ctx, nil, retrySlice)
		total += n
		if err != nil || n < retrySlice {
			return total, err
		}
	}
}

func (l *Letters) retry(ctx context.Context, orderID *uuid.UUID, most int32) (int, error) {
	orders, err := l.db.RetryDead(ctx, notifydb.RetryDeadParams{OrderID: orderID, Limit: most})
	if err != nil {
		return 0, fmt.Errorf("retry dead receipts: %w", err)
	}
	return len(orders), nil
}
