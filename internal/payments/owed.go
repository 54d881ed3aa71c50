package payments

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
)

// A charge owes its money when its order was canceled after the payment, or when the money moved
// too late to pay for the order. A refund that fails ends one try, not the debt. The debt ends when
// all the money is back, or when an operator ends it. After MaxReturnTries only an operator can
// start the next try. See docs/decisions.md, D80.

// returnOwed gives back what a claimed charge owes. It asks the provider first, which may have
// given back a part without us.
func (s *Service) returnOwed(ctx context.Context, charge paymentsdb.Charge) error {
	if charge.Provider != s.provider.Name() || value(charge.Dispute) == DisputeOpen {
		return s.postponeReturn(ctx, charge, longestReturnPause)
	}
	if err := s.bookRefunds(ctx, charge); err != nil {
		s.log.WarnContext(ctx, "what a charge owes cannot be returned now", "charge_id", charge.ID,
			"order_id", charge.OrderID, "error", err)
		return s.postponeReturn(ctx, charge, returnPause(charge.ReturnTries))
	}
	var refund *paymentsdb.Refund
	err := pg.InPipe(ctx, s.pool, func(tx *pg.Pipe) (err error) {
		refund, err = s.startReturnTx(ctx, tx, charge)
		return err
	})
	if err != nil || refund == nil {
		return err
	}
	_, err = s.attemptRefund(ctx, *refund, firstLook)
	return err
}

// startReturnTx inserts a refund of what is left. It returns nil if nothing is.
func (s *Service) startReturnTx(ctx context.Context, tx *pg.Pipe,
	charge paymentsdb.Charge) (*paymentsdb.Refund, error) {
	locked := s.orders.LockTx(tx, charge.OrderID)
	charge, err := paymentsdb.New(tx).LockCharge(ctx, charge.ID)
	if err != nil {
		return nil, fmt.Errorf("lock the charge: %w", err)
	}
	left := refundable(charge)
	if left == 0 || charge.Owes == nil || charge.OwedEndedAt != nil {
		return nil, s.afterRefundTx(ctx, tx, locked, charge)
	}
	id, err := returnIDTx(ctx, tx, charge.ID)
	if err != nil {
		return nil, err
	}
	inserted := s.insertRefundTx(tx, charge,
		paymentsdb.InsertRefundParams{ID: id, Cause: *charge.Owes, Amount: left})
	// Nothing is due unless the refund fails.
	err = paymentsdb.New(tx).PostponeReturn(ctx, paymentsdb.PostponeReturnParams{ID: charge.ID})
	if err == nil {
		err = tx.Flush(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("insert the refund: %w", err)
	}
	refund := paymentsdb.Refund((*inserted)[0])
	return &refund, nil
}

// returnIDTx returns the id of the next try to return what a locked charge owes. After a restore
// the tries have the same ids, and the provider repeats what it did.
func returnIDTx(ctx context.Context, tx *pg.Pipe, chargeID uuid.UUID) (uuid.UUID, error) {
	refunds, err := paymentsdb.New(tx).ListRefunds(ctx, chargeID)
	if err != nil {
		return uuid.Nil, fmt.Errorf("list the charge's refunds: %w", err)
	}
	for try := 1; ; try++ {
		id := pg.DerivedID(chargeID, "return", strconv.Itoa(try))
		if !slices.ContainsFunc(refunds, func(r paymentsdb.Refund) bool { return r.ID == id }) {
			return id, nil
		}
	}
}

func (s *Service) postponeReturn(ctx context.Context, charge paymentsdb.Charge, pause time.Duration) error {
	return s.db.PostponeReturn(ctx, paymentsdb.PostponeReturnParams{ID: charge.ID, Pause: pause})
}
