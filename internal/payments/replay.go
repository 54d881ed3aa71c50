package payments

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
)

// After a restore to an older point, the changes that the tables have lost are made again from
// their events, without a call to the provider. What it did for them is in its records: each
// capture and refund of these then goes through the inbox.

// ReplayTx makes a change of an order again that a restore lost: its charge starts or is settled,
// or it is canceled, under the keys that were used. The context must be that of an outbox.Replay.
func (s *Service) ReplayTx(ctx context.Context, tx *pg.Pipe, event outbox.Event) error {
	switch event.Type {
	case orders.EventPaying:
		return s.replayStartTx(ctx, tx, event)
	case orders.EventPaid, orders.EventPaymentDeclined, orders.EventDeclinedLate:
		return s.replaySettleTx(ctx, tx, event)
	}
	var from cancellation
	err := orders.OriginOf(event, &from)
	if errors.Is(err, orders.ErrNoOrigin) { // it expired, or its refunds have reached the capture
		return s.orders.ReplayTx(ctx, tx, event)
	}
	if err == nil {
		_, _, err = s.cancelTx(ctx, tx, CancelOrder{CustomerID: from.CustomerID, Key: from.Key, OrderID: event.OrderID,
			Admin: true}) // it was allowed then
	}
	return err
}

func (s *Service) replayStartTx(ctx context.Context, tx *pg.Pipe, event outbox.Event) error {
	var from startedCharge
	if err := orders.OriginOf(event, &from); err != nil {
		return err
	}
	locked := s.orders.LockTx(tx, event.OrderID)
	if err := tx.Flush(ctx); err != nil {
		return fmt.Errorf("lock the order: %w", err)
	}
	order, err := locked.Order(event.OrderID)
	if err != nil {
		return err
	}
	c := ChargeOrder{CustomerID: order.CustomerID, Key: from.Key, OrderID: order.ID, PaymentMethod: from.PaymentMethod}
	outcomes, err := s.startTx(ctx, tx, []ChargeOrder{c})
	if err == nil {
		err = outcomes[0].Err
	}
	if err != nil {
		return err
	}
	return paymentsdb.New(tx).DateCharge(ctx, paymentsdb.DateChargeParams{ID: c.id(), CreatedAt: from.CreatedAt,
		StartedAt: event.CreatedAt})
}

func (s *Service) replaySettleTx(ctx context.Context, tx *pg.Pipe, event outbox.Event) error {
	var from settledCharge
	if err := orders.OriginOf(event, &from); err != nil {
		return err
	}
	capture := Capture{ID: from.ProviderID, Status: CaptureSucceeded}
	if event.Type != orders.EventPaid {
		capture.Status, capture.DeclineCode = CaptureDeclined, from.DeclineCode
	}
	settled, err := s.settleTx(ctx, tx, outcome{from.ChargeID, event.OrderID, capture, unfenced})
	if err == nil {
		err = settled[0].Err
	}
	if err != nil {
		return err
	}
	return paymentsdb.New(tx).DateSettled(ctx, paymentsdb.DateSettledParams{ID: from.ChargeID,
		SettledAt: &event.CreatedAt})
}

// Compared counts what the provider's records had.
type Compared struct {
	// Moved are the captures and refunds that moved money since the time, and Booked those that the
	// tables lacked. Open are those of them that wait for an operator, for their charge, or for
	// another refund of it to fail.
	Moved, Booked, Open int
}

// Compare books what the provider has done since the time and the tables lack, through the inbox,
// as if the provider's events arrived now. What belongs to no charge is quarantined.
func (s *Service) Compare(ctx context.Context, since time.Time) (Compared, error) {
	var done Compared
	err := s.provider.ListCaptures(ctx, since, func(capture Capture) error {
		if capture.Status != CaptureSucceeded {
			return nil
		}
		done.Moved++
		charge, err := s.db.FindChargeByCapture(ctx,
			paymentsdb.FindChargeByCaptureParams{Provider: s.provider.Name(), ProviderID: capture.ID})
		if err == nil && charge.Status == string(Succeeded) {
			return nil
		}
		return s.book(ctx, &done, err, Event{ID: "restored." + capture.ID, Type: "capture." + capture.Status,
			Capture: &capture})
	})
	if err != nil {
		return done, fmt.Errorf("compare the captures: %w", err)
	}
	err = s.provider.ListRefunds(ctx, since, func(refund ProviderRefund) error {
		if refund.Status == RefundFailed {
			return nil
		}
		done.Moved++
		stored, err := s.db.FindRefundByProviderID(ctx, refund.ID)
		if err == nil && stored.Status == refund.Status {
			return nil
		}
		return s.book(ctx, &done, err, Event{ID: "restored." + refund.ID, Type: "refund." + refund.Status,
			Refund: &refund})
	})
	if err != nil {
		return done, fmt.Errorf("compare the refunds: %w", err)
	}
	return done, nil
}

// book puts a record of the provider into the inbox. The error is that of the look for its row.
func (s *Service) book(ctx context.Context, done *Compared, err error, event Event) error {
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("look for %s: %w", event.ID, err)
	}
	if event.Payload, err = json.Marshal(event); err != nil {
		return fmt.Errorf("encode %s: %w", event.ID, err)
	}
	if err := s.Receive(ctx, event); err != nil {
		return err
	}
	state, err := s.db.EventState(ctx, event.ID)
	if err != nil {
		return fmt.Errorf("read %s: %w", event.ID, err)
	}
	done.Booked++
	if state != eventApplied {
		done.Open++
	}
	return nil
}

// errLost ends a list at the first capture that the tables lack.
var errLost = errors.New("payments: a capture of ours is missing")

// Lost reports whether the provider has taken money for an order of ours since our newest charge,
// for a charge that the tables have never seen, neither as a row nor in an event. Another shop may
// use the same account.
func (s *Service) Lost(ctx context.Context) (bool, error) {
	since, err := s.db.NewestChargeStarted(ctx)
	if errors.Is(err, pgx.ErrNoRows) { // a new shop
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the newest charge: %w", err)
	}
	err = s.provider.ListCaptures(ctx, since.Add(-clocksApart), func(capture Capture) error {
		if ours := isID(capture.Reference) && isID(capture.OrderID); !ours || capture.Status != CaptureSucceeded {
			return nil
		}
		seen, err := s.db.IsChargeSeen(ctx, uuid.MustParse(capture.Reference))
		if err != nil || seen {
			return err
		}
		_, err = s.orders.Get(ctx, uuid.MustParse(capture.OrderID))
		switch {
		case errors.Is(err, orders.ErrNotFound):
			return nil
		case err == nil:
			err = errLost
		}
		return err
	})
	if errors.Is(err, errLost) {
		return true, nil
	}
	return false, err
}

func isID(s string) bool { return uuid.Validate(s) == nil }

// clocksApart is how far the provider's clock and the database's may be apart.
const clocksApart = time.Minute
