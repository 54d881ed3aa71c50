package bench

import (
	"context"
	_ "embed"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// grownAtOnce is how many orders one transaction writes.
	grownAtOnce = 50_000
	// strangers are the customers of the written orders beside the buyers, who have a tenth.
	strangers = 30_000
)

//go:embed settle.sql
var settle string

// bulk are a session's settings for writing much and answering nobody.
var bulk = map[string]string{"statement_timeout": "0", "synchronous_commit": "off", "work_mem": "64MB",
	"maintenance_work_mem": "512MB"}

const settled = `CREATE TEMP TABLE settled (n bigint, at timestamptz, head text, tail text,
	order_id uuid, charge_id uuid, customer_id uuid, idempotency_key text, sku text, paid boolean)`

// nameSettled names orders from one number to another, one a second until yesterday. Their ids grow
// with time, their keys do not. One in eleven expired.
const nameSettled = `INSERT INTO settled
	SELECT n, at, head, tail, (head || '7000' || tail)::uuid, (head || '7001' || tail)::uuid,
		CASE WHEN n % 10 = 0 THEN ($4::uuid[])[1 + n / 10 % cardinality($4::uuid[])]
			ELSE ('00000000-0000-7000-8000-' || lpad(to_hex(n * 7919 % $5), 12, '0'))::uuid END,
		md5(n::text), 'BENCH-' || n % $6, n % 11 <> 0
	FROM (SELECT n, at, lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') AS head, '8' || lpad(to_hex(n),
		15, '0') AS tail
		FROM (SELECT n, date_trunc('second', now()) - interval '1 day' - ($3::bigint - n) * interval '1 second' AS at
			FROM generate_series($1::bigint, $2::bigint) AS n) AS moments) AS named`

const addStrangers = `INSERT INTO customers (id, email)
	SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'customer-' || n || '@example.com'
		FROM generate_series(0, $1 - 1) AS n`

// findGuards lists what is cheaper to take off and put on again than to keep up row by row: all but
// the primary keys, whose rows come in order. Vacuum comes when all is there.
const findGuards = `
	SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),
		format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid)),
			contype = 'f' AS last
	FROM pg_constraint WHERE contype IN ('u', 'f') AND conrelid = ANY($1::regclass[])
	UNION ALL
	SELECT format('DROP INDEX %s', indexrelid::regclass), pg_get_indexdef(indexrelid), false
	FROM pg_index WHERE indrelid = ANY($1::regclass[]) AND NOT EXISTS (SELECT FROM pg_constraint
		WHERE conindid = indexrelid)
	UNION ALL
	SELECT format('ALTER TABLE %s SET (autovacuum_enabled = off)', grown),
		format('ALTER TABLE %s RESET (autovacuum_enabled)', grown), true
	FROM unnest($1::regclass[]) AS grown
	ORDER BY last`

var grownTables = []string{"orders", "order_lines", "stock_movements", "charges", "outbox", "receipts"}

// openGrowth makes two schemas of the shop.
func openGrowth(ctx context.Context, shop *pgxpool.Pool) (*schemas, error) {
	return lockSchemas(ctx, shop, func(s *schemas) (err error) {
		if s.ours, err = s.createShop(ctx, oursSchema); err != nil {
			return err
		}
		if s.grown, err = s.createShop(ctx, grownSchema); err != nil {
			return err
		}
		return s.fill(ctx, plenty)
	})
}

// grow writes so many orders that are over, and leaves the tables as they are in a shop that had
// the time to grow: analyzed and vacuumed.
func (b *bench) grow(ctx context.Context, progress func(doing string, step, steps int), orders int) error {
	conn, err := b.bulkConn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	off, on, err := guards(ctx, conn)
	if err != nil {
		return err
	}
	for _, statement := range append(off, settled) {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("prepare the tables for many orders: %w", err)
		}
	}
	if _, err := conn.Exec(ctx, addStrangers, strangers); err != nil {
		return fmt.Errorf("add customers: %w", err)
	}
	for first := 1; first <= orders; first += grownAtOnce {
		progress("orders that are over, in thousands", first/1000, orders/1000)
		if err := b.write(ctx, conn, first, min(first+grownAtOnce-1, orders), orders); err != nil {
			return err
		}
	}
	for _, table := range grownTables {
		on = append(on, "VACUUM (ANALYZE) "+table)
	}
	for i, statement := range on {
		progress("their indexes", i, len(on))
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// bulkConn returns a connection whose settings are for nobody else.
func (b *bench) bulkConn(ctx context.Context) (*pgx.Conn, error) {
	acquired, err := b.ours.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	conn := acquired.Hijack()
	for _, settings := range []map[string]string{usualPlans, bulk} {
		for name, value := range settings {
			if _, err := conn.Exec(ctx, "SELECT set_config($1, $2, false)", name, value); err != nil {
				return nil, errors.Join(fmt.Errorf("set %s: %w", name, err), conn.Close(context.WithoutCancel(ctx)))
			}
		}
	}
	return conn, nil
}

// guards returns statements that take the guards of the tables off, and those that put them on
// again.
func guards(ctx context.Context, conn *pgx.Conn) (off, on []string, err error) {
	rows, err := conn.Query(ctx, findGuards, grownTables)
	if err != nil {
		return nil, nil, fmt.Errorf("find the indexes: %w", err)
	}
	var down, up string
	var last bool
	_, err = pgx.ForEachRow(rows, []any{&down, &up, &last}, func() error {
		off, on = append(off, down), append(on, up)
		return nil
	})
	return off, on, err
}

// write writes the orders from the first to the last number, of so many in all.
func (b *bench) write(ctx context.Context, conn *pgx.Conn, first, last, all int) error {
	buyers := make([]uuid.UUID, len(b.buyers))
	for i, buyer := range b.buyers {
		buyers[i] = buyer.id
	}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "TRUNCATE settled"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, nameSettled, first, last, all, buyers, strangers, products); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, settle)
		return err
	})
	if err != nil {
		return fmt.Errorf("write the orders %d to %d: %w", first, last, err)
	}
	return nil
}
