package payments

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
)

// ChargeDetail is a charge as operators see it.
type ChargeDetail struct {
	Charge
	PaymentMethod string
	// ProviderID is the provider's id of the capture, "" while there is none.
	ProviderID string
	// Attempt is the newest fencing token.
	Attempt int32
	// UnknownAt is when the outcome first became unknown, or nil.
	UnknownAt *time.Time
}

// QuarantinedEvent is an event that contradicts what is stored. It changed nothing and waits for an
// operator.
type QuarantinedEvent struct {
	ID, Type, Reason string
	// ChargeID is the charge that the event names, or nil.
	ChargeID *uuid.UUID
	At       time.Time
	// Payload is the JSON that the provider sent.
	Payload string
}

// Unsettled returns up to limit live charges that are not paid: unknown before pending, oldest
// first.
func (s *Service) Unsettled(ctx context.Context, limit int32) ([]ChargeDetail, error) {
	rows, err := s.db.ListUnsettled(ctx, limit)
	if err != nil {
		return nil, fmt.Errorf("list the unsettled charges: %w", err)
	}
	return details(rows), nil
}

// Charges returns up to limit charges before the given one, or with nil the newest, and whether
// there are more. They are sorted newest first.
func (s *Service) Charges(ctx context.Context, limit int32, before *uuid.UUID) ([]ChargeDetail, bool, error) {
	rows, err := s.db.ListAllCharges(ctx, paymentsdb.ListAllChargesParams{Limit: limit + 1, Before: before})
	if err != nil {
		return nil, false, fmt.Errorf("list all charges: %w", err)
	}
	more := len(rows) > int(limit)
	if more {
		rows = rows[:limit]
	}
	return details(rows), more, nil
}

// Quarantined returns up to limit events before the given time, or with nil the newest, and whether
// there are more. They are sorted newest first.
func (s *Service) Quarantined(ctx context.Context, limit int32, before *time.Time) ([]QuarantinedEvent, bool, error) {
	rows, err := s.db.ListQuarantined(ctx, paymentsdb.ListQuarantinedParams{Limit: limit + 1, Before: before})
	if err != nil {
		return nil, false, fmt.Errorf("list the quarantined events: %w", err)
	}
	more := len(rows) > int(limit)
	if more {
		rows = rows[:limit]
	}
	all := make([]QuarantinedEvent, len(rows))
	for i, row := range rows {
		all[i] = QuarantinedEvent{ID: row.ID, Type: row.Type, Reason: row.Reason, ChargeID: row.ChargeID,
			At: row.ReceivedAt.UTC(), Payload: string(row.Payload)}
	}
	return all, more, nil
}

func details(rows []paymentsdb.Charge) []ChargeDetail {
	all := make([]ChargeDetail, len(rows))
	for i, row := range rows {
		all[i] = ChargeDetail{Charge: view(row), PaymentMethod: row.PaymentMethod, ProviderID: value(row.ProviderID),
			Attempt: row.Attempt, UnknownAt: row.UnknownAt}
	}
	return all
}
