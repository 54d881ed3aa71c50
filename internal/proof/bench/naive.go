package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
)

// naiveShop is the shop as a good programmer writes it who was not asked about repeated requests:
// each order in a transaction of its own, a statement at a time. It sells nothing twice and takes
// the stock rows in one order.
type naiveShop struct {
	pool     *pgxpool.Pool
	provider payments.Provider
}

var errNaiveOutOfStock = errors.New("out of stock")

// naiveOrder is the order as the naive shop shows it.
type naiveOrder struct {
	ID        int64       `json:"id"`
	Status    string      `json:"status"`
	Email     string      `json:"email"`
	Currency  string      `json:"currency"`
	Total     int64       `json:"total"`
	Lines     []naiveLine `json:"lines"`
	CreatedAt time.Time   `json:"created_at"`
}

type naiveLine struct {
	SKU       string `json:"sku"`
	Name      string `json:"name"`
	Quantity  int64  `json:"quantity"`
	UnitPrice int64  `json:"unit_price"`
	Amount    int64  `json:"amount"`
	currency  string
}

// place creates an order and takes its stock.
func (s *naiveShop) place(ctx context.Context, customer int64, email string, wanted []orders.LineRequest) (naiveOrder,
	error) {
	order := naiveOrder{Status: "placed", Email: email}
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := order.price(ctx, tx, wanted); err != nil {
			return err
		}
		bySKU := slices.SortedFunc(slices.Values(order.Lines), func(a, b naiveLine) int {
			return cmp.Compare(a.SKU, b.SKU)
		})
		for _, line := range bySKU {
			tag, err := tx.Exec(ctx, "UPDATE stock SET available = available - $2 WHERE sku = $1 AND available >= $2",
				line.SKU, line.Quantity)
			if err != nil {
				return err
			}
			if tag.RowsAffected() == 0 {
				return errNaiveOutOfStock
			}
		}
		err := tx.QueryRow(ctx, "INSERT INTO orders (customer_id, email, currency, total) VALUES ($1, $2, $3, $4) "+
			"RETURNING id, created_at",
			customer, email, order.Currency, order.Total).Scan(&order.ID, &order.CreatedAt)
		if err != nil {
			return err
		}
		return order.writeLines(ctx, tx)
	})
	if err != nil {
		return order, fmt.Errorf("place a naive order: %w", err)
	}
	return order, nil
}

// price fills in the lines at today's prices.
func (o *naiveOrder) price(ctx context.Context, tx pgx.Tx, wanted []orders.LineRequest) error {
	skus := make([]string, len(wanted))
	for i, line := range wanted {
		skus[i] = line.SKU
	}
	rows, err := tx.Query(ctx, "SELECT sku, name, currency, unit_price FROM products WHERE sku = ANY($1)", skus)
	if err != nil {
		return err
	}
	found := map[string]naiveLine{}
	var p naiveLine
	_, err = pgx.ForEachRow(rows, []any{&p.SKU, &p.Name, &p.currency, &p.UnitPrice}, func() error {
		found[p.SKU] = p
		return nil
	})
	if err != nil {
		return err
	}
	for _, line := range wanted {
		p, ok := found[line.SKU]
		if !ok {
			return fmt.Errorf("no product %s", line.SKU)
		}
		p.Quantity, p.Amount = line.Quantity, line.Quantity*p.UnitPrice
		o.Lines, o.Currency, o.Total = append(o.Lines, p), p.currency, o.Total+p.Amount
	}
	return nil
}

func (o *naiveOrder) writeLines(ctx context.Context, tx pgx.Tx) error {
	for i, line := range o.Lines {
		_, err := tx.Exec(ctx, "INSERT INTO order_lines (order_id, line, sku, name, quantity, unit_price) VALUES "+
			"($1, $2, $3, $4, $5, $6)",
			o.ID, i+1, line.SKU, line.Name, line.Quantity, line.UnitPrice)
		if err != nil {
			return err
		}
	}
	for _, line := range o.Lines {
		_, err := tx.Exec(ctx, "INSERT INTO stock_movements (sku, kind, quantity, order_id) VALUES ($1, "+
			"'reserved', $2, $3)", line.SKU, line.Quantity, o.ID)
		if err != nil {
			return err
		}
	}
	return o.tell(ctx, tx, "order.placed")
}

