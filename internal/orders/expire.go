package orders

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/coalesce"
	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
	"github.com/onceshop/onceshop/internal/pg"
)

const (
	expireBatch = 100
	expireIdle  = 5 * time.Second
	// expireTimeout bounds the transaction of one order.
	expireTimeout = 5 * time.Second
)

// RunExpiry expires unpaid orders until ctx ends. It logs failures and tries again.
func (s *Service) RunExpiry(ctx context.Context) error {
	for ctx.Err() == nil {
		handled, err := s.ExpireOnce(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "expiry failed; trying again", "error", err)
		}
		if err == nil && handled == expireBatch {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(expireIdle):
		}
	}
	return nil
}

// ExpireOnce expires up to a batch of orders that were not paid in time and releases their stock.
// An order with an unsettled charge expires too. If that charge succeeds later, the shop refunds
// it. An order that fails to expire is put off, longer each time. ExpireOnce returns how many
// orders it expired or put off.
func (s *Service) ExpireOnce(ctx context.Context) (handled int, err error) {
	due, err := s.db.ListExpired(ctx, ordersdb.ListExpiredParams{Expiry: s.expiry, Most: expireBatch})
	if err != nil {
		return 0, fmt.Errorf("find expired orders: %w", err)
	}
	for _, id := range due {
		expired, err := s.expire(ctx, id)
		switch {
		case pg.IsUnavailable(err) && !pg.IsLockTimeout(err):
			return handled, err
		case err != nil:
			if err := s.putOffExpiry(ctx, id, err); err != nil {
				return handled, err
			}
			handled++
		case expired:
			handled++
		}
	}
	return handled, nil
}

// expire expires one order, unless that is no longer due or another transaction has locked it.
func (s *Service) expire(ctx context.Context, id uuid.UUID) (expired bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, expireTimeout)
	defer cancel()
	var order Order
	err = pg.InPipe(ctx, s.pool, func(tx *pg.Pipe) error {
		tx.LimitLockWait(coalesce.LockWait)
		due := pg.Later(tx, ordersdb.New(tx).LockExpired, ordersdb.LockExpiredParams{ID: id, Expiry: s.expiry})
		if err := tx.Flush(ctx); err != nil {
			return fmt.Errorf("lock an expired order: %w", err)
		}
		if expired = len(*due) == 1; !expired {
			return nil
		}
		row := ordersdb.LockOrdersRow((*due)[0])
		order = header(ordersdb.GetOrderRow(row))
		locked := &Locked{&[]ordersdb.LockOrdersRow{row}}
		return s.ChangeStatusTx(ctx, tx, locked, Change{OrderID: order.ID, To: Expired})
	})
	if expired && err == nil {
		s.log.InfoContext(ctx, "order expired", "order_id", order.ID, "was", order.Status)
	}
	return expired, err
}

func (s *Service) putOffExpiry(ctx context.Context, id uuid.UUID, cause error) error {
	failures, err := s.db.PutOffExpiry(ctx, id)
	if err != nil {
		return fmt.Errorf("put off the expiry of order %s: %w", id, err)
	}
	s.log.ErrorContext(ctx, "an order cannot expire; trying again later", "order_id", id, "failures", failures,
		"error", cause)
	return nil
}

// Deadline returns when an order that waits for its payment expires.
func (s *Service) Deadline(ctx context.Context, id uuid.UUID) (time.Time, error) {
	at, err := s.db.OrderDeadline(ctx, ordersdb.OrderDeadlineParams{ID: id, Expiry: s.expiry})
	if err != nil {
		return time.Time{}, fmt.Errorf("read the order's deadline: %w", err)
	}
	return at, nil
}
