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
	"github.com/onceshop/onceshop/internal/pg"
)

// Step moves an order that QueueLock has locked.
type Step struct {
	Order Order
	To    Status
}

// QueueLock is LockTx for many orders at once: after the pipe's next Flush, `locked` has those that exist.
func (s *Service) QueueLock(tx *pg.Pipe, ids []uuid.UUID, locked map[uuid.UUID]Order) {
	ids = slices.Clone(ids)
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	tx.Queue(ordersdb.LockOrders, slices.Compact(ids)).Query(func(rows pgx.Rows) error {
		var found []ordersdb.GetOrderRow
		if err := pg.Into(&found)(rows); err != nil {
			return err
		}
		for _, row := range found {
			locked[row.ID] = header(row)
		}
		return nil
	})
}

// QueueSteps is ChangeStatusTx for many orders at once, as far as they touch no stock that others wait for: to paying, paid, or back to placed.
func (s *Service) QueueSteps(ctx context.Context, tx *pg.Pipe, steps []Step) error {
	p := ordersdb.ProceedOrdersParams{Expiry: s.expiry}
	var sales []uuid.UUID
	var events []outbox.NewEvent
	for _, step := range steps {
		then, legal := edges[edge{step.Order.Status, step.To}]
		if !legal || (then.movement != "" && then.movement != sold) {
			return fmt.Errorf("order %s cannot go from %s to %s together with others", step.Order.ID, step.Order.Status, step.To)
		}
		if then.movement == sold {
			sales = append(sales, step.Order.ID)
		}
		step.Order.Status = step.To
		event, err := newEvent(then.event, step.Order)
		if err != nil {
			return err
		}
		events = append(events, event)
		p.Ids, p.Statuses = append(p.Ids, step.Order.ID), append(p.Statuses, string(step.To))
	}
	tx.Queue(ordersdb.ProceedOrders, p.Expiry, p.Ids, p.Statuses)
	if len(sales) > 0 {
		tx.Queue(ordersdb.SellOrders, sales)
	}
	return outbox.EnqueueTx(ctx, tx, events...)
}

// LegacyLockTx returns the order, without its lines, and keeps others from changing it until the transaction ends, or ErrNotFound.
// Who may have it is the caller's to decide. Lock an order before its charges, and those before its stock.
func (s *Service) LegacyLockTx(ctx context.Context, tx pgx.Tx, id uuid.UUID) (Order, error) {
	row, err := ordersdb.New(tx).LockOrder(ctx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return Order{}, ErrNotFound
	}
	if err != nil {
		return Order{}, fmt.Errorf("lock the order: %w", err)
	}
	return header(ordersdb.GetOrderRow(row)), nil
}

// LegacyChangeStatusTx moves an order that LegacyLockTx returned, with the stock movement and the event that belong to the change.
func (s *Service) LegacyChangeStatusTx(ctx context.Context, tx pgx.Tx, order Order, to Status) error {
	then, legal := edges[edge{order.Status, to}]
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
		if err := legacyMoveStockTx(ctx, db, order.ID, then.movement); err != nil {
			return err
		}
	}
	order.Status = to
	return s.enqueueTx(ctx, tx, then.event, order)
}

// LegacyReturnStockTx puts the units of a sold order back on sold, once.
func (s *Service) LegacyReturnStockTx(ctx context.Context, tx pgx.Tx, orderID uuid.UUID) error {
	return legacyMoveStockTx(ctx, ordersdb.New(tx), orderID, "returned")
}

// legacyMoveStockTx writes the movement of every SKU of the order, after taking the stock rows' locks in SKU order.
func legacyMoveStockTx(ctx context.Context, db *ordersdb.Queries, orderID uuid.UUID, kind string) error {
	if kind != sold {
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

func (s *Service) enqueueTx(ctx context.Context, tx pgx.Tx, eventType string, order Order) error {
	event, err := newEvent(eventType, order)
	if err != nil {
		return err
	}
	return outbox.EnqueueTx(ctx, tx, event)
}
