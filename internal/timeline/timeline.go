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

// Event is one decision about an order. Decision is a word or two and Detail a sentence with the
// ids that it is about. An event never holds an idempotency key, only the key's hash.
type Event struct {
	At       time.Time `json:"at"`
	Layer    string    `json:"layer"`
	Decision string    `json:"decision"`
	Detail   string    `json:"detail"`

	// Text is the sentence of Detail and IDs are the ids, such as "charge 0192…", for pages that
	// show them apart.
	Text  string   `json:"-"`
	IDs   []string `json:"-"`
	Group Group    `json:"-"`
	// Kind and Times are of stopped twins: how they were stopped, and how many.
	Kind  Kind  `json:"-"`
	Times int32 `json:"-"`
}

// Group is what an event is about.
type Group string

// The groups of events.
const (
	AboutOrder   Group = "order"
	AboutPayment Group = "payment"
	AboutStock   Group = "stock"
	AboutEvents  Group = "events"
	AboutReceipt Group = "receipt"
)

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
	Browser   = "browser"              // the script of a page, which sends a form once
)

// maxTwins is how many stopped twins a timeline shows: the newest.
const maxTwins = 200

// Service reads timelines.
type Service struct {
	pool *pgxpool.Pool
}

// New returns a service on the pool's database.
func New(pool *pgxpool.Pool) *Service { return &Service{pool: pool} }

// Of returns the newest events of an order, oldest first, or none if the order does not exist. It
// also reports whether there are older ones. It does not check who is asking. All reads share one
// snapshot, so that no effect appears without its cause.
func (s *Service) Of(ctx context.Context, orderID uuid.UUID, newest int) (events []Event, older bool, err error) {
	return s.read(ctx, orderID, newest, false)
}

// ForOperators returns the events of Of, with the names of operators and their reasons.
func (s *Service) ForOperators(
	ctx context.Context, orderID uuid.UUID, newest int,
) (events []Event, older bool, err error) {
	return s.read(ctx, orderID, newest, true)
}

func (s *Service) read(
	ctx context.Context, orderID uuid.UUID, newest int, operators bool,
) (events []Event, older bool, err error) {
	t := &story{events: []Event{}, subjects: []uuid.UUID{orderID}, operators: operators}
	limit := int32(newest + 1) //nolint:gosec // a page
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, s.pool, snapshot, func(tx pgx.Tx) error {
		db := timelinedb.New(tx)
		// Causes before effects: the sort below is stable, and one transaction's rows have the same
		// time.
		for _, read := range []func() error{
			func() error { return each(db.OrderPlaced(ctx, orderID))(t.placed) },
			func() error { return each(db.Cancellation(ctx, orderID))(t.canceled) },
			func() error {
				rows := timelinedb.OperatorActionsParams{OrderID: orderID, Limit: limit}
				return each(db.OperatorActions(ctx, rows))(t.operated)
			},
			func() error {
				rows := timelinedb.ProviderEventsParams{OrderID: orderID, Limit: limit}
				return each(db.ProviderEvents(ctx, rows))(t.webhook)
			},
			func() error {
				return each(db.Charges(ctx, timelinedb.ChargesParams{OrderID: orderID, Limit: limit}))(t.charge)
			},
			func() error {
				return each(db.Refunds(ctx, timelinedb.RefundsParams{OrderID: orderID, Limit: limit}))(t.refund)
			},
			func() error {
				return each(db.Disputes(ctx, timelinedb.DisputesParams{OrderID: orderID, Limit: limit}))(t.dispute)
			},
			func() error {
				return each(db.Movements(ctx, timelinedb.MovementsParams{OrderID: orderID, Limit: limit}))(t.movement)
			},
			func() error {
				rows := timelinedb.OutboxEventsParams{OrderID: orderID, Limit: limit}
				return each(db.OutboxEvents(ctx, rows))(t.outboxEvent)
			},
			func() error { return each(db.Receipt(ctx, orderID))(t.receipt) },
			func() error {
				twins := timelinedb.StoppedTwinsParams{Subjects: t.subjects, Limit: min(limit, maxTwins)}
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
		return nil, false, fmt.Errorf("read the order's timeline: %w", err)
	}
	slices.SortStableFunc(t.events, func(a, b Event) int { return a.At.Compare(b.At) })
	if n := len(t.events); n > newest {
		return t.events[n-newest:], true, nil
	}
	return t.events, false, nil
}

// each returns a function that adds the rows, which come newest first, oldest first.
func each[Row any](rows []Row, err error) func(func(Row)) error {
	return func(add func(Row)) error {
		for _, row := range slices.Backward(rows) {
			add(row)
		}
		return err
	}
}
