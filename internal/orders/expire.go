package orders

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

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
		expired, err := s.ExpireOnce(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "expiry failed; trying again", "error", err)
		}
		if err == nil && expired == expireBatch {
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
// It returns how many. An order with an unsettled charge expires too. If that charge succeeds
// later, the shop refunds it.
func (s *Service) ExpireOnce(ctx context.Context) (int, error) {
	for expired := range expireBatch {
		more, err := s.expireNext(ctx)
		if err != nil || !more {
			return expired, err
		}
	}
	return expireBatch, nil
}

// expireNext expires one order, if one is due.
func (s *Service) expireNext(ctx context.Context) (found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, expireTimeout)
	defer cancel()
	var order Order
	err = pg.InPipe(ctx, s.pool, func(tx *pg.Pipe) error {
		due := pg.Later(tx, ordersdb.New(tx).LockExpired,
			ordersdb.LockExpiredParams{Expiry: s.expiry, Most: 1})
		if err := tx.Flush(ctx); err != nil {
			return fmt.Errorf("find an expired order: %w", err)
		}
		if found = len(*due) == 1; !found {
			return nil
		}
		row := ordersdb.LockOrdersRow((*due)[0])
		order = header(ordersdb.GetOrderRow(row))
		locked := &Locked{&[]ordersdb.LockOrdersRow{row}}
		return s.ChangeStatusTx(ctx, tx, locked, Change{order.ID, Expired})
	})
	if found && err == nil {
		s.log.InfoContext(ctx, "order expired", "order_id", order.ID, "was", order.Status)
	}
	return found, err
}

// Deadline returns when an order that waits for its payment expires.
func (s *Service) Deadline(ctx context.Context, id uuid.UUID) (time.Time, error) {
	at, err := s.db.OrderDeadline(ctx, ordersdb.OrderDeadlineParams{ID: id, Expiry: s.expiry})
	if err != nil {
		return time.Time{}, fmt.Errorf("read the order's deadline: %w", err)
	}
	return at, nil
}
