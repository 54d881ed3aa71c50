// Package timeline explains why everything about an order happened once. It is a read model over
// the tables of all domains, the only package that reads them, and a record of the twins that were
// stopped.
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

// Event is one decision about an order. Decision is a word or two and Detail a sentence. An event
// never holds an idempotency key, only the key's hash.
type Event struct {
	At       time.Time `json:"at"`
	Layer    string    `json:"layer"`
	Decision string    `json:"decision"`
	Detail   string    `json:"detail"`
}

// The layers of events. The first five also stop twins.
const (
	UniqueKey = string(dedup.ByKey)    // a UNIQUE constraint of the database
	Memory    = string(dedup.ByMemory) // the memory of one node
	Redis     = "redis"                // a claim that all nodes share
	Broker    = "broker"               // a message id inside the broker's duplicate window
	Fencing   = "fencing token"        // the attempt number of a lease, and the state it protects
	Stock     = "stock"                // a movement of units
	Provider  = "provider"             // a call to the payment provider
	Webhook   = "webhook"              // an event of the payment provider
	Outbox    = "outbox"               // an event of ours on its way to the broker
	Receipt   = "receipt"              // the mail about a paid order
	Expiry    = "expiry"               // the time limit of an unpaid order
	Operator  = "operator"             // a decision by hand
)

// maxTwins is how many stopped twins a timeline shows: the newest.
const maxTwins = 200

// Service reads timelines.
type Service struct {
	pool *pgxpool.Pool
}

// New returns a service on the pool's database.
func New(pool *pgxpool.Pool) *Service { return &Service{pool: pool} }

// Of returns the events of an order, oldest first, or none if the order does not exist. It does not
// check who is asking. All reads share one snapshot, so that no effect appears without its cause.
func (s *Service) Of(ctx context.Context, orderID uuid.UUID) ([]Event, error) {
	return s.read(ctx, orderID, false)
}

// ForOperators returns the events of Of, with the names of operators and their reasons.
func (s *Service) ForOperators(ctx context.Context, orderID uuid.UUID) ([]Event, error) {
	return s.read(ctx, orderID, true)
}

func (s *Service) read(ctx context.Context, orderID uuid.UUID, operators bool) ([]Event, error) {
	t := &story{events: []Event{}, subjects: []uuid.UUID{orderID}, operators: operators}
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := pgx.BeginTxFunc(ctx, s.pool, snapshot, func(tx pgx.Tx) error {
		db := timelinedb.New(tx)
		// Causes before effects: the sort below is stable, and one transaction's rows have the same
		// time.
		for _, read := range []func() error{
			func() error { return each(db.OrderPlaced(ctx, orderID))(t.placed) },
			func() error { return each(db.Cancellation(ctx, orderID))(t.canceled) },
			func() error { return each(db.OperatorActions(ctx, orderID))(t.operated) },
			func() error { return each(db.ProviderEvents(ctx, orderID))(t.webhook) },
			func() error { return each(db.Charges(ctx, orderID))(t.charge) },
			func() error { return each(db.Refunds(ctx, orderID))(t.refund) },
			func() error { return each(db.Disputes(ctx, orderID))(t.dispute) },
			func() error { return each(db.Movements(ctx, orderID))(t.movement) },
			func() error { return each(db.OutboxEvents(ctx, orderID))(t.outboxEvent) },
			func() error { return each(db.Receipt(ctx, orderID))(t.receipt) },
			func() error {
				twins := timelinedb.StoppedTwinsParams{Subjects: t.subjects, Limit: maxTwins}
				return each(db.StoppedTwins(ctx, twins))(t.stop)
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
	return func(add func(Row)) error {
		for _, row := range rows {
			add(row)
		}
		return err
	}
}
