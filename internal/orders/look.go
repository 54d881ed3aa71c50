package orders

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/coalesce"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/problem"
)

// lookAll ends the wishes whose keys have an order already, and makes the others orders at today's prices, in one round trip. It is a batch of
// its own, so that while one batch is committed the next is looked up, and a replay waits for no commit. Prices and stock are read before the keys:
// who finds that a twin has taken the last unit finds the twin's order too.
func (s *Service) lookAll(ctx context.Context, wishes []*wish) ([]coalesce.Outcome[struct{}], error) {
	ctx, cancel := context.WithTimeout(ctx, placeTimeout)
	defer cancel()
	var offers []ordersdb.GetOffersRow
	var found []ordersdb.FindOrdersByKeysRow
	err := pg.Look(ctx, s.pool, func(batch *pgx.Batch) {
		batch.Queue(ordersdb.GetOffers, skusOf(wishes)).Query(pg.Into(&offers))
		queueFind(batch, wishes).Query(pg.Into(&found))
	})
	if err != nil {
		return nil, shared(fmt.Errorf("read the products and the orders under the keys: %w", err))
	}
	for _, w := range wishes {
		w.done = false // it may have been in a batch that failed
	}
	replay(wishes, found)
	s.offer(pending(wishes), offers)
	return make([]coalesce.Outcome[struct{}], len(wishes)), nil
}

func queueFind(batch *pgx.Batch, wishes []*wish) *pgx.QueuedQuery {
	customers, keys := make([]uuid.UUID, len(wishes)), make([]string, len(wishes))
	for i, w := range wishes {
		customers[i], keys[i] = w.CustomerID, string(w.Key)
	}
	return batch.Queue(ordersdb.FindOrdersByKeys, customers, keys)
}

// reread ends the wishes whose keys have an order by now.
func (s *Service) reread(ctx context.Context, wishes []*wish) error {
	var found []ordersdb.FindOrdersByKeysRow
	err := pg.Look(ctx, s.pool, func(batch *pgx.Batch) { queueFind(batch, wishes).Query(pg.Into(&found)) })
	if err != nil {
		return fmt.Errorf("find the orders by their keys: %w", err)
	}
	replay(wishes, found)
	return nil
}

func replay(wishes []*wish, found []ordersdb.FindOrdersByKeysRow) {
	if len(found) == 0 {
		return
	}
	rows := make(map[scope]ordersdb.FindOrdersByKeysRow, len(found))
	for _, row := range found {
		rows[scope{row.CustomerID, row.IdempotencyKey}] = row
	}
	for _, w := range wishes {
		if row, ok := rows[w.scope()]; ok {
			w.end(dedup.Replay(row.Fingerprint, w.fingerprint, placedAnswer(row.ID, row.Answer)))
		}
	}
}

// skusOf returns what the wishes ask for, each once and in order.
func skusOf(wishes []*wish) []string {
	var skus []string
	for _, w := range wishes {
		for _, line := range w.Lines {
			skus = append(skus, line.SKU)
		}
	}
	slices.Sort(skus)
	return slices.Compact(skus)
}

// offer turns wishes into orders at today's prices. A wish that asks for more than there is ends here: its turn has come, and
// the stock is short. For one whose key an earlier one has, that is no question yet.
func (s *Service) offer(wishes []*wish, products []ordersdb.GetOffersRow) {
	offers, available := make(map[string]ordersdb.GetOffersRow, len(products)), make(map[string]int64, len(products))
	for _, row := range products {
		offers[row.Sku], available[row.Sku] = row, row.Available
	}
	for _, w := range wishes {
		if err := s.price(w, offers); err != nil {
			w.end(dedup.Answer{}, err)
		}
	}
	for _, w := range firsts(pending(wishes)) {
		if short := shortages(units(w.Lines), available); len(short) > 0 {
			w.end(dedup.Answer{}, OutOfStockError{Items: short})
		}
	}
}

// price makes the order that the wish is for.
func (s *Service) price(w *wish, offers map[string]ordersdb.GetOffersRow) error {
	var unknown []string
	for sku := range units(w.Lines) {
		if _, ok := offers[sku]; !ok {
			unknown = append(unknown, sku)
		}
	}
	if len(unknown) > 0 {
		return UnknownSKUError{SKUs: slices.Sorted(slices.Values(unknown))}
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make an order id: %w", err)
	}
	order := Order{ID: id, CustomerID: w.CustomerID, Status: Placed, Email: w.Email, Currency: offers[w.Lines[0].SKU].Currency, CreatedAt: s.timestamp()}
	for i, line := range w.Lines {
		p := offers[line.SKU]
		if p.Currency != order.Currency {
			return problem.InvalidError{Field: fmt.Sprintf("lines[%d].sku", i),
				Reason: fmt.Sprintf("%s is sold in %s, the products before it in %s; place one order per currency", p.Sku, p.Currency, order.Currency)}
		}
		amount := p.UnitPrice * line.Quantity
		order.Lines = append(order.Lines, Line{SKU: p.Sku, Name: p.Name, Quantity: line.Quantity, UnitPrice: p.UnitPrice, Amount: amount})
		order.Total += amount
	}
	w.order = order
	if w.body, err = json.Marshal(order); err != nil {
		return fmt.Errorf("encode the order: %w", err)
	}
	return nil
}
