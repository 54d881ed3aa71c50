package payments

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
)

// A charge owes its money when its order was canceled after the payment, or when the money moved
// too late to pay for the order. A refund that fails ends one try, not the debt. The debt ends when
// all the money is back, or when an operator ends it. After MaxReturnTries only an operator can
// start the next try. See docs/decisions.md, D80.

// Why a charge owes its money.
const (
	owedCanceled = "canceled"
	owedLate     = "late"
)

const (
	// MaxReturnTries is how often the shop tries to return what it owes before it asks an operator.
	MaxReturnTries     = 8
	firstReturnPause   = 10 * time.Second
	longestReturnPause = time.Hour
)

// returnPause is how long after a failed try the next one begins, 0 if there is none.
func returnPause(tries int32) time.Duration {
	if tries >= MaxReturnTries {
		return 0
	}
	return min(firstReturnPause<<tries, longestReturnPause)
}

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

// bookRefunds writes down what the provider holds of a capture's refunds: ours as they are there,
// and those that were made without us.
func (s *Service) bookRefunds(ctx context.Context, charge paymentsdb.Charge) error {
	all, err := s.findRefunds(ctx, charge)
	if err != nil {
		return err
	}
	for _, given := range all {
		err := pg.InPipe(ctx, s.pool, func(tx *pg.Pipe) error { return s.bookRefundTx(ctx, tx, given) })
		if wrong, ok := errors.AsType[contradictionError](err); ok {
			contradictions.Inc()
			s.log.ErrorContext(ctx, "the provider contradicts itself", "charge_id", charge.ID,
				"order_id", charge.OrderID, "reason", wrong.reason)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) findRefunds(ctx context.Context, charge paymentsdb.Charge) (_ []ProviderRefund, err error) {
	ctx, ended := s.call(ctx, "find refunds")
	defer ended(&err)
	return s.provider.FindRefunds(ctx, value(charge.ProviderID))
}

// bookRefundTx writes down one refund that the provider holds. It returns a contradictionError for
// one that cannot be ours or of a capture of ours, and errEarly while its charge is not known to
// have captured.
func (s *Service) bookRefundTx(ctx context.Context, tx *pg.Pipe, given ProviderRefund) error {
	db := paymentsdb.New(tx)
	ours, err := ourRefund(ctx, db, given)
	if errors.Is(err, pgx.ErrNoRows) {
		return s.bookOutsideTx(ctx, tx, given)
	}
	if err != nil {
		return fmt.Errorf("find the refund: %w", err)
	}
	if ours.Amount != given.Amount || ours.Currency != given.Currency {
		return contradictionError{fmt.Sprintf("refund %s is about %s, ours about %d %s", given.ID, given.Money(),
			ours.Amount, ours.Currency)}
	}
	charge, err := db.GetCharge(ctx, ours.ChargeID)
	if err != nil {
		return fmt.Errorf("read the charge: %w", err)
	}
	_, err = s.settleRefundTx(ctx, tx, charge, ours.ID, unfenced, given)
	return err
}

// ourRefund finds the refund by our id, which the provider keeps as its reference, or by the
// provider's.
func ourRefund(ctx context.Context, db *paymentsdb.Queries, given ProviderRefund) (paymentsdb.Refund, error) {
	if id, err := uuid.Parse(given.Reference); err == nil {
		if refund, err := db.GetRefund(ctx, id); !errors.Is(err, pgx.ErrNoRows) {
			return refund, err
		}
	}
	return db.FindRefundByProviderID(ctx, given.ID)
}

// leaves checks that the amount can be given back in addition to what was. If it only exceeds what
// is reserved for refunds under way, one of these will fail: then the amount is early.
func leaves(charge paymentsdb.Charge, amount int64) error {
	switch left := charge.Amount - charge.AmountRefunded; {
	case amount > left:
		return contradictionError{fmt.Sprintf("a refund of %d is more than the %d that capture %s has left", amount,
			left, value(charge.ProviderID))}
	case amount > left-charge.RefundReserved:
		return errEarly
	default:
		return nil
	}
}

// bookOutsideTx inserts a refund that was made at the provider without us. One that has a reference
// was ours before a restore: it gets its id again.
func (s *Service) bookOutsideTx(ctx context.Context, tx *pg.Pipe, given ProviderRefund) error {
	db := paymentsdb.New(tx)
	charge, err := db.FindChargeByCapture(ctx,
		paymentsdb.FindChargeByCaptureParams{Provider: s.provider.Name(), ProviderID: given.CaptureID})
	if errors.Is(err, pgx.ErrNoRows) {
		return errNoCharge
	}
	if err != nil {
		return fmt.Errorf("find the charge of the refund: %w", err)
	}
	if given.Status == RefundFailed {
		return nil
	}
	locked := s.orders.LockTx(tx, charge.OrderID)
	if charge, err = db.LockCharge(ctx, charge.ID); err != nil {
		return fmt.Errorf("lock the charge: %w", err)
	}
	if charge.Status != string(Succeeded) {
		return errEarly
	}
	if given.Currency != charge.Currency {
		return contradictionError{fmt.Sprintf("refund %s of %s is in another currency than capture %s", given.ID,
			given.Money(), given.CaptureID)}
	}
	if err := leaves(charge, given.Amount); err != nil {
		return err
	}
	id, err := uuid.Parse(given.Reference)
	if err != nil {
		if id, err = uuid.NewV7(); err != nil {
			return fmt.Errorf("make a refund id: %w", err)
		}
	}
	inserted, err := db.InsertOutsideRefund(ctx, paymentsdb.InsertOutsideRefundParams{ID: id, ChargeID: charge.ID,
		ProviderID: &given.ID, Status: given.Status, Amount: given.Amount,
		Currency: given.Currency, CreatedAt: s.timestamp()})
	if err != nil || len(inserted) == 0 {
		return err
	}
	if given.Status == RefundPending {
		charge.RefundReserved += given.Amount
	} else {
		charge.AmountRefunded += given.Amount
	}
	s.log.InfoContext(ctx, "booked a refund that was made at the provider", "charge_id", charge.ID,
		"order_id", charge.OrderID, "refund_id", id, "amount", given.Amount)
	return s.afterRefundTx(ctx, tx, locked, charge)
}
