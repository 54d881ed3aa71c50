package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
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
		CROSS JOIN LATERAL (SELECT id, fingerprint, answer FROM orders WHERE orders.customer_id = k.customer_id
			AND orders.idempotency_key = k.idempotency_key LIMIT 1) AS o`

	insertOrders = `INSERT INTO orders (id, customer_id, idempotency_key, fingerprint, answer, email, status, currency,
		total, created_at)
		SELECT unnest($1::uuid[]), unnest($2::uuid[]), unnest($3::text[]), unnest($4::bytea[]), unnest($5::bytea[]),
			'` + email + `', 'placed', 'EUR', 2800, now()`
	guardOrders = ` ORDER BY 2, 3 ON CONFLICT ON CONSTRAINT orders_one_per_key DO NOTHING`
	returnIDs   = ` RETURNING id`

	lockStock = `SELECT s.sku, s.available FROM (SELECT unnest($1::text[]) AS sku) AS k
		CROSS JOIN LATERAL (SELECT sku, available FROM stock WHERE stock.sku = k.sku LIMIT 1 FOR NO KEY UPDATE) AS s`

	reserve = `WITH l AS (SELECT unnest($1::uuid[]) AS order_id, unnest($2::int[]) AS line, unnest($3::text[]) AS sku),
		written AS (INSERT INTO order_lines (order_id, line, sku, name, quantity, unit_price)
			SELECT order_id, line, sku, 'Thing', 1, 1400 FROM l),
		moved AS (INSERT INTO stock_movements (sku, kind, quantity, order_id)
			SELECT sku, 'reserved', count(*), order_id FROM l GROUP BY order_id, sku RETURNING sku, delta)
		UPDATE stock SET available = available + m.delta FROM (SELECT sku, sum(delta)::bigint AS delta FROM moved
			GROUP BY sku) AS m WHERE stock.sku = m.sku`

	tellAll = `INSERT INTO outbox (id, type, order_id, payload)
		SELECT unnest($1::uuid[]), 'order.placed', unnest($2::uuid[]), unnest($3::jsonb[])`
)

// guarding compares the batch with its key and without: what being right costs when it is paid for
// many orders at once.
func (b *bench) guarding() scenario {
	each := entry{Orders: 1, Units: 2}
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

// columns are the orders of a batch, and their lines.
type columns struct {
	ids, customers, events []uuid.UUID
	keys                   []string
	prints, answers        [][]byte

	lineOrders []uuid.UUID
	lines      []int32
	skus       []string
}

func (b *bench) newBatch(customer uuid.UUID, next basket) (c columns, err error) {
	for range together {
		command := orders.PlaceOrder{CustomerID: customer, Key: dedup.Key(b.newKey()), Email: email, Lines: next()}
		order := orders.Order{Status: orders.Placed, Email: email, Currency: "EUR", Total: 2800,
			CreatedAt: time.Now().UTC()}
		event := uuid.UUID{}
		if order.ID, err = uuid.NewV7(); err == nil {
			event, err = uuid.NewV7()
		}
		if err != nil {
			return c, fmt.Errorf("make an id: %w", err)
		}
		for i, l := range command.Lines {
			order.Lines = append(order.Lines,
				orders.Line{SKU: l.SKU, Name: "Thing", Quantity: 1, UnitPrice: 1400, Amount: 1400})
			c.lineOrders, c.lines, c.skus = append(c.lineOrders, order.ID), append(c.lines, int32(i+1)),
				append(c.skus, l.SKU)
		}
		answer, err := json.Marshal(order)
		if err != nil {
			return c, fmt.Errorf("encode the order: %w", err)
		}
		print := command.Fingerprint()
		c.ids, c.customers, c.events = append(c.ids, order.ID), append(c.customers, customer), append(c.events, event)
		c.keys, c.prints, c.answers = append(c.keys, string(command.Key)), append(c.prints, print[:]),
			append(c.answers, answer)
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
	skus := slices.Compact(slices.Sorted(slices.Values(c.skus)))
	return pg.InPipe(ctx, pool, func(tx *pg.Pipe) error {
		var inserted, locked int64
		tx.Queue(insert, c.ids, c.customers, c.keys, c.prints, c.answers).Exec(counted(&inserted))
		tx.Queue(lockStock, skus).Exec(counted(&locked))
		if err := tx.Flush(ctx); err != nil {
			return err
		}
		if inserted != together || locked != int64(len(skus)) {
			return fmt.Errorf("%d orders are inserted and %d rows of stock locked, of %d and %d", inserted, locked,
				together, len(skus))
		}
		tx.Queue(reserve, c.lineOrders, c.lines, c.skus)
		tx.Queue(tellAll, c.events, c.ids, c.answers)
		return nil
	})
}

func counted(rows *int64) func(pgconn.CommandTag) error {
	return func(tag pgconn.CommandTag) error {
		*rows = tag.RowsAffected()
		return nil
	}
}

// expect is an error if the query does not return so many rows.
func expect(ctx context.Context, pool *pgxpool.Pool, want int64, sql string, args ...any) error {
	tag, err := pool.Exec(ctx, sql, args...)
	if err == nil && tag.RowsAffected() != want {
		err = fmt.Errorf("%d rows, expected %d", tag.RowsAffected(), want)
	}
	return err
}
