package orders

import (
	"context"
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
	var sold []uuid.UUID
	var events []outbox.NewEvent
	for _, step := range steps {
		then, legal := changes[change{step.Order.Status, step.To}]
		if !legal || (then.movement != "" && then.movement != sale) {
			return fmt.Errorf("order %s cannot go from %s to %s together with others", step.Order.ID, step.Order.Status, step.To)
		}
		if then.movement == sale {
			sold = append(sold, step.Order.ID)
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
	if len(sold) > 0 {
		tx.Queue(ordersdb.SellOrders, sold)
	}
	return outbox.EnqueueTx(ctx, tx, events...)
}
