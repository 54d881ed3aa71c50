package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/pg"
)

// together is how many orders a batch has.
const together = 256

// The batch path once more, as bare statements, so that it can be had without its guard.
const (
	findOrders = `SELECT o.id, o.fingerprint, o.answer
		FROM (SELECT unnest($1::uuid[]) AS customer_id, unnest($2::text[]) AS idempotency_key) AS k
		JOIN orders o ON o.customer_id = k.customer_id AND o.idempotency_key = k.idempotency_key`

	insertOrders = `INSERT INTO orders (id, customer_id, idempotency_key, fingerprint, answer, email, status, currency, total, created_at)
		SELECT unnest($1::uuid[]), unnest($2::uuid[]), unnest($3::text[]), unnest($4::bytea[]), unnest($5::bytea[]), '` + email + `', 'placed', 'EUR', 1400, now()`
	guardOrders = ` ORDER BY 2, 3 ON CONFLICT ON CONSTRAINT orders_one_per_key DO NOTHING`
	returnIDs   = ` RETURNING id`

	lockStock = `SELECT sku, available FROM stock WHERE sku = ANY($1) ORDER BY sku FOR NO KEY UPDATE`

	reserve = `WITH l AS (SELECT unnest($1::uuid[]) AS order_id, unnest($2::text[]) AS sku),
		written AS (INSERT INTO order_lines (order_id, line, sku, name, quantity, unit_price) SELECT order_id, 1, sku, 'Thing', 1, 1400 FROM l),
		moved AS (INSERT INTO stock_movements (sku, kind, quantity, order_id) SELECT sku, 'reserved', 1, order_id FROM l RETURNING sku, delta)
		UPDATE stock SET available = available + m.delta FROM (SELECT sku, sum(delta)::bigint AS delta FROM moved GROUP BY sku) AS m WHERE stock.sku = m.sku`

	tellAll = `INSERT INTO outbox (id, type, order_id, payload) SELECT unnest($1::uuid[]), 'order.placed', unnest($2::uuid[]), unnest($3::jsonb[])`
)

// guarding compares the batch with its key and without: what being right costs when it is paid for many orders at once.
func (b *bench) guarding() scenario {
	each := entry{Orders: 1, Units: 1}
	return scenario{"batches of 256, unguarded", []int{1},
		side{run: b.batches(b.unguarded, false), books: &books{b.unguarded}, each: each},
		side{run: b.batches(b.guarded, true), books: &books{b.guarded}, each: each}}
}

// batches writes one after the other, from one connection, as the shop's committer does.
func (b *bench) batches(pool *pgxpool.Pool, guarded bool) func(context.Context, int, time.Duration) (sample, error) {
	return func(ctx context.Context, _ int, length time.Duration) (s sample, err error) {
		next, customer := uniform(), uuid.Must(uuid.NewV7())
		if _, err := pool.Exec(ctx, "INSERT INTO customers (id) VALUES ($1)", customer); err != nil {
			return s, fmt.Errorf("add a customer: %w", err)
		}
		begin := time.Now()
		for time.Since(begin) < length || s.calls == 0 {
			batch, err := b.newBatch(customer, next)
			if err != nil {
				return s, err
			}
			if err := batch.place(ctx, pool, guarded); err != nil {
				return s, fmt.Errorf("place a batch: %w", err)
			}
			s.calls += together
		}
		s.rate = float64(s.calls) / time.Since(begin).Seconds()
		return s, nil
	}
}

// columns are the orders of a batch.
type columns struct {
	ids, customers, events []uuid.UUID
	keys, skus             []string
	prints, answers        [][]byte
}

func (b *bench) newBatch(customer uuid.UUID, next basket) (c columns, err error) {
	for range together {
		command := orders.PlaceOrder{CustomerID: customer, Key: dedup.Key(b.newKey()), Email: email, Lines: next()[:1]}
		id, err := uuid.NewV7()
		if err != nil {
			return c, fmt.Errorf("make an order id: %w", err)
		}
		event, err := uuid.NewV7()
		if err != nil {
			return c, fmt.Errorf("make an event id: %w", err)
		}
		line := orders.Line{SKU: command.Lines[0].SKU, Name: "Thing", Quantity: 1, UnitPrice: 1400, Amount: 1400}
		answer, err := json.Marshal(orders.Order{ID: id, Status: orders.Placed, Email: email, Currency: "EUR", Total: 1400, Lines: []orders.Line{line}, CreatedAt: time.Now().UTC()})
		if err != nil {
			return c, fmt.Errorf("encode the order: %w", err)
		}
		print := command.Fingerprint()
		c.ids, c.customers, c.events = append(c.ids, id), append(c.customers, customer), append(c.events, event)
		c.keys, c.skus = append(c.keys, string(command.Key)), append(c.skus, line.SKU)
		c.prints, c.answers = append(c.prints, print[:]), append(c.answers, answer)
	}
	return c, nil
}

func (c columns) place(ctx context.Context, pool *pgxpool.Pool, guarded bool) error {
	insert := insertOrders + returnIDs
	if guarded {
		insert = insertOrders + guardOrders + returnIDs
		if err := expect(ctx, pool, 0, findOrders, c.customers, c.keys); err != nil {
			return err
		}
	}
	return pg.InPipe(ctx, pool, func(tx *pg.Pipe) error {
		if err := expect(ctx, tx, together, insert, c.ids, c.customers, c.keys, c.prints, c.answers); err != nil {
			return err
		}
		if err := expect(ctx, tx, c.products(), lockStock, c.skus); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, reserve, c.ids, c.skus); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, tellAll, c.events, c.ids, c.answers)
		return err
	})
}

// products is how many different ones there are.
func (c columns) products() int { return len(slices.Compact(slices.Sorted(slices.Values(c.skus)))) }

// expect is an error if the query does not return so many rows.
func expect(ctx context.Context, db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, want int, sql string, args ...any) error {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	got := 0
	for rows.Next() {
		got++
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%d rows, expected %d", got, want)
	}
	return nil
}
