package payments

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/coalesce"
	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/money"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/timeline"
)

// An event of the provider takes two steps:
//
//	store  insert the event under its id, COMMIT; the provider is answered 204
//	apply  lock the event, write its effect, mark it as applied, COMMIT
//
// An event that comes too early is tried again later. One that contradicts what is stored, or that
// cannot be understood, is quarantined: it changes nothing and waits for an operator.

// Event is a webhook of the provider whose signature was checked. ID is unique among the provider's
// events. At most one of Capture, Refund and Dispute is set. If none is, the event is quarantined
// for the reason Unreadable, unless it is Ignored.
type Event struct {
	ID         string          `json:"-"`
	Type       string          `json:"-"`
	Capture    *Capture        `json:"capture,omitempty"`
	Refund     *ProviderRefund `json:"refund,omitempty"`
	Dispute    *Dispute        `json:"dispute,omitempty"`
	Unreadable string          `json:"-"`
	// Shared is whether the object may belong to another user of the provider's account. If no
	// charge of ours ever has its capture, the event is dismissed and not quarantined.
	Shared bool `json:"shared,omitempty"`
	// Ignored is whether the event is not about a payment of ours. It is accepted and not kept.
	Ignored bool `json:"-"`
	// Payload is the body as it arrived, kept for operators.
	Payload []byte `json:"-"`
}

// States of a stored event.
const (
	eventReceived    = "received"
	eventApplied     = "applied"
	eventQuarantined = "quarantined"
	eventDismissed   = "dismissed"
)

const (
	// applyTimeout bounds the first try to apply an event, for which its sender waits.
	applyTimeout   = 2 * time.Second
	eventBatch     = 32
	firstEventWait = time.Second
	// longestEventWait and maxEventTries let an early event wait for some two days.
	longestEventWait = time.Hour
	maxEventTries    = 60
)

// Receive stores the event once and tries to apply it. If it cannot be applied now, RunInbox does
// so later. An error means that the event may not be stored.
func (s *Service) Receive(ctx context.Context, event Event) error {
	if event.Ignored {
		return nil
	}
	row, err := event.row()
	if err != nil {
		return err
	}
	row.Provider = s.provider.Name()
	_, err = s.db.InsertEvent(ctx, row) // ON CONFLICT DO NOTHING
	if errors.Is(err, pgx.ErrNoRows) {
		s.seenBefore(ctx, event)
		return nil
	}
	if err != nil {
		return fmt.Errorf("insert the event: %w", err)
	}
	crash.At(crash.WebhookStored)
	if row.State == eventQuarantined {
		quarantined.Inc()
		s.log.ErrorContext(ctx, "event quarantined", "event_id", event.ID, "type", event.Type, "reason", row.Reason)
		return nil
	}
	ctx, cancel := detach(ctx, applyTimeout)
	defer cancel()
	if err := s.apply(ctx, event.ID); err != nil {
		s.log.Log(ctx, laterLevel(err), "an event is applied later", "event_id", event.ID, "type", event.Type,
			"error", err)
	}
	return nil
}

// row is the event as it is stored. It names the charge or the capture that the event is about.
func (e Event) row() (paymentsdb.InsertEventParams, error) {
	row := paymentsdb.InsertEventParams{ID: e.ID, Type: e.Type, Payload: e.Payload, State: eventReceived}
	switch {
	case e.Capture != nil:
		if id, err := uuid.Parse(e.Capture.Reference); err == nil {
			row.ChargeID = &id
		}
	case e.Refund != nil:
		row.CaptureID = e.Refund.CaptureID
	case e.Dispute != nil:
		row.CaptureID = e.Dispute.CaptureID
	default:
		row.State, row.Reason = eventQuarantined, e.Unreadable
		if row.Reason == "" {
			row.Reason = "events of the type " + e.Type + " are not known"
		}
	}
	var err error
	if row.Facts, err = json.Marshal(e); err != nil {
		return row, fmt.Errorf("encode the event: %w", err)
	}
	if bytes.Contains(row.Facts, []byte(`\u0000`)) {
		row.State, row.Reason = eventQuarantined, "it contains U+0000, which no text column holds"
		row.Facts = []byte("{}")
		row.ChargeID, row.CaptureID = nil, ""
	}
	return row, nil
}

