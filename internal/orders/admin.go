package orders

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
)

// Movement is a change of a product's stock, in units. Delta is its effect on the available units.
// Its cause is an order, or a line of a supplier's delivery.
type Movement struct {
	ID              int64
	At              time.Time
	Kind            string
	Quantity, Delta int64
	OrderID         *uuid.UUID
	Supplier        string
	Delivery        string
	Line            int32
}

// All returns up to limit orders of all customers, newest first, and whether there are more. The
// list starts behind the order before, if it is not nil.
func (s *Service) All(ctx context.Context, limit int32, before *uuid.UUID) ([]Order, bool, error) {
	rows, err := s.db.ListAllOrders(ctx, ordersdb.ListAllOrdersParams{Limit: limit + 1, Before: before})
	if err != nil {
		return nil, false, fmt.Errorf("list all orders: %w", err)
	}
	more := len(rows) > int(limit)
	if more {
		rows = rows[:limit]
	}
	all := make([]Order, len(rows))
	for i, row := range rows {
		all[i] = header(ordersdb.GetOrderRow(row))
	}
	all, err = withLines(ctx, s.db, all)
	return all, more, err
}

// ByNumber returns up to limit orders with a number or an id as people type it, newest first. With
// a number it reads all orders (D49).
func (s *Service) ByNumber(ctx context.Context, limit int32, text string) ([]Order, error) {
	if id, err := uuid.Parse(strings.TrimSpace(text)); err == nil {
		order, err := s.Get(ctx, id)
		if errors.Is(err, ErrNotFound) {
			return nil, nil
		}
		return []Order{order}, err
	}
	end, ok := numberEnd(text)
	if !ok {
		return nil, nil
	}
	rows, err := s.db.FindByNumber(ctx, ordersdb.FindByNumberParams{Limit: limit, IDEnd: end})
	if err != nil {
		return nil, fmt.Errorf("find orders by their number: %w", err)
	}
	found := make([]Order, len(rows))
	for i, row := range rows {
		found[i] = header(ordersdb.GetOrderRow(row))
	}
	return withLines(ctx, s.db, found)
}

// Movements returns up to limit movements of a product, newest first, and whether there are more.
// The list starts behind the movement before, if it is not nil.
func (s *Service) Movements(ctx context.Context, sku string, limit int32, before *int64) ([]Movement, bool, error) {
	rows, err := s.db.ListMovements(ctx, ordersdb.ListMovementsParams{Sku: sku, Limit: limit + 1, Before: before})
	if err != nil {
		return nil, false, fmt.Errorf("list the movements: %w", err)
	}
	more := len(rows) > int(limit)
	if more {
		rows = rows[:limit]
	}
	all := make([]Movement, len(rows))
	for i, row := range rows {
		all[i] = Movement{ID: row.ID, At: row.CreatedAt.UTC(), Kind: row.Kind,
			Quantity: row.Quantity, Delta: row.Delta, OrderID: row.OrderID}
		if row.OrderID == nil {
			all[i].Supplier, all[i].Delivery, all[i].Line = *row.Supplier, *row.DeliveryID, *row.Line
		}
	}
	return all, more, nil
}
