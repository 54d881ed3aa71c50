package orders

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
	"github.com/onceshop/onceshop/internal/pg"
)

// Get returns an order with its lines, or ErrNotFound. The caller decides which customer may see
// it.
func (s *Service) Get(ctx context.Context, id uuid.UUID) (Order, error) {
	return s.get(ctx, s.db, id)
}

// GetTx is Get inside a transaction: it sees what the transaction has changed.
func (s *Service) GetTx(ctx context.Context, tx *pg.Pipe, id uuid.UUID) (Order, error) {
	return s.get(ctx, ordersdb.New(tx), id)
}

func (s *Service) get(ctx context.Context, db *ordersdb.Queries, id uuid.UUID) (Order, error) {
	row, err := db.GetOrder(ctx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return Order{}, ErrNotFound
	}
	if err != nil {
		return Order{}, fmt.Errorf("read the order: %w", err)
	}
	all, err := withLines(ctx, db, []Order{header(row)})
	if err != nil {
		return Order{}, err
	}
	return all[0], nil
}

// FindByKey returns the id of the order that the customer placed with the key, or ErrNotFound.
func (s *Service) FindByKey(ctx context.Context, customerID uuid.UUID, key dedup.Key) (uuid.UUID, error) {
	row, err := s.db.FindOrderByKey(ctx,
		ordersdb.FindOrderByKeyParams{CustomerID: customerID, IdempotencyKey: string(key)})
	if errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, ErrNotFound
	}
	if err != nil {
		return uuid.Nil, fmt.Errorf("find the order by its key: %w", err)
	}
	return row.ID, nil
}

// PlacedLately returns the customer's newest order since the given time with the same units and
// another key, without its lines, or ErrNotFound. Canceled, refunded and expired orders do not
// count. The answer can be outdated at once: use it to ask the buyer, not to decide.
func (s *Service) PlacedLately(ctx context.Context, customerID uuid.UUID, key dedup.Key,
	lines []LineRequest, since time.Time) (Order, error) {
	wanted, err := json.Marshal(units(lines))
	if err != nil {
		return Order{}, fmt.Errorf("encode the units: %w", err)
	}
	row, err := s.db.PlacedLately(ctx,
		ordersdb.PlacedLatelyParams{CustomerID: customerID, OtherThan: string(key), Since: since, Units: wanted})
	if errors.Is(err, pgx.ErrNoRows) {
		return Order{}, ErrNotFound
	}
	if err != nil {
		return Order{}, fmt.Errorf("look for the same order: %w", err)
	}
	return header(ordersdb.GetOrderRow(row)), nil
}

// List returns up to limit orders of the customer, newest first, and whether there are more. The
// list starts behind the order after, if it is not nil.
func (s *Service) List(ctx context.Context, customerID uuid.UUID, limit int32, after *uuid.UUID) ([]Order, bool,
	error) {
	rows, err := s.db.ListOrders(ctx,
		ordersdb.ListOrdersParams{CustomerID: customerID, Limit: limit + 1, Before: after})
	if err != nil {
		return nil, false, fmt.Errorf("list the orders: %w", err)
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

// CountErasures returns how often an order was erased.
func (s *Service) CountErasures(ctx context.Context) (int64, error) {
	times, err := s.db.CountErasures(ctx)
	if err != nil {
		return 0, fmt.Errorf("count the erasures: %w", err)
	}
	return times, nil
}

// Products returns all products on sale, by position.
func (s *Service) Products(ctx context.Context) ([]Product, error) {
	rows, err := s.db.ListProducts(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the products: %w", err)
	}
	products := make([]Product, len(rows))
	for i, row := range rows {
		products[i] = Product{SKU: row.Sku, Name: row.Name, Description: row.Description,
			Currency: row.Currency, UnitPrice: row.UnitPrice, Available: row.Available}
	}
	return products, nil
}

func withLines(ctx context.Context, db *ordersdb.Queries, all []Order) ([]Order, error) {
	ids := make([]uuid.UUID, len(all))
	at := make(map[uuid.UUID]int, len(all))
	for i, order := range all {
		ids[i], at[order.ID] = order.ID, i
	}
	rows, err := db.GetOrderLines(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("read the orders' lines: %w", err)
	}
	for _, row := range rows {
		order := &all[at[row.OrderID]]
		order.Lines = append(order.Lines, Line{SKU: row.Sku, Name: row.Name, Quantity: row.Quantity,
			UnitPrice: row.UnitPrice, Amount: row.Quantity * row.UnitPrice})
	}
	return all, nil
}

func header(row ordersdb.GetOrderRow) Order {
	return Order{ID: row.ID, CustomerID: row.CustomerID, Status: Status(row.Status), Email: row.Email,
		Currency: row.Currency, Total: row.Total, CreatedAt: row.CreatedAt.UTC()}
}