func (s *Service) seenBefore(ctx context.Context, event Event) {
	if charge, err := s.db.ChargeOfEvent(ctx, event.ID); err == nil && charge != nil {
		s.recorder.Stopped(*charge, timeline.Stop{Kind: timeline.EventSeen, EventID: event.ID, EventType: event.Type})
	}
}

// RunInbox applies events until ctx ends. It logs failures and tries again.
func (s *Service) RunInbox(ctx context.Context) error {
	for ctx.Err() == nil {
		applied, err := s.ApplyOnce(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "the inbox cannot be read; trying again", "error", err)
		}
		if err == nil && applied == eventBatch {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil
}

// ApplyOnce tries to apply up to a batch of events that are due, and returns how many. An event
// that fails does not hold up the others.
func (s *Service) ApplyOnce(ctx context.Context) (int, error) {
	list, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	ids, err := s.db.ListDueEvents(list, eventBatch)
	if err != nil {
		return 0, fmt.Errorf("list the events that are due: %w", err)
	}
	for _, id := range ids {
		ctx, cancel := context.WithTimeout(ctx, settleTimeout)
		if err := s.apply(ctx, id); err != nil {
			s.log.Log(ctx, laterLevel(err), "an event is applied later", "event_id", id, "error", err)
		}
		cancel()
	}
	return len(ids), nil
}

// apply writes the effect of a stored event, once. After an error the event comes due again.
func (s *Service) apply(ctx context.Context, id string) error {
	var event Event
	err := pg.InPipe(ctx, s.pool, func(tx *pg.Pipe) error {
		tx.LimitLockWait(coalesce.LockWait) // the events behind this one wait, too
		db := paymentsdb.New(tx)
		row, err := db.LockDueEvent(ctx, id) // SKIP LOCKED
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // another worker has it, or it is applied
		}
		if err != nil {
			return fmt.Errorf("lock the event: %w", err)
		}
		event = Event{ID: row.ID, Type: row.Type}
		if err := json.Unmarshal(row.Facts, &event); err != nil {
			return contradictionError{"its stored facts cannot be read"}
		}
		if err := s.applyTx(ctx, tx, event); err != nil {
			return err
		}
		return db.MarkEventApplied(ctx, id)
	})
	wrong, contradicts := errors.AsType[contradictionError](err)
	switch {
	case err == nil:
		crash.At(crash.WebhookApplied)
		return nil
	case pg.Violates(err, "charges_one_per_capture"), pg.Violates(err, "refunds_one_per_provider_id"):
		wrong, contradicts = contradictionError{"its object belongs to another row of ours"}, true
	}
	ctx, cancel := detach(ctx, settleTimeout)
	defer cancel()
	if contradicts {
		quarantined.Inc()
		s.log.ErrorContext(ctx, "event quarantined", "event_id", id, "reason", wrong.reason)
		return s.db.QuarantineEvent(ctx, paymentsdb.QuarantineEventParams{ID: id, Reason: wrong.reason})
	}
	p := paymentsdb.PostponeEventParams{ID: id, FirstWait: firstEventWait, LongestWait: longestEventWait,
		MaxTries: maxEventTries, EndState: eventQuarantined, Reason: "it never became applicable: " + err.Error()}
	if event.Shared && errors.Is(err, errNoCharge) {
		p.EndState, p.Reason = eventDismissed, "it is about another user's payment of the provider's account"
	}
	return errors.Join(err, s.db.PostponeEvent(ctx, p))
}

// laterLevel returns the level for an event that is applied later. An early event is normal: a
// decline that arrives before the answer of its call is one.
func laterLevel(err error) slog.Level {
	if errors.Is(err, errEarly) {
		return slog.LevelInfo
	}
	return slog.LevelWarn
}

func (s *Service) applyTx(ctx context.Context, tx *pg.Pipe, event Event) error {
	switch {
	case event.Capture != nil:
		return s.applyCaptureTx(ctx, tx, *event.Capture)
	case event.Refund != nil:
		return s.bookRefundTx(ctx, tx, *event.Refund)
	case event.Dispute != nil:
		return s.applyDisputeTx(ctx, tx, *event.Dispute)
	default:
		return contradictionError{"the shop does not understand it"}
	}
}

