package orders

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
	"github.com/onceshop/onceshop/internal/outbox"
)

// Status is where an order stands.
type Status string

// An order moves placed → paying → paid → refunded, back to placed when a payment is declined, or ends as canceled or expired.
const (
	Placed   Status = "placed"
	Paying   Status = "paying"
	Paid     Status = "paid"
	Refunded Status = "refunded"
	Canceled Status = "canceled"
	Expired  Status = "expired"
)

// Events of an order, one for every change of its status.
const (
	EventPlaced          = "order.placed"
	EventPaying          = "order.paying"
	EventPaymentDeclined = "order.payment_declined"
	EventPaid            = "order.paid"
	EventRefunded        = "order.refunded"
	EventCanceled        = "order.canceled"
	EventExpired         = "order.expired"
)

// change is an edge of the order's life.
type change struct{ from, to Status }

// consequence is what an edge brings with it: its event, and what becomes of the stock ("" for nothing).
type consequence struct{ event, movement string }

// sale is the movement of what was reserved and is paid for.
const sale = "sold"

var changes = map[change]consequence{
	{Placed, Paying}:   {event: EventPaying},
	{Paying, Placed}:   {event: EventPaymentDeclined},
	{Paying, Paid}:     {event: EventPaid, movement: sale},
	{Paid, Refunded}:   {event: EventRefunded},
	{Placed, Canceled}: {event: EventCanceled, movement: "released"},
	{Paying, Canceled}: {event: EventCanceled, movement: "released"},
	{Placed, Expired}:  {event: EventExpired, movement: "released"},
	{Paying, Expired}:  {event: EventExpired, movement: "released"},
}

// LegalChange is a step that an order may take, with the event that tells of it. From is "" for an order's first step.
type LegalChange struct {
	Event    string
	From, To Status
}

// LegalChanges returns every step that an order may take: what is told of an order must be a chain of these.
func LegalChanges() []LegalChange {
	legal := []LegalChange{{Event: EventPlaced, To: Placed}}
	for edge, then := range changes {
		legal = append(legal, LegalChange{Event: then.event, From: edge.from, To: edge.to})
	}
	return legal
}

// EventData is what an order's events carry.
type EventData struct {
	Status   Status `json:"status"`
	Currency string `json:"currency"`
	Total    int64  `json:"total"`
}

// LockTx returns the order, without its lines, and keeps others from changing it until the transaction ends, or ErrNotFound.
// Who may have it is the caller's to decide. Lock an order before its charges, and those before its stock.
func (s *Service) LockTx(ctx context.Context, tx pgx.Tx, id uuid.UUID) (Order, error) {
	row, err := ordersdb.New(tx).LockOrder(ctx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return Order{}, ErrNotFound
	}
	if err != nil {
		return Order{}, fmt.Errorf("lock the order: %w", err)
	}
	return header(ordersdb.GetOrderRow(row)), nil
}

// ChangeStatusTx moves an order that LockTx returned, with the stock movement and the event that belong to the change.
func (s *Service) ChangeStatusTx(ctx context.Context, tx pgx.Tx, order Order, to Status) error {
	then, legal := changes[change{order.Status, to}]
	if !legal {
		return fmt.Errorf("order %s cannot go from %s to %s", order.ID, order.Status, to)
	}
	db := ordersdb.New(tx)
	changed, err := db.ChangeStatus(ctx, ordersdb.ChangeStatusParams{ID: order.ID, OldStatus: string(order.Status), NewStatus: string(to)})
	if err != nil {
		return fmt.Errorf("change the order to %s: %w", to, err)
	}
	if changed != 1 {
		return fmt.Errorf("order %s is no longer %s", order.ID, order.Status)
	}
	if to == Paying {
		if err := db.KeepOpen(ctx, ordersdb.KeepOpenParams{ID: order.ID, Expiry: s.expiry}); err != nil {
			return fmt.Errorf("keep the order open: %w", err)
		}
	}
	if then.movement != "" {
		if err := moveStockTx(ctx, db, order.ID, then.movement); err != nil {
			return err
		}
	}
	order.Status = to
	return s.enqueueTx(ctx, tx, then.event, order)
}

// ReturnStockTx puts the units of a sold order back on sale, once.
func (s *Service) ReturnStockTx(ctx context.Context, tx pgx.Tx, orderID uuid.UUID) error {
	return moveStockTx(ctx, ordersdb.New(tx), orderID, "returned")
}

// moveStockTx writes the movement of every SKU of the order, after taking the stock rows' locks in SKU order.
func moveStockTx(ctx context.Context, db *ordersdb.Queries, orderID uuid.UUID, kind string) error {
	if kind != sale {
		lines, err := db.GetOrderLines(ctx, []uuid.UUID{orderID})
		if err != nil {
			return fmt.Errorf("read the order's lines: %w", err)
		}
		skus := make([]string, len(lines))
		for i, line := range lines {
			skus[i] = line.Sku
		}
		slices.Sort(skus)
		if _, err := db.LockStock(ctx, slices.Compact(skus)); err != nil {
			return fmt.Errorf("lock the stock: %w", err)
		}
	}
	if err := db.MoveStockForOrder(ctx, ordersdb.MoveStockForOrderParams{OrderID: orderID, Kind: kind}); err != nil {
		return fmt.Errorf("move the stock of the order (%s): %w", kind, err)
	}
	return nil
}

// newEvent tells of a change of the order.
func newEvent(eventType string, order Order) (outbox.NewEvent, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return outbox.NewEvent{}, fmt.Errorf("make an event id: %w", err)
	}
	return outbox.NewEvent{ID: id, Type: eventType, OrderID: order.ID, Data: EventData{Status: order.Status, Currency: order.Currency, Total: order.Total}}, nil
}

func (s *Service) enqueueTx(ctx context.Context, tx pgx.Tx, eventType string, order Order) error {
	event, err := newEvent(eventType, order)
	if err != nil {
		return err
	}
	return outbox.EnqueueTx(ctx, tx, event)
}