// tell writes the event.
func (o *naiveOrder) tell(ctx context.Context, tx pgx.Tx, event string) error {
	payload, err := json.Marshal(o)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "INSERT INTO outbox (type, order_id, payload) VALUES ($1, $2, $3)", event, o.ID, payload)
	return err
}

// get reads an order again, which is the least that an answer to a repeated request takes.
func (s *naiveShop) get(ctx context.Context, id int64) (naiveOrder, error) {
	order := naiveOrder{ID: id}
	err := s.pool.QueryRow(ctx, "SELECT status, email, currency, total, created_at FROM orders WHERE id = $1", id).
		Scan(&order.Status, &order.Email, &order.Currency, &order.Total, &order.CreatedAt)
	if err != nil {
		return order, fmt.Errorf("read a naive order: %w", err)
	}
	rows, err := s.pool.Query(ctx, "SELECT sku, name, quantity, unit_price FROM order_lines WHERE order_id = $1 "+
		"ORDER BY line", id)
	if err != nil {
		return order, fmt.Errorf("read a naive order's lines: %w", err)
	}
	var line naiveLine
	_, err = pgx.ForEachRow(rows, []any{&line.SKU, &line.Name, &line.Quantity, &line.UnitPrice}, func() error {
		line.Amount = line.Quantity * line.UnitPrice
		order.Lines = append(order.Lines, line)
		return nil
	})
	return order, err
}

// naiveCharge is the charge as the naive shop shows it.
type naiveCharge struct {
	ID       int64  `json:"id"`
	OrderID  int64  `json:"order_id"`
	Status   string `json:"status"`
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
}

// charge takes the money for an order and books the sale.
func (s *naiveShop) charge(ctx context.Context, orderID int64, method string) (naiveCharge, error) {
	charge, order := naiveCharge{OrderID: orderID, Status: "succeeded"}, naiveOrder{ID: orderID}
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return charge.start(ctx, tx, &order, method) })
	if err != nil {
		return charge, fmt.Errorf("start a naive charge: %w", err)
	}
	id := strconv.FormatInt(charge.ID, 10)
	capture, err := s.provider.Capture(ctx,
		payments.CaptureRequest{Key: "naive_" + id, Reference: id, OrderID: strconv.FormatInt(orderID, 10),
			Amount: charge.Amount, Currency: charge.Currency, PaymentMethod: method})
	if err != nil {
		return charge, fmt.Errorf("ask the provider: %w", err)
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return charge.settle(ctx, tx, &order, capture.ID) })
	if err != nil {
		return charge, fmt.Errorf("settle a naive charge: %w", err)
	}
	return charge, nil
}

func (c *naiveCharge) start(ctx context.Context, tx pgx.Tx, order *naiveOrder, method string) error {
	err := tx.QueryRow(ctx, "SELECT status, email, currency, total, created_at FROM orders WHERE id = $1 FOR UPDATE",
		c.OrderID).
		Scan(&order.Status, &order.Email, &order.Currency, &order.Total, &order.CreatedAt)
	if err != nil {
		return err
	}
	if order.Status != "placed" {
		return fmt.Errorf("order %d is %s", c.OrderID, order.Status)
	}
	c.Amount, c.Currency = order.Total, order.Currency
	err = tx.QueryRow(ctx, "INSERT INTO charges (order_id, payment_method, status, amount, currency) VALUES ($1, "+
		"$2, 'pending', $3, $4) RETURNING id",
		c.OrderID, method, c.Amount, c.Currency).Scan(&c.ID)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "UPDATE orders SET status = 'paying' WHERE id = $1", c.OrderID)
	return err
}

func (c *naiveCharge) settle(ctx context.Context, tx pgx.Tx, order *naiveOrder, providerID string) error {
	if _, err := tx.Exec(ctx, "UPDATE charges SET status = 'succeeded', provider_id = $2 WHERE id = $1", c.ID,
		providerID); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "UPDATE orders SET status = 'paid' WHERE id = $1", c.OrderID); err != nil {
		return err
	}
	order.Status = "paid"
	_, err := tx.Exec(ctx, "INSERT INTO stock_movements (sku, kind, quantity, order_id) SELECT sku, 'sold', "+
		"quantity, order_id FROM order_lines WHERE order_id = $1", c.OrderID)
	if err != nil {
		return err
	}
	return order.tell(ctx, tx, "order.paid")
}

// status is the naive handlers' table of errors.
func naiveStatus(err error) int {
	if errors.Is(err, errNaiveOutOfStock) {
		return http.StatusConflict
	}
	return http.StatusInternalServerError
}