// applyCaptureTx settles the charge of a capture. The charge was stored before the provider was
// asked, so a capture without one is not ours.
func (s *Service) applyCaptureTx(ctx context.Context, tx *pg.Pipe, capture Capture) error {
	db := paymentsdb.New(tx)
	id, err := uuid.Parse(capture.Reference)
	if err != nil {
		return contradictionError{fmt.Sprintf("capture %s has no charge of ours as its reference", capture.ID)}
	}
	charge, err := db.GetCharge(ctx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return contradictionError{fmt.Sprintf("capture %s is for the unknown charge %s", capture.ID, id)}
	}
	if err != nil {
		return fmt.Errorf("read the charge: %w", err)
	}
	if err := fits(charge, capture); err != nil {
		return err
	}
	if charge.SettledAt == nil && capture.Status != CaptureSucceeded {
		// A later try may have succeeded. The reconciler looks at what the provider holds, soon.
		if err := s.db.HurryCharge(ctx, charge.ID); err != nil {
			return fmt.Errorf("hurry the charge: %w", err)
		}
		return errEarly
	}
	settled, err := s.settleTx(ctx, tx, outcome{charge.ID, charge.OrderID, capture, unfenced})
	if err != nil {
		return err
	}
	return settled[0].Err
}

// fits checks that a capture can belong to the charge.
func fits(row paymentsdb.Charge, capture Capture) error {
	switch capture.Status {
	case CaptureDeclined, CaptureCanceled:
		return nil
	case CaptureSucceeded, CaptureRequiresAction:
	default:
		return contradictionError{fmt.Sprintf("capture %q of charge %s has the status %q",
			capture.ID, row.ID, capture.Status)}
	}
	ours := money.Money{Minor: row.Amount, Currency: row.Currency}
	if capture.Money() != ours || capture.OrderID != row.OrderID.String() {
		return contradictionError{fmt.Sprintf("capture %s is about %s for order %s, charge %s about %s for order %s",
			capture.ID, capture.Money(), capture.OrderID, row.ID, ours, row.OrderID)}
	}
	if capture.ID == "" || capture.Status == CaptureRequiresAction && capture.NextAction == nil {
		return contradictionError{fmt.Sprintf("the capture of charge %s has no id, or no action", row.ID)}
	}
	return nil
}

// applyDisputeTx writes down a dispute and where it stands. The events of one may arrive in any
// order: a closed dispute stays closed.
func (s *Service) applyDisputeTx(ctx context.Context, tx *pg.Pipe, dispute Dispute) error {
	db := paymentsdb.New(tx)
	charge, err := db.FindChargeByCapture(ctx,
		paymentsdb.FindChargeByCaptureParams{Provider: s.provider.Name(), ProviderID: dispute.CaptureID})
	if errors.Is(err, pgx.ErrNoRows) {
		return errNoCharge
	}
	if err != nil {
		return fmt.Errorf("find the charge of the dispute: %w", err)
	}
	return s.noteDisputeTx(ctx, tx, charge, dispute)
}

// noteDisputeTx writes down where a dispute stands, and what follows for its charge.
func (s *Service) noteDisputeTx(ctx context.Context, tx *pg.Pipe, charge paymentsdb.Charge, dispute Dispute) error {
	db := paymentsdb.New(tx)
	locked := s.orders.LockTx(tx, charge.OrderID)
	charge, err := db.LockCharge(ctx, charge.ID)
	if err != nil {
		return fmt.Errorf("lock the charge: %w", err)
	}
	status, err := db.UpsertDispute(ctx, paymentsdb.UpsertDisputeParams{ID: dispute.ID, ChargeID: charge.ID,
		Status: dispute.Status, Amount: dispute.Amount, Currency: dispute.Currency})
	if err != nil {
		return fmt.Errorf("store the dispute: %w", err)
	}
	if err := db.SetDispute(ctx, paymentsdb.SetDisputeParams{ID: charge.ID, Dispute: &status}); err != nil {
		return fmt.Errorf("note the dispute: %w", err)
	}
	s.log.WarnContext(ctx, "a charge is disputed", "charge_id", charge.ID, "order_id", charge.OrderID,
		"dispute", dispute.ID, "status", status)
	charge.Dispute = &status
	return s.afterRefundTx(ctx, tx, locked, charge)
}
