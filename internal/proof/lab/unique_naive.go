package lab

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/payments"
)

// errPaid reports that the order is paid.
var errPaid = errors.New("the order is paid")

// checkout saves the order, captures the money and marks the order as paid.
func (s *naiveShop) checkout(ctx context.Context, quantity int64) (uuid.UUID, error) {
	orderID, err := s.insertOrder(ctx, "", quantity)
	if err != nil {
		return uuid.Nil, err
	}
	if err := s.capture(ctx, orderID.String(), orderID, quantity); err != nil {
		return uuid.Nil, err
	}
	_, err = s.exec(ctx, "UPDATE orders SET status = 'paid' WHERE id = $1", orderID)
	return orderID, err
}

func (s *naiveShop) insertOrder(ctx context.Context, key string, quantity int64) (uuid.UUID, error) {
	orderID := uuid.New()
	_, err := s.exec(ctx, "INSERT INTO orders (id, run, idempotency_key, quantity) VALUES ($1, $2, $3, $4)", orderID,
		s.run, key, quantity)
	return orderID, err
}

// capture takes the money. Reference is the idempotency key at the provider too.
func (s *naiveShop) capture(ctx context.Context, reference string, orderID uuid.UUID, quantity int64) error {
	capture, err := s.provider.Capture(ctx,
		payments.CaptureRequest{Key: reference, Reference: reference, OrderID: orderID.String(),
			Amount: quantity * unitPrice, Currency: currency, PaymentMethod: "pm_ok"})
	if err == nil && capture.Status != payments.CaptureSucceeded {
		err = errors.New("the payment was declined")
	}
	return err
}

// placeUnlessThere places the order of a key, unless it finds one.
func (s *naiveShop) placeUnlessThere(ctx context.Context, key string, quantity int64) (uuid.UUID, error) {
	orderID, found, err := find[uuid.UUID](ctx, s, "SELECT id FROM orders WHERE run = $1 AND idempotency_key = $2",
		s.run, key)
	if found || err != nil {
		return orderID, err
	}
	return s.insertOrder(ctx, key, quantity)
}

// placeOncePerKey claims the key and places the order in one transaction. A later request with the
// key gets that order.
func (s *naiveShop) placeOncePerKey(ctx context.Context, key string, quantity int64) (orderID uuid.UUID, err error) {
	err = s.inTx(ctx, func(s *naiveShop) error {
		orderID = uuid.New()
		claimed, err := s.exec(ctx, "INSERT INTO idempotency_keys (run, key, order_id) VALUES ($1, $2, $3) ON "+
			"CONFLICT DO NOTHING", s.run, key, orderID)
		if err != nil {
			return err
		}
		if claimed == 0 {
			orderID, _, err = find[uuid.UUID](ctx, s,
				"SELECT order_id FROM idempotency_keys WHERE run = $1 AND key = $2", s.run, key)
			return err
		}
		_, err = s.exec(ctx, "INSERT INTO orders (id, run, idempotency_key, quantity) VALUES ($1, $2, $3, $4)",
			orderID, s.run, key, quantity)
		return err
	})
	return orderID, err
}

// payOncePerKey pays for an order that is not paid. A repeat with the same key does nothing.
func (s *naiveShop) payOncePerKey(ctx context.Context, key string, orderID uuid.UUID, quantity int64) error {
	claimed, err := s.exec(ctx, "INSERT INTO idempotency_keys (run, key, order_id) VALUES ($1, $2, $3) ON CONFLICT "+
		"DO NOTHING", s.run, key, orderID)
	if err != nil || claimed == 0 {
		return err
	}
	status, _, err := find[string](ctx, s, "SELECT status FROM orders WHERE id = $1", orderID)
	if err != nil {
		return err
	}
	if status == "paid" {
		return errPaid
	}
	if err := s.capture(ctx, uuid.NewString(), orderID, quantity); err != nil {
		return err
	}
	_, err = s.exec(ctx, "UPDATE orders SET status = 'paid' WHERE id = $1", orderID)
	return err
}

// pay writes a payment first, so that a crash leaves a trace, then captures the money and saves the
// result.
func (s *naiveShop) pay(ctx context.Context, orderID uuid.UUID, quantity int64) error {
	paymentID := uuid.New()
	_, err := s.exec(ctx, "INSERT INTO payments (id, run, order_id, status) VALUES ($1, $2, $3, 'started')", paymentID,
		s.run, orderID)
	if err != nil {
		return err
	}
	if err := s.capture(ctx, paymentID.String(), orderID, quantity); err != nil {
		return err
	}
	return s.savePayment(ctx, paymentID)
}

func (s *naiveShop) savePayment(ctx context.Context, paymentID uuid.UUID) error {
	return s.inTx(ctx, func(s *naiveShop) error {
		_, err := s.exec(ctx, "UPDATE payments SET status = 'succeeded' WHERE id = $1", paymentID)
		if err != nil {
			return err
		}
		_, err = s.exec(ctx, "INSERT INTO events (run, type, payment_id) VALUES ($1, 'paid', $2)", s.run, paymentID)
		return err
	})
}

// resumePayments runs at the start of the process and finishes payments that a crash interrupted.
func (s *naiveShop) resumePayments(ctx context.Context) error {
	for {
		paymentID, found, err := find[uuid.UUID](ctx, s,
			"SELECT id FROM payments WHERE run = $1 AND status = 'started' LIMIT 1", s.run)
		if err != nil || !found {
			return err
		}
		capture, err := s.provider.FindCapture(ctx, payments.CaptureRequest{Reference: paymentID.String()})
		if err != nil {
			return fmt.Errorf("ask the provider: %w", err)
		}
		if capture.Status == payments.CaptureNone {
			_, err = s.exec(ctx, "UPDATE payments SET status = 'failed' WHERE id = $1", paymentID)
		} else {
			err = s.savePayment(ctx, paymentID)
		}
		if err != nil {
			return err
		}
	}
}

// inTx runs fn with a shop whose statements are one transaction.
func (s *naiveShop) inTx(ctx context.Context, fn func(*naiveShop) error) error {
	return pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		inside := *s
		inside.db = tx
		return fn(&inside)
	})
}
