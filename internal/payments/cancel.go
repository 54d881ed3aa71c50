package payments

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
)

// CancelOrder is the wish to call an order off. The exported JSON field is what it means; customer and key are its scope.
type CancelOrder struct {
	CustomerID uuid.UUID `json:"-"`
	Key        dedup.Key `json:"-"`

	OrderID uuid.UUID `json:"order_id"`
}

// Fingerprint is what the command means.
func (c CancelOrder) Fingerprint() dedup.Fingerprint { return dedup.FingerprintOf(c) }

// Cancel calls an order off, in one transaction, and returns 200 with the order. Its stock comes back. An unpaid order becomes canceled;
// a charge of it that is not settled goes on, and money that still comes is refunded. A paid order becomes refunded: the refund is decided
// and stored with the order, then carried out, by the reconciler if the provider does not answer now. Errors: orders.ErrNotFound
// and ErrOrderNotCancelable leave the key unused; the others are as for orders.Place.
func (s *Service) Cancel(ctx context.Context, c CancelOrder) (dedup.Answer, error) {
	if answer, found, err := findCanceled(ctx, s.db, c); found || err != nil {
		return answer, err
	}
	var answer dedup.Answer
	var refund *paymentsdb.Refund
	err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) (err error) {
		answer, refund, err = s.cancelTx(ctx, tx, c)
		return err
	})
	if errors.Is(err, pg.ErrCommitUnknown) {
		if stands, found, rereadErr := findCanceled(context.WithoutCancel(ctx), s.db, c); found && rereadErr == nil {
			// It is no replay if it was this request that carried it out.
			stands.Replayed, stands.StoppedBy = answer.Replayed, answer.StoppedBy
			return stands, nil
		}
	}
	if err != nil {
		return dedup.Answer{}, err
	}
	crash.At(crash.CancelCommitted)
	if refund != nil {
		if _, err := s.attemptRefund(context.WithoutCancel(ctx), *refund, firstLook); err != nil {
			s.log.WarnContext(ctx, "the refund of a canceled order is left to the reconciler", "order_id", c.OrderID, "refund_id", refund.ID, "error", err)
		}
	}
	return answer, nil
}

func (s *Service) cancelTx(ctx context.Context, tx pgx.Tx, c CancelOrder) (dedup.Answer, *paymentsdb.Refund, error) {
	order, err := s.lockOwnTx(ctx, tx, c.OrderID, c.CustomerID)
	if err != nil {
		return dedup.Answer{}, nil, err
	}
	db := paymentsdb.New(tx)
	if answer, found, err := findCanceled(ctx, db, c); found || err != nil {
		return answer, nil, err
	}
	var refund *paymentsdb.Refund
	switch order.Status {
	case orders.Placed, orders.Paying:
		err = s.orders.LegacyChangeStatusTx(ctx, tx, order, orders.Canceled)
	case orders.Paid:
		refund, err = s.giveBackTx(ctx, tx, order)
	default:
		err = ErrOrderNotCancelable
	}
	if err != nil {
		return dedup.Answer{}, nil, err
	}
	if order, err = s.orders.GetTx(ctx, tx, order.ID); err != nil {
		return dedup.Answer{}, nil, err
	}
	body, err := json.Marshal(order)
	if err != nil {
		return dedup.Answer{}, nil, fmt.Errorf("encode the order: %w", err)
	}
	fingerprint := c.Fingerprint()
	inserted, err := db.InsertCancellation(ctx, paymentsdb.InsertCancellationParams{OrderID: order.ID, CustomerID: c.CustomerID,
		IdempotencyKey: string(c.Key), Fingerprint: fingerprint[:], Answer: body, CreatedAt: s.timestamp()})
	if err != nil {
		return dedup.Answer{}, nil, fmt.Errorf("insert the cancellation: %w", err)
	}
	if inserted == 0 {
		// The key was used for another order a moment ago: end this transaction and let the key decide.
		return dedup.Answer{}, nil, dedup.ErrKeyReused
	}
	return canceledAnswer(order.ID, body), refund, nil
}

// giveBackTx ends a paid order: its units return, and what is left of its money is on its way back.
func (s *Service) giveBackTx(ctx context.Context, tx pgx.Tx, order orders.Order) (*paymentsdb.Refund, error) {
	charge, err := paymentsdb.New(tx).FindLiveCharge(ctx, order.ID)
	if err != nil {
		return nil, fmt.Errorf("find the charge of the paid order: %w", err)
	}
	if charge, err = paymentsdb.New(tx).LockCharge(ctx, charge.ID); err != nil {
		return nil, fmt.Errorf("lock the charge: %w", err)
	}
	var refund *paymentsdb.Refund
	if charge.AmountRefunded < charge.Amount {
		row, err := s.startOwnRefundTx(ctx, tx, charge, causeCanceled)
		if err != nil {
			return nil, err
		}
		refund = &row
	}
	if err := s.orders.LegacyReturnStockTx(ctx, tx, order.ID); err != nil {
		return nil, err
	}
	return refund, s.orders.LegacyChangeStatusTx(ctx, tx, order, orders.Refunded)
}

func findCanceled(ctx context.Context, db *paymentsdb.Queries, c CancelOrder) (dedup.Answer, bool, error) {
	row, err := db.FindCancellationByKey(ctx, paymentsdb.FindCancellationByKeyParams{CustomerID: c.CustomerID, IdempotencyKey: string(c.Key)})
	if errors.Is(err, pgx.ErrNoRows) {
		return dedup.Answer{}, false, nil
	}
	if err != nil {
		return dedup.Answer{}, false, fmt.Errorf("find the cancellation by its key: %w", err)
	}
	answer, err := dedup.Replay(row.Fingerprint, c.Fingerprint(), canceledAnswer(row.OrderID, row.Answer))
	return answer, true, err
}

func canceledAnswer(orderID uuid.UUID, body []byte) dedup.Answer {
	return dedup.Answer{ID: orderID, Status: http.StatusOK, Body: body, Final: true}
}
