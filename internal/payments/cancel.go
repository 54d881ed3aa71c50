package payments

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
)

// CancelOrder is a request to cancel an order. Its JSON is what the idempotency key stands for.
type CancelOrder struct {
	CustomerID uuid.UUID `json:"-"`
	Key        dedup.Key `json:"-"`
	// Admin may cancel any customer's order, at any time.
	Admin bool `json:"-"`

	OrderID uuid.UUID `json:"order_id"`
}

// Fingerprint identifies what the request asks for.
func (c CancelOrder) Fingerprint() dedup.Fingerprint { return dedup.FingerprintOf(c) }

// Cancel cancels an order, once per customer and key, and returns 200 with the order. Its stock
// comes back. An unpaid order becomes canceled; if its charge still captures money, that goes back.
// A paid order becomes refunded: its charge owes the money, which is returned now or by the
// reconciler. orders.ErrNotFound, ErrOrderNotCancelable and ErrDisputed leave the key unused; the
// other errors are those of orders.Place. See docs/decisions.md, D23.
func (s *Service) Cancel(ctx context.Context, c CancelOrder) (dedup.Answer, error) {
	var owing *paymentsdb.Charge
	answer, err := dedup.Once(ctx, dedup.Request{
		Fingerprint: c.Fingerprint(),
		Find: func(ctx context.Context) (dedup.Row, error) {
			return findCancellation(ctx, s.db, c)
		},
		Do: func(ctx context.Context) (answer dedup.Answer, err error) {
			err = pg.InPipe(ctx, s.pool, func(tx *pg.Pipe) (err error) {
				answer, owing, err = s.cancelTx(ctx, tx, c)
				return err
			})
			if err != nil {
				owing = nil // after a lost COMMIT a twin may have canceled: the reconciler returns what is owed
			}
			return answer, err
		},
	})
	if err != nil || answer.Replayed {
		return answer, err
	}
	crash.At(crash.CancelCommitted)
	if owing != nil {
		ctx, cancel := detach(ctx, s.policy.Lease-settleTimeout)
		defer cancel()
		if err := s.returnOwed(ctx, *owing); err != nil {
			s.log.WarnContext(ctx, "the money of a canceled order is left to the reconciler",
				"order_id", c.OrderID, "charge_id", owing.ID, "error", err)
		}
	}
	return answer, nil
}

// MayCancel reports whether a customer may still cancel an order that was paid at this time.
func (s *Service) MayCancel(paidAt time.Time) bool {
	return s.policy.CancelWindow == 0 || s.now().Sub(paidAt) <= s.policy.CancelWindow
}

// findCancellation reads the cancellation under the request's key.
func findCancellation(ctx context.Context, db *paymentsdb.Queries, c CancelOrder) (dedup.Row, error) {
	row, err := db.FindCancellationByKey(ctx,
		paymentsdb.FindCancellationByKeyParams{CustomerID: c.CustomerID, IdempotencyKey: string(c.Key)})
	if errors.Is(err, pgx.ErrNoRows) {
		return dedup.Row{}, dedup.ErrNoRow
	}
	if err != nil {
		return dedup.Row{}, fmt.Errorf("find the cancellation by its key: %w", err)
	}
	return dedup.Row{ID: row.OrderID, Fingerprint: row.Fingerprint, Answer: canceledAnswer(row.OrderID, row.Answer)},
		nil
}

// cancelTx looks for the key again under the lock: the order may have been canceled by this
// request's own twin.
func (s *Service) cancelTx(ctx context.Context, tx *pg.Pipe, c CancelOrder) (dedup.Answer, *paymentsdb.Charge, error) {
	db := paymentsdb.New(tx)
	locked := s.orders.LockTx(tx, c.OrderID)
	if _, err := findCancellation(ctx, db, c); !errors.Is(err, dedup.ErrNoRow) {
		return dedup.Answer{}, nil, taken(err)
	}
	order, err := locked.Order(c.OrderID)
	if err == nil && order.CustomerID != c.CustomerID && !c.Admin {
		err = orders.ErrNotFound
	}
	if err != nil {
		return dedup.Answer{}, nil, err
	}
	var owing *paymentsdb.Charge
	switch order.Status {
	case orders.Placed, orders.Paying:
		err = s.orders.ChangeStatusTx(ctx, tx, locked,
			orders.Change{OrderID: order.ID, To: orders.Canceled, Origin: canceledBy(c)})
		if err == nil { // a charge that waits for its buyer need not wait any longer
			err = db.HurryCharges(ctx, order.ID)
		}
	case orders.Paid:
		owing, err = s.giveBackTx(ctx, tx, locked, c)
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
	_, err = db.InsertCancellation(ctx, paymentsdb.InsertCancellationParams{OrderID: order.ID, CustomerID: c.CustomerID,
		IdempotencyKey: string(c.Key), Fingerprint: fingerprint[:], Answer: body, CreatedAt: s.timestamp()})
	if errors.Is(err, pgx.ErrNoRows) { // another order's cancellation has taken the key
		return dedup.Answer{}, nil, dedup.ErrKeyTaken
	}
	if err != nil {
		return dedup.Answer{}, nil, fmt.Errorf("insert the cancellation: %w", err)
	}
	return canceledAnswer(order.ID, body), owing, nil
}

// giveBackTx ends a paid order: its stock comes back, and its charge owes what is left of the
// money. It returns the charge as claimed by the caller, for the lease.
func (s *Service) giveBackTx(ctx context.Context, tx *pg.Pipe, locked *orders.Locked,
	c CancelOrder) (*paymentsdb.Charge, error) {
	db := paymentsdb.New(tx)
	charge, err := db.LockPaidCharge(ctx, c.OrderID)
	if err != nil {
		return nil, fmt.Errorf("lock the charge of the paid order: %w", err)
	}
	switch {
	case value(charge.Charge.Dispute) == DisputeOpen:
		return nil, ErrDisputed
	case !c.Admin && s.policy.CancelWindow > 0 && seconds(charge.PaidFor) > s.policy.CancelWindow:
		return nil, ErrOrderNotCancelable
	}
	owe := paymentsdb.OweParams{ID: charge.Charge.ID, Why: owedCanceled, Lease: s.policy.Lease}
	if err := db.Owe(ctx, owe); err != nil {
		return nil, fmt.Errorf("note what the charge owes: %w", err)
	}
	if err := s.orders.ReturnStockTx(ctx, tx, c.OrderID); err != nil {
		return nil, err
	}
	return &charge.Charge, s.orders.ChangeStatusTx(ctx, tx, locked,
		orders.Change{OrderID: c.OrderID, To: orders.Refunded, Origin: canceledBy(c)})
}

func canceledAnswer(orderID uuid.UUID, body []byte) dedup.Answer {
	return dedup.Answer{ID: orderID, Status: http.StatusOK, Body: body, Final: true}
}

// cancellation is what an order that was canceled came from.
type cancellation struct {
	CustomerID uuid.UUID `json:"customer_id"`
	Key        dedup.Key `json:"idempotency_key"`
}

func canceledBy(c CancelOrder) cancellation { return cancellation{c.CustomerID, c.Key} }
