package payments

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
)

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
