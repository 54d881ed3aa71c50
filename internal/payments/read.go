package payments

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
)

// Get returns a charge, or ErrNotFound. The caller decides which customer may see it.
func (s *Service) Get(ctx context.Context, id uuid.UUID) (Charge, error) {
	row, err := s.db.GetCharge(ctx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return Charge{}, ErrNotFound
	}
	if err != nil {
		return Charge{}, fmt.Errorf("read the charge: %w", err)
	}
	return view(row), nil
}

// GetRefund returns a refund and its charge, or ErrNotFound. The caller decides which customer may
// see it.
func (s *Service) GetRefund(ctx context.Context, id uuid.UUID) (Refund, Charge, error) {
	row, err := s.db.GetRefund(ctx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return Refund{}, Charge{}, ErrNotFound
	}
	if err != nil {
		return Refund{}, Charge{}, fmt.Errorf("read the refund: %w", err)
	}
	charge, err := s.Get(ctx, row.ChargeID)
	return viewRefund(row), charge, err
}

// Refunds returns all refunds of a charge, oldest first.
func (s *Service) Refunds(ctx context.Context, chargeID uuid.UUID) ([]Refund, error) {
	rows, err := s.db.ListRefunds(ctx, chargeID)
	if err != nil {
		return nil, fmt.Errorf("list the charge's refunds: %w", err)
	}
	return viewRefunds(rows), nil
}

// RefundsOfOrder returns all refunds of an order's charges, oldest first.
func (s *Service) RefundsOfOrder(ctx context.Context, orderID uuid.UUID) ([]Refund, error) {
	rows, err := s.db.ListRefundsOfOrder(ctx, orderID)
	if err != nil {
		return nil, fmt.Errorf("list the order's refunds: %w", err)
	}
	return viewRefunds(rows), nil
}

func viewRefunds(rows []paymentsdb.Refund) []Refund {
	refunds := make([]Refund, len(rows))
	for i, row := range rows {
		refunds[i] = viewRefund(row)
	}
	return refunds
}

// OfOrder returns all charges of an order, oldest first.
func (s *Service) OfOrder(ctx context.Context, orderID uuid.UUID) ([]Charge, error) {
	rows, err := s.db.ListCharges(ctx, orderID)
	if err != nil {
		return nil, fmt.Errorf("list the order's charges: %w", err)
	}
	charges := make([]Charge, len(rows))
	for i, row := range rows {
		charges[i] = view(row)
	}
	return charges, nil
}

// TooManyAttempts reports whether an order with these charges takes no further one.
func (s *Service) TooManyAttempts(charges []Charge) bool {
	declined := 0
	for _, charge := range charges {
		if charge.Status == Declined {
			declined++
		}
	}
	return s.policy.PayAttempts > 0 && declined >= s.policy.PayAttempts
}
