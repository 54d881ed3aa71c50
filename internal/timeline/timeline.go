// Package timeline tells why everything about an order happened once: a read model over what all domains have written, and
// a record of the twins that were stopped. It is the one package that reads other domains' tables.
package timeline

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/timeline/internal/timelinedb"
)

// Event is one decision about an order: when, by which layer, in a word or two, and as a sentence. It never holds an idempotency key,
// only the key's hash.
type Event struct {
	At       time.Time `json:"at"`
	Layer    string    `json:"layer"`
	Decision string    `json:"decision"`
	Detail   string    `json:"detail"`
}

// The layers of events. The first five also stop twins.
const (
	UniqueKey = string(dedup.ByKey)    // a UNIQUE constraint of the database
	Memory    = string(dedup.ByMemory) // what one node remembers, or is doing now
	Redis     = "redis"                // a claim that all nodes see
	Broker    = "broker"               // a message id inside the broker's duplicate window
	Fencing   = "fencing token"        // the attempt number of a lease, and the state it protects
	Stock     = "stock"                // a movement of units
	Provider  = "provider"             // a call to the payment provider
	Webhook   = "webhook"              // an event of the payment provider
	Outbox    = "outbox"               // an event of ours on its way to the broker
	Receipt   = "receipt"              // the mail about a paid order
	Expiry    = "expiry"               // the time that an unpaid order has
)

// maxTwins bounds how many records of stopped twins one order shows: the newest.
const maxTwins = 200

// Service reads what happened to an order.
type Service struct {
	pool *pgxpool.Pool
}

// New returns a service on the pool's database.
func New(pool *pgxpool.Pool) *Service { return &Service{pool: pool} }

// Of returns what happened to an order, oldest first; an order that does not exist has no events. Who may see them is the
// caller's to decide. Everything is read from one snapshot, so that no effect is told without its cause.
func (s *Service) Of(ctx context.Context, orderID uuid.UUID) ([]Event, error) {
	t := &story{events: []Event{}, subjects: []uuid.UUID{orderID}}
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := pgx.BeginTxFunc(ctx, s.pool, snapshot, func(tx pgx.Tx) error {
		db := timelinedb.New(tx)
		// Causes come before their effects, and stay there when the time of both is that of one transaction.
		for _, read := range []func() error{
			func() error { return each(db.OrderPlaced(ctx, orderID))(t.placed) },
			func() error { return each(db.Cancellation(ctx, orderID))(t.canceled) },
			func() error { return each(db.ProviderEvents(ctx, orderID))(t.told) },
			func() error { return each(db.Charges(ctx, orderID))(t.charged) },
			func() error { return each(db.Refunds(ctx, orderID))(t.refunded) },
			func() error { return each(db.Movements(ctx, orderID))(t.moved) },
			func() error { return each(db.OutboxEvents(ctx, orderID))(t.published) },
			func() error { return each(db.Receipt(ctx, orderID))(t.mailed) },
			func() error {
				return each(db.StoppedTwins(ctx, timelinedb.StoppedTwinsParams{Subjects: t.subjects, Limit: maxTwins}))(t.stopped)
			},
		} {
			if err := read(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the order's timeline: %w", err)
	}
	slices.SortStableFunc(t.events, func(a, b Event) int { return a.At.Compare(b.At) })
	return t.events, nil
}

func each[Row any](rows []Row, err error) func(func(Row)) error {
	return func(tell func(Row)) error {
		for _, row := range rows {
			tell(row)
		}
		return err
	}
}
