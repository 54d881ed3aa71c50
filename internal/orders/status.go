package orders

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/pg"
)

// Status is the state of an order.
type Status string

// An order moves placed → paying → paid → refunded. A declined payment takes it back to placed. It
// can also end as canceled or expired.
const (
	Placed   Status = "placed"
	Paying   Status = "paying"
	Paid     Status = "paid"
	Refunded Status = "refunded"
	Canceled Status = "canceled"
	Expired  Status = "expired"
)

// Events of an order, one for each change of its status.
const (
	EventPlaced          = "order.placed"
	EventPaying          = "order.paying"
	EventPaymentDeclined = "order.payment_declined"
	EventPaid            = "order.paid"
	EventRefunded        = "order.refunded"
	EventCanceled        = "order.canceled"
	EventExpired         = "order.expired"
)

// EventDeclinedLate tells of a payment that was declined when its order had ended. The order stays
// as it is.
const EventDeclinedLate = "payment.declined_late"

// edge is a change of status that an order may make.
type edge struct{ from, to Status }

// consequence is what belongs to an edge: its event, and the movement of the order's stock, if any.
type consequence struct{ event, movement string }

// sold is the movement of units that were reserved and are paid for now.
const sold = "sold"

var edges = map[edge]consequence{
	{Placed, Paying}:   {event: EventPaying},
	{Paying, Placed}:   {event: EventPaymentDeclined},
	{Paying, Paid}:     {event: EventPaid, movement: sold},
	{Paid, Refunded}:   {event: EventRefunded},
	{Placed, Canceled}: {event: EventCanceled, movement: "released"},
	{Paying, Canceled}: {event: EventCanceled, movement: "released"},
	{Placed, Expired}:  {event: EventExpired, movement: "released"},
	{Paying, Expired}:  {event: EventExpired, movement: "released"},
}

// LegalChange is a change of status that an order may make, with its event. From is "" for a new
// order.
type LegalChange struct {
	Event    string
	From, To Status
}

// LegalChanges returns all of them. The events of an order are a chain of these.
func LegalChanges() []LegalChange {
	legal := []LegalChange{{Event: EventPlaced, To: Placed}}
	for e, then := range edges {
		legal = append(legal, LegalChange{Event: then.event, From: e.from, To: e.to})
	}
	return legal
}

// EventData is the payload of an order's events.
type EventData struct {
	Status   Status `json:"status"`
	Currency string `json:"currency"`
	Total    int64  `json:"total"`
	// Origin is what the change came from. With it, a change that a restore lost is made again.
	Origin json.RawMessage `json:"origin,omitempty"`
}

// Locked holds orders that no other transaction changes until this one ends.
type Locked struct{ rows *[]ordersdb.LockOrdersRow }

// LockTx queues the lock of orders. They are known after the next Flush of tx. A transaction locks
// orders before charges, and charges before stock: transactions that keep this order cannot
// deadlock. See docs/decisions.md, D13.
func (s *Service) LockTx(tx *pg.Pipe, ids ...uuid.UUID) *Locked {
	ids = slices.Clone(ids)
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	return &Locked{pg.Later(tx, ordersdb.New(tx).LockOrders, slices.Compact(ids))}
}

// ListHeld returns those of the orders that another transaction holds locked.
func (s *Service) ListHeld(ctx context.Context, ids []string) ([]string, error) {
	return s.db.ListHeldOrders(ctx, ids)
}

// Order returns one of the locked orders without its lines, or ErrNotFound if it does not exist.
// The caller decides which customer may see it.
func (l *Locked) Order(id uuid.UUID) (Order, error) {
	for _, row := range *l.rows {
		if row.ID == id {
			return header(ordersdb.GetOrderRow(row)), nil
		}
	}
	return Order{}, ErrNotFound
}

// Change moves an order to a new status. Origin is marshaled to JSON for the event; it may be nil.
type Change struct {
	OrderID uuid.UUID
	To      Status
	Origin  any
}

// ChangeStatusTx queues the changes of locked orders, with the stock movements and events that
// belong to them. An order changes at most once in a transaction.
func (s *Service) ChangeStatusTx(ctx context.Context, tx *pg.Pipe, locked *Locked, changes ...Change) error {
	var statuses ordersdb.ChangeStatusesParams
	var moves ordersdb.MoveStockParams
	var events []outbox.NewEvent
	for _, change := range changes {
		order, err := locked.Order(change.OrderID)
		if err != nil {
			return err
		}
		then, legal := edges[edge{order.Status, change.To}]
		if !legal {
			return fmt.Errorf("order %s cannot go from %s to %s", order.ID, order.Status, change.To)
		}
		order.Status = change.To
		event, err := newEvent(then.event, order, change.Origin)
		if err != nil {
			return err
		}
		events = append(events, event)
		statuses.Ids = append(statuses.Ids, order.ID)
		statuses.Statuses = append(statuses.Statuses, string(change.To))
		if then.movement != "" {
			moves.OrderIds = append(moves.OrderIds, order.ID)
			moves.Kinds = append(moves.Kinds, then.movement)
		}
	}
	if err := ordersdb.New(tx).ChangeStatuses(ctx, statuses); err != nil {
		return fmt.Errorf("change the orders' status: %w", err)
	}
	if err := moveStockTx(ctx, tx, moves); err != nil {
		return err
	}
	return outbox.EnqueueTx(ctx, tx, events...)
}

// TellDeclinedLateTx queues the event of a payment that was declined when its locked order had
// ended. Origin is that of a Change.
func (s *Service) TellDeclinedLateTx(ctx context.Context, tx *pg.Pipe, locked *Locked, id uuid.UUID, origin any) error {
	order, err := locked.Order(id)
	if err != nil {
		return err
	}
	event, err := newEvent(EventDeclinedLate, order, origin)
	if err != nil {
		return err
	}
	return outbox.EnqueueTx(ctx, tx, event)
}

// ReturnStockTx queues the return of a sold order's units, once.
func (s *Service) ReturnStockTx(ctx context.Context, tx *pg.Pipe, orderID uuid.UUID) error {
	return moveStockTx(ctx, tx, ordersdb.MoveStockParams{OrderIds: []uuid.UUID{orderID}, Kinds: []string{"returned"}})
}

// moveStockTx writes one movement per order and SKU. Movements that change what is available lock
// the stock rows first, in SKU order. A sale does not: its units left with the reservation. See
// docs/decisions.md, D11.
func moveStockTx(ctx context.Context, tx *pg.Pipe, moves ordersdb.MoveStockParams) error {
	if len(moves.OrderIds) == 0 {
		return nil
	}
	db := ordersdb.New(tx)
	if slices.ContainsFunc(moves.Kinds, func(kind string) bool { return kind != sold }) {
		if err := db.LockStockOfOrders(ctx, moves.OrderIds); err != nil {
			return fmt.Errorf("lock the stock of the orders: %w", err)
		}
	}
	if err := db.MoveStock(ctx, moves); err != nil {
		return fmt.Errorf("move the stock of the orders: %w", err)
	}
	return nil
}

// newEvent returns an event about the order.
func newEvent(eventType string, order Order, origin any) (outbox.NewEvent, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return outbox.NewEvent{}, fmt.Errorf("make an event id: %w", err)
	}
	data := EventData{Status: order.Status, Currency: order.Currency, Total: order.Total}
	if origin != nil {
		if data.Origin, err = json.Marshal(origin); err != nil {
			return outbox.NewEvent{}, fmt.Errorf("encode what event %s came from: %w", eventType, err)
		}
	}
	return outbox.NewEvent{ID: id, Type: eventType, OrderID: order.ID, Data: data}, nil
}
