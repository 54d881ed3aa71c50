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
	// Open is whether the outcome is not final.
	Open bool
	// Refundable is what can still go back.
	Refundable int64
	// Owing is whether the money has to go back and is not on its way. ReturnDue is when the shop
	// tries next, or nil if only an operator can start the next try. DebtEnded is whether an
	// operator ended the debt.
	Owing     bool
	ReturnDue *time.Time
	DebtEnded bool
	// Refunds and Disputes are set by OfOrderInDetail and Attention only.
	Refunds  []RefundDetail
	Disputes []Dispute
}

// RefundDetail is a refund as operators see it.
type RefundDetail struct {
	Refund
	// Cause is why the refund was made, Reason what a client gave as its reason.
	Cause, Reason string
	// ProviderID is the provider's id of the refund, "" while it is not known.
	ProviderID string
	// Open is whether the outcome is not final.
	Open bool
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

// Attention returns up to limit charges, oldest first, that an operator should look at: open for
// long, with a refund open for long, with money owed that only an operator can return, or disputed.
func (s *Service) Attention(ctx context.Context, limit int32) ([]ChargeDetail, error) {
	rows, err := s.db.ListAttention(ctx, limit)
	if err != nil {
		return nil, fmt.Errorf("list the charges that need attention: %w", err)
	}
	return s.inDetail(ctx, rows)
}

// OfOrderInDetail returns all charges of an order, oldest first.
func (s *Service) OfOrderInDetail(ctx context.Context, orderID uuid.UUID) ([]ChargeDetail, error) {
	rows, err := s.db.ListCharges(ctx, orderID)
	if err != nil {
		return nil, fmt.Errorf("list the order's charges: %w", err)
	}
	return s.inDetail(ctx, rows)
}

// inDetail adds the refunds and disputes of charges.
func (s *Service) inDetail(ctx context.Context, rows []paymentsdb.Charge) ([]ChargeDetail, error) {
	all := details(rows)
	ids, at := make([]uuid.UUID, len(all)), make(map[uuid.UUID]*ChargeDetail, len(all))
	for i := range all {
		ids[i], at[all[i].ID] = all[i].ID, &all[i]
	}
	refunds, err := s.db.ListRefundsOfCharges(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("list the refunds of charges: %w", err)
	}
	for _, row := range refunds {
		at[row.ChargeID].Refunds = append(at[row.ChargeID].Refunds, RefundDetail{Refund: viewRefund(row),
			Cause: row.Cause, Reason: row.Reason, ProviderID: value(row.ProviderID), Open: row.SettledAt == nil})
	}
	disputes, err := s.db.ListDisputesOfCharges(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("list the disputes of charges: %w", err)
	}
	for _, row := range disputes {
		at[row.ChargeID].Disputes = append(at[row.ChargeID].Disputes, Dispute{ID: row.ID,
			CaptureID: at[row.ChargeID].ProviderID, Status: row.Status, Amount: row.Amount, Currency: row.Currency,
			CreatedAt: row.OpenedAt.UTC()})
	}
	return all, nil
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
			Attempt: row.Attempt, UnknownAt: row.UnknownAt, Open: row.SettledAt == nil, Refundable: refundable(row),
			Owing: owes(row), ReturnDue: row.ReturnDue, DebtEnded: row.OwedEndedAt != nil}
	}
	return all
}
