package payments

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/money"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/timeline"
)

// Event is what a provider tells by webhook, its signature checked: exactly one of Capture and Refund is set, or an operator
// has to look at it. ID is the provider's and unique among its events.
type Event struct {
	ID      string
	Type    string
	At      time.Time
	Capture *Capture
	Refund  *ProviderRefund
	// Ignored says that the event is none of those that we follow: it is accepted and not kept.
	Ignored bool
	// Payload is the body as it came, kept for operators.
	Payload []byte
}

// patience is how long an event may come before what it is about; an older one is not early but wrong.
const patience = 10 * time.Minute

// contradictionError quarantines the event that carries it, and leaves a charge that is looked up as it is.
type contradictionError struct{ reason string }

func (e contradictionError) Error() string { return "payments: " + e.reason }

// Receive applies an event once: its id and its effect are one transaction. One that was applied before changes nothing. One that
// contradicts what we know is kept, quarantined, and changes nothing. ErrNotApplicableYet asks the provider to send it again.
func (s *Service) Receive(ctx context.Context, event Event) error {
	if event.Ignored {
		return nil
	}
	err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		db := paymentsdb.New(tx)
		inserted, err := db.InsertEvent(ctx, event.row())
		if err != nil {
			return fmt.Errorf("insert the event: %w", err)
		}
		if inserted == 0 {
			return s.seenBefore(ctx, db, event)
		}
		var wrong contradictionError
		switch err := s.applyTx(ctx, tx, event); {
		case errors.As(err, &wrong):
			s.log.ErrorContext(ctx, "event quarantined", "event_id", event.ID, "type", event.Type, "reason", wrong.reason)
			return db.QuarantineEvent(ctx, paymentsdb.QuarantineEventParams{ID: event.ID, Reason: wrong.reason})
		default:
			return err
		}
	})
	if err == nil {
		crash.At(crash.WebhookApplied)
	}
	return err
}

// row names the charge that the event is about, if it says so.
func (e Event) row() paymentsdb.InsertEventParams {
	row := paymentsdb.InsertEventParams{ID: e.ID, Type: e.Type, Payload: e.Payload}
	switch {
	case e.Capture != nil:
		if id, err := uuid.Parse(e.Capture.Reference); err == nil {
			row.ChargeID = &id
		}
	case e.Refund != nil:
		row.CaptureID = e.Refund.CaptureID
	}
	return row
}

func (s *Service) seenBefore(ctx context.Context, db *paymentsdb.Queries, event Event) error {
	charge, err := db.ChargeOfEvent(ctx, event.ID)
	if err != nil {
		return fmt.Errorf("read the event's charge: %w", err)
	}
	if charge != nil {
		s.Stopped.Stopped(*charge, timeline.Stop{Kind: timeline.EventSeen, EventID: event.ID, EventType: event.Type})
	}
	return nil
}

func (s *Service) applyTx(ctx context.Context, tx pgx.Tx, event Event) error {
	switch {
	case event.Capture != nil:
		return s.applyCaptureTx(ctx, tx, *event.Capture)
	case event.Refund != nil:
		return s.applyRefundTx(ctx, tx, *event.Refund, event.At)
	default:
		return contradictionError{"events of the type " + event.Type + " are not known"}
	}
}

// applyCaptureTx settles the charge that succeeded. Its row was written before the provider was asked, so a capture without one is not ours.
func (s *Service) applyCaptureTx(ctx context.Context, tx pgx.Tx, capture Capture) error {
	id, err := uuid.Parse(capture.Reference)
	if err != nil {
		return contradictionError{fmt.Sprintf("capture %s has no charge of ours as its reference", capture.ID)}
	}
	row, err := paymentsdb.New(tx).GetCharge(ctx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return contradictionError{fmt.Sprintf("capture %s is for the unknown charge %s", capture.ID, id)}
	}
	if err != nil {
		return fmt.Errorf("read the charge: %w", err)
	}
	if err := fits(row, capture); err != nil {
		return err
	}
	if row.Answer == nil && capture.Status == CaptureDeclined {
		// The success of a later try may have overtaken it. Only the answer to our own call, or the reconciler's look at
		// all that the provider holds, says that no money will move.
		return ErrNotApplicableYet
	}
	settled, err := s.settleTx(ctx, tx, row, capture, unfenced)
	if err != nil {
		return err
	}
	return agree(settled, capture)
}

// fits checks that a capture can be the charge's: otherwise it must not decide about it.
func fits(row paymentsdb.Charge, capture Capture) error {
	if capture.ID == "" || capture.Status != CaptureSucceeded && capture.Status != CaptureDeclined {
		return contradictionError{fmt.Sprintf("capture %q of charge %s has the status %q", capture.ID, row.ID, capture.Status)}
	}
	if ours := (money.Money{Minor: row.Amount, Currency: row.Currency}); capture.Money() != ours {
		return contradictionError{fmt.Sprintf("capture %s is about %s, charge %s about %s", capture.ID, capture.Money(), row.ID, ours)}
	}
	return nil
}

// agree checks that a settled charge and what the provider says of it are the same story. A decline that
// comes after a success is old news of the same charge only if it is about another try.
func agree(row paymentsdb.Charge, capture Capture) error {
	succeeded := row.Status == string(Succeeded)
	if succeeded && capture.Status == CaptureSucceeded && *row.ProviderID != capture.ID {
		return contradictionError{fmt.Sprintf("charge %s was captured twice: %s and %s", row.ID, *row.ProviderID, capture.ID)}
	}
	if !succeeded && capture.Status == CaptureSucceeded {
		return contradictionError{fmt.Sprintf("charge %s is declined, capture %s succeeded", row.ID, capture.ID)}
	}
	return nil
}

// applyRefundTx has nothing to change: a refund's row is settled by the provider's answer, under the refund's own key. It checks that
// the refund is one of ours. While one of ours waits for its answer, the event is early.
func (s *Service) applyRefundTx(ctx context.Context, tx pgx.Tx, given ProviderRefund, at time.Time) error {
	db := paymentsdb.New(tx)
	row, err := db.FindRefundByProviderID(ctx, given.ID)
	if err == nil {
		if ours := (money.Money{Minor: row.Amount, Currency: row.Currency}); given.Money() != ours {
			return contradictionError{fmt.Sprintf("refund %s is about %s, ours about %s", given.ID, given.Money(), ours)}
		}
		return nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("find the refund: %w", err)
	}
	if s.now().Sub(at) < patience {
		return ErrNotApplicableYet
	}
	return contradictionError{fmt.Sprintf("refund %s of capture %s is none of ours", given.ID, given.CaptureID)}
}
