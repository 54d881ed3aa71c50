package orders

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/pg"
)

// handed is who gets stock, and who has to go without.
type handed struct {
	placed []*wish
	short  []uuid.UUID
}

// handOut gives the stock to the inserted orders in the order in which they came. One that is short takes nothing, and the next is asked.
func handOut(wishes []*wish, inserted map[uuid.UUID]bool, available map[string]int64) handed {
	var h handed
	for _, w := range wishes {
		if !inserted[w.order.ID] {
			continue
		}
		wanted := units(w.Lines)
		if short := shortages(wanted, available); len(short) > 0 {
			w.end(dedup.Answer{}, OutOfStockError{Items: short})
			h.short = append(h.short, w.order.ID)
			continue
		}
		for sku, quantity := range wanted {
			available[sku] -= quantity
		}
		h.placed = append(h.placed, w)
	}
	return h
}

// shortages lists, by SKU, what there is too little of.
func shortages(wanted, available map[string]int64) []Shortage {
	var short []Shortage
	for sku, quantity := range wanted {
		if available[sku] < quantity {
			short = append(short, Shortage{SKU: sku, Requested: quantity, Available: available[sku]})
		}
	}
	slices.SortFunc(short, func(a, b Shortage) int { return strings.Compare(a.SKU, b.SKU) })
	return short
}

func (s *Service) reserveTx(ctx context.Context, tx *pg.Pipe, h handed) error {
	db := ordersdb.New(tx)
	if len(h.short) > 0 {
		if err := db.DeleteShort(ctx, h.short); err != nil {
			return fmt.Errorf("take back the orders without stock: %w", err)
		}
	}
	if len(h.placed) == 0 {
		return nil
	}
	var lines ordersdb.ReserveParams
	var events []outbox.NewEvent
	for _, w := range h.placed {
		for i, line := range w.order.Lines {
			lines.OrderIds = append(lines.OrderIds, w.order.ID)
			lines.Lines = append(lines.Lines, int32(i+1))
			lines.Skus = append(lines.Skus, line.SKU)
			lines.Names = append(lines.Names, line.Name)
			lines.Quantities = append(lines.Quantities, line.Quantity)
			lines.UnitPrices = append(lines.UnitPrices, line.UnitPrice)
		}
		event, err := newEvent(EventPlaced, w.order)
		if err != nil {
			return err
		}
		events = append(events, event)
		w.end(placedAnswer(w.order.ID, w.body), nil)
	}
	if err := db.Reserve(ctx, lines); err != nil {
		return fmt.Errorf("reserve the stock: %w", err)
	}
	return outbox.EnqueueTx(ctx, tx, events...)
}
