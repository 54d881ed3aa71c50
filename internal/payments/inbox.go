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

// Event is a webhook of the provider whose signature was checked. Exactly one of Capture and Refund
// is set; otherwise the event is quarantined. ID is unique among the provider's events.
type Event struct {
	ID      string
	Type    string
	At      time.Time
	Capture *Capture
	Refund  *ProviderRefund
	// Ignored is whether the event is of a type that we do not follow. It is accepted and not kept.
	Ignored bool
	// Payload is the body as it arrived, kept for operators.
	Payload []byte
}

// patience is how old an event may be that waits for what it is about. An older one is not early
// but wrong.
const patience = 10 * time.Minute

// contradictionError reports that an answer of the provider contradicts what is stored. An event
// with it is quarantined, and a charge with it stays as it is.
type contradictionError struct{ reason string }

func (e contradictionError) Error() string { return "payments: " + e.reason }

// Receive applies an event once: its id and its effect are stored in one transaction. An event that
// was applied before changes nothing. An event that contradicts what is stored is kept in
// quarantine and changes nothing. ErrNotApplicableYet asks the provider to send it again.
func (s *Service) Receive(ctx context.Context, event Event) error {
	if event.Ignored {
		return nil
	}
	err := pg.InPipe(ctx, s.pool, func(tx *pg.Pipe) error {
		db := paymentsdb.New(tx)
		_, err := db.InsertEvent(ctx, event.row()) // ON CONFLICT DO NOTHING
		if errors.Is(err, pgx.ErrNoRows) {
			return s.seenBefore(ctx, db, event)
		}
		if err != nil {
			return fmt.Errorf("insert the event: %w", err)
		}
		err = s.applyTx(ctx, tx, event)
		if wrong, ok := errors.AsType[contradictionError](err); ok {
			s.log.ErrorContext(ctx, "event quarantined",
				"event_id", event.ID, "type", event.Type, "reason", wrong.reason)
			return db.QuarantineEvent(ctx, paymentsdb.QuarantineEventParams{ID: event.ID, Reason: wrong.reason})
		}
		return err
	})
	if err == nil {
		crash.At(crash.WebhookApplied)
	}
	return err
}

// row names the charge or the capture that the event is about, if it is about one.
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
		s.recorder.Stopped(*charge,
			timeline.Stop{Kind: timeline.EventSeen, EventID: event.ID, EventType: event.Type})
	}
	return nil
}

func (s *Service) applyTx(ctx context.Context, tx *pg.Pipe, event Event) error {
	switch {
	case event.Capture != nil:
		return s.applyCaptureTx(ctx, tx, *event.Capture)
	case event.Refund != nil:
		return s.applyRefundTx(ctx, tx, *event.Refund, event.At)
	default:
		return contradictionError{"events of the type " + event.Type + " are not known"}
	}
}

// applyCaptureTx settles the charge of a capture. The charge was stored before the provider was
// asked, so a capture without one is not ours.
func (s *Service) applyCaptureTx(ctx context.Context, tx *pg.Pipe, capture Capture) error {
	id, err := uuid.Parse(capture.Reference)
	if err != nil {
		return contradictionError{fmt.Sprintf("capture %s has no charge of ours as its reference", capture.ID)}
	}
	charge, err := paymentsdb.New(tx).GetCharge(ctx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return contradictionError{fmt.Sprintf("capture %s is for the unknown charge %s", capture.ID, id)}
	}
	if err != nil {
		return fmt.Errorf("read the charge: %w", err)
	}
	if err := fits(charge, capture); err != nil {
		return err
	}
	if charge.Answer == nil && capture.Status == CaptureDeclined {
		// A later try may have succeeded. Only the answer to our own call, or the reconciler's look
		// at everything that the provider holds, proves that no money will move.
		return ErrNotApplicableYet
	}
	settled, err := s.settleTx(ctx, tx, outcome{charge.ID, charge.OrderID, capture, unfenced})
	if err != nil {
		return err
	}
	if settled[0].Err != nil {
		return settled[0].Err
	}
	return agree(settled[0].Answer.charge, capture)
}

// fits checks that a capture can belong to the charge.
func fits(row paymentsdb.Charge, capture Capture) error {
	if capture.ID == "" || capture.Status != CaptureSucceeded && capture.Status != CaptureDeclined {
		return contradictionError{fmt.Sprintf("capture %q of charge %s has the status %q",
			capture.ID, row.ID, capture.Status)}
	}
	if ours := (money.Money{Minor: row.Amount, Currency: row.Currency}); capture.Money() != ours {
		return contradictionError{fmt.Sprintf("capture %s is about %s, charge %s about %s",
			capture.ID, capture.Money(), row.ID, ours)}
	}
	return nil
}

// agree checks that a settled charge does not contradict a capture. A decline after a success does
// not: it is old news of another try.
func agree(row paymentsdb.Charge, capture Capture) error {
	succeeded := row.Status == string(Succeeded)
	if succeeded && capture.Status == CaptureSucceeded && *row.ProviderID != capture.ID {
		return contradictionError{fmt.Sprintf("charge %s was captured twice: %s and %s", row.ID, *row.ProviderID,
			capture.ID)}
	}
	if !succeeded && capture.Status == CaptureSucceeded {
		return contradictionError{fmt.Sprintf("charge %s is declined, capture %s succeeded", row.ID, capture.ID)}
	}
	return nil
}

// applyRefundTx checks that a refund is one of ours, and changes nothing: refunds are settled by
// the provider's answer. While one of ours waits for its answer, the event is early.
func (s *Service) applyRefundTx(ctx context.Context, tx *pg.Pipe, given ProviderRefund, at time.Time) error {
	db := paymentsdb.New(tx)
	row, err := db.FindRefundByProviderID(ctx, given.ID)
	if err == nil {
		if ours := (money.Money{Minor: row.Amount, Currency: row.Currency}); given.Money() != ours {
			return contradictionError{fmt.Sprintf("refund %s is about %s, ours about %s", given.ID, given.Money(),
				ours)}
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
