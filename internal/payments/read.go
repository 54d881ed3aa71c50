package payments

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
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
	refunds := make([]Refund, len(rows))
	for i, row := range rows {
		refunds[i] = viewRefund(row)
	}
	return refunds, nil
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
