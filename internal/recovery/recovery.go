// Package recovery brings a database that was restored to an older point up to what the broker and
// the payment provider know. The changes since then are made again from their events, in the order
// of the events, by the code that made them the first time and under the keys that were used. What
// the provider did beyond that goes through the inbox, and what cannot be rebuilt is shown.
package recovery

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/pg"
)

// margin is how much further back the records are read: clocks differ, and an event is published
// after its change.
const margin = 10 * time.Minute

// Services are what a recovery works with. No node may serve meanwhile.
type Services struct {
	Pool     *pgxpool.Pool
	Accounts *accounts.Service
	Orders   *orders.Service
	Payments *payments.Service
	Notify   *notify.Service
	History  broker.History
}

// Report is what Run did.
type Report struct {
	// Events are those that the broker holds since the time. Known stood in the tables, and Rebuilt
	// were made again, Orders of them as new orders.
	Events, Known, Rebuilt, Orders int
	// Lost are events whose changes could not be made again, with the reason.
	Lost []Lost
	// Money is what the provider's records added.
	Money payments.Compared
	// Receipts are those of orders that were paid since the time, by their fate.
	Receipts [notify.Unclear + 1]int
}

// Lost is an event whose change could not be made again.
type Lost struct {
	Event  outbox.Event
	Reason error
}

// Run recovers what has happened since the time to which the database was restored. It can be
// repeated: what stands already is left alone. The function progress is called after each event.
func Run(ctx context.Context, s Services, since time.Time, progress func(Report)) (Report, error) {
	since = since.Add(-margin)
	r := run{Services: s, progress: progress, paid: map[uuid.UUID]outbox.Published{},
		broken: map[uuid.UUID]bool{}}
	var err error
	if r.delivered, err = s.History.Delivered(ctx, notify.ConsumerName); err != nil {
		return r.report, err
	}
	look := func(p outbox.Published) error { return r.look(ctx, p) }
	if err := outbox.ReadPublished(ctx, s.History, since, look); err != nil {
		return r.report, err
	}
	if len(r.missing) > 0 { // otherwise the tables are whole, and so are their receipts
		if err := r.openReceipts(ctx); err != nil {
			return r.report, err
		}
		if err := r.rebuild(ctx); err != nil {
			return r.report, err
		}
	}
	r.report.Money, err = s.Payments.Compare(ctx, since)
	return r.report, err
}

type run struct {
	Services
	report   Report
	progress func(Report)
	// delivered is the number of the newest event that the receipts' consumer was given.
	delivered int64
	missing   []place
	// paid are the paid orders that the tables know of.
	paid map[uuid.UUID]outbox.Published
	// broken are orders with a change that could not be made again.
	broken map[uuid.UUID]bool
}

// place is where the stream has an event that the tables lack.
type place struct {
	id  uuid.UUID
	seq int64
}

// look notes an event if the tables lack it.
func (r *run) look(ctx context.Context, p outbox.Published) error {
	r.report.Events++
	r.progress(r.report)
	known, err := outbox.Known(ctx, r.Pool, p)
	if err != nil {
		return err
	}
	if !known {
		r.missing = append(r.missing, place{p.ID, p.Seq})
		return nil
	}
	r.report.Known++
	if p.Type == orders.EventPaid {
		p.Data = nil
		r.paid[p.OrderID] = p
	}
	return nil
}

// openReceipts decides about the receipts of paid orders that the tables know of. One that was open
// longer ago than the events go back may have been sent.
func (r *run) openReceipts(ctx context.Context) error {
	for _, p := range r.paid {
		if err := r.receipt(ctx, p.OrderID, p.CreatedAt, r.believed(p)); err != nil {
			return err
		}
	}
	return r.Notify.OpenReceipts(ctx, func(orderID uuid.UUID, paidAt time.Time) error {
		if _, decided := r.paid[orderID]; decided {
			return nil
		}
		return r.receipt(ctx, orderID, paidAt, notify.Unclear)
	})
}

// rebuild makes the missing changes again, in the order in which they happened: the stream can have
// the events of an order in another one, and an event twice.
func (r *run) rebuild(ctx context.Context) error {
	slices.SortFunc(r.missing, func(a, b place) int {
		return cmp.Or(bytes.Compare(a.id[:], b.id[:]), cmp.Compare(a.seq, b.seq))
	})
	r.missing = slices.CompactFunc(r.missing, func(a, b place) bool { return a.id == b.id })
	for _, at := range r.missing {
		p, err := outbox.PublishedAt(ctx, r.History, at.seq)
		if err != nil {
			return err
		}
		reason := errBroken
		if !r.broken[p.OrderID] {
			reason = r.replay(ctx, p)
		}
		switch {
		case pg.IsUnavailable(reason):
			return reason
		case reason != nil:
			r.broken[p.OrderID] = true
			r.report.Lost = append(r.report.Lost, Lost{p.Event, reason})
		case p.Type == orders.EventPaid:
			if err := r.receipt(ctx, p.OrderID, p.CreatedAt, r.believed(p)); err != nil {
				return err
			}
		}
		r.progress(r.report)
	}
	return nil
}

var errBroken = errors.New("the change before it is missing")

func (r *run) replay(ctx context.Context, p outbox.Published) error {
	if p.Type == orders.EventPlaced {
		customer, err := orders.CustomerOf(p.Event)
		if err == nil {
			err = r.Accounts.EnsureGuest(ctx, customer) // a guest, or an account that the restore lost
		}
		if err != nil {
			return err
		}
	}
	err := pg.InPipe(ctx, r.Pool, func(tx *pg.Pipe) error {
		return outbox.Replay(ctx, p, func(ctx context.Context) error {
			if p.Type == orders.EventPlaced {
				return r.Orders.ReplayPlacedTx(ctx, tx, p.Event)
			}
			return r.Payments.ReplayTx(ctx, tx, p.Event)
		})
	})
	if err != nil {
		return fmt.Errorf("make event %s of order %s again: %w", p.Type, p.OrderID, err)
	}
	r.report.Rebuilt++
	if p.Type == orders.EventPlaced {
		r.report.Orders++
	}
	return nil
}

// believed is the fate of a paid order's receipt if Redis does not remember it. The event comes to
// the consumer if that was not given it yet. Otherwise the receipt was sent, unless there was
// trouble: that is believed only when Redis can have forgotten it.
func (r *run) believed(p outbox.Published) notify.Fate {
	switch {
	case p.Seq > r.delivered:
		return notify.Due
	case time.Since(p.CreatedAt) > notify.Remembered:
		return notify.Sent
	default:
		return notify.Unclear
	}
}

func (r *run) receipt(ctx context.Context, orderID uuid.UUID, paidAt time.Time, believed notify.Fate) error {
	fate, stored, err := r.Notify.Recover(ctx, orderID, paidAt, believed)
	if err == nil && stored {
		r.report.Receipts[fate]++
	}
	return err
}
