package bench

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/pg"
)

// The schemas of a run: three with the shop's own migrations, one of them without the key that
// guards its orders, and one with the naive tables.
const (
	oursSchema      = "bench"
	guardedSchema   = "bench_guarded"
	unguardedSchema = "bench_unguarded"
	naiveSchema     = "bench_naive"
	// grownSchema is there in a run that measures growth, with the first one only.
	grownSchema = "bench_grown"
)

var schemaNames = []string{oursSchema, guardedSchema, unguardedSchema, naiveSchema, grownSchema}

const (
	// maxConns is what a node of the shop has; every twin gets as many.
	maxConns = 16
	// dropTimeout bounds the cleaning up after the run.
	dropTimeout = 30 * time.Second
)

// mark is what tells our schemas from somebody else's of the same name.
const mark = "of one run of shop bench, which drops it"

//go:embed naive.sql
var naiveTables string

// The products: 1,000 for uniform orders, one that everybody wants, and one that there is too
// little of.
const (
	products = 1000
	hotSKU   = "BENCH-HOT"
	flashSKU = "BENCH-FLASH"
	plenty   = 1_000_000_000
)

// putOnSale fills the tables that both designs share.
const putOnSale = `
	INSERT INTO products (sku, name, description, currency, unit_price, position)
	SELECT 'BENCH-' || n, 'Thing', 'Bought by the bench only.', 'EUR', 1400, 0
	FROM (SELECT generate_series(0, $1 - 1)::text AS n UNION ALL VALUES ('HOT'), ('FLASH')) AS s`

const stockUp = `INSERT INTO stock (sku, available) SELECT sku, CASE sku WHEN '` + flashSKU +
	`' THEN $1::bigint ELSE $2 END FROM products
	ON CONFLICT (sku) DO UPDATE SET available = excluded.available`

const bookOpening = `INSERT INTO stock_movements (sku, kind, quantity, supplier, delivery_id, line)
	SELECT sku, 'delivered', available, 'bench', 'opening', row_number() OVER () FROM stock`

// schemas are the tables of one run. The run holds the lock, so that there is one at a time on a
// database.
type schemas struct {
	shop *pgxpool.Pool
	lock *pgxpool.Conn

	ours, guarded, unguarded, naive, grown *pgxpool.Pool
}

// all are the pools that are open.
func (s *schemas) all() []*pgxpool.Pool {
	return slices.DeleteFunc([]*pgxpool.Pool{s.ours, s.guarded, s.unguarded, s.naive, s.grown},
		func(p *pgxpool.Pool) bool {
			return p == nil
		})
}

// openSchemas makes the schemas of a run that compares with the naive twin, with so many units of
// the product that there is too little of.
func openSchemas(ctx context.Context, shop *pgxpool.Pool, flashStock int64) (*schemas, error) {
	return lockSchemas(ctx, shop, func(s *schemas) error { return s.create(ctx, flashStock) })
}

// lockSchemas has the schemas made while no other run is on the database.
func lockSchemas(ctx context.Context, shop *pgxpool.Pool, create func(*schemas) error) (_ *schemas, err error) {
	lock, err := shop.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	s := &schemas{shop: shop, lock: lock}
	defer func() {
		if err != nil {
			s.unlock(ctx)
		}
	}()
	var alone bool
	err = lock.QueryRow(ctx, "SELECT pg_try_advisory_lock(hashtextextended('onceshop bench', 0))").Scan(&alone)
	if err != nil {
		return nil, fmt.Errorf("lock the database for the bench: %w", err)
	}
	if !alone {
		return nil, errors.New("another shop bench runs on this database: wait for its end, or name another in " +
			"DATABASE_URL")
	}
	if err := s.dropLeftovers(ctx); err != nil {
		return nil, err
	}
	if err := create(s); err != nil {
		return nil, errors.Join(err, s.clear(ctx))
	}
	return s, nil
}

// dropLeftovers removes what a run left that was killed, and nothing else.
func (s *schemas) dropLeftovers(ctx context.Context) error {
	rows, err := s.lock.Query(ctx, `SELECT nspname::text, coalesce(obj_description(oid, 'pg_namespace'), '')
		FROM pg_namespace WHERE nspname = ANY($1)`, schemaNames)
	if err != nil {
		return fmt.Errorf("look for schemas of an earlier run: %w", err)
	}
	var name, comment string
	_, err = pgx.ForEachRow(rows, []any{&name, &comment}, func() error {
		if comment != mark {
			return fmt.Errorf("the database has a schema %q that is not the bench's: name another database in "+
				"DATABASE_URL", name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.dropAll(ctx)
}

// createSchema makes one that is empty, and a pool on it.
func (s *schemas) createSchema(ctx context.Context, name string) (*pgxpool.Pool, error) {
	if _, err := s.lock.Exec(ctx, "CREATE SCHEMA "+name+"; COMMENT ON SCHEMA "+name+" IS '"+mark+"'"); err != nil {
		return nil, fmt.Errorf("create the schema %s: %w", name, err)
	}
	return openSchema(ctx, s.shop, name)
}

// createShop makes one with the shop's own migrations.
func (s *schemas) createShop(ctx context.Context, name string) (*pgxpool.Pool, error) {
	pool, err := s.createSchema(ctx, name)
	if err != nil {
		return nil, err
	}
	if _, err := pg.Migrate(ctx, pool); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

func (s *schemas) create(ctx context.Context, flashStock int64) (err error) {
	for _, shop := range []struct {
		name string
		pool **pgxpool.Pool
	}{{oursSchema, &s.ours}, {guardedSchema, &s.guarded}, {unguardedSchema, &s.unguarded}} {
		if *shop.pool, err = s.createShop(ctx, shop.name); err != nil {
			return err
		}
	}
	if s.naive, err = s.createSchema(ctx, naiveSchema); err != nil {
		return err
	}
	if _, err := s.naive.Exec(ctx, naiveTables); err != nil {
		return fmt.Errorf("create the naive tables: %w", err)
	}
	if _, err := s.unguarded.Exec(ctx, "ALTER TABLE orders DROP CONSTRAINT orders_one_per_key"); err != nil {
		return fmt.Errorf("take the guard off: %w", err)
	}
	return s.fill(ctx, flashStock)
}

func (s *schemas) fill(ctx context.Context, flashStock int64) error {
	for _, pool := range s.all() {
		if _, err := pool.Exec(ctx, putOnSale, products); err != nil {
			return fmt.Errorf("put the bench's products on sale: %w", err)
		}
		if _, err := pool.Exec(ctx, stockUp, flashStock, int64(plenty)); err != nil {
			return fmt.Errorf("stock the bench: %w", err)
		}
		if pool == s.naive {
			continue
		}
		if _, err := pool.Exec(ctx, bookOpening); err != nil {
			return fmt.Errorf("book the bench's stock: %w", err)
		}
	}
	return nil
}

// usualPlans is how Postgres plans when nobody tells it otherwise.
var usualPlans = map[string]string{"plan_cache_mode": "auto", "enable_seqscan": "on", "enable_hashjoin": "on",
	"enable_mergejoin": "on", "jit": "on"}

func openSchema(ctx context.Context, shop *pgxpool.Pool, schema string) (*pgxpool.Pool, error) {
	config := shop.Config()
	config.MaxConns = maxConns
	config.ConnConfig.RuntimeParams["search_path"] = schema
	config.ConnConfig.RuntimeParams["application_name"] = schema
	if schema == naiveSchema {
		maps.Copy(config.ConnConfig.RuntimeParams, usualPlans)
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open the schema %s: %w", schema, err)
	}
	return pool, nil
}

// drop removes everything, also after ctx has ended.
func (s *schemas) drop(ctx context.Context) error {
	err := s.clear(ctx)
	s.unlock(ctx)
	return err
}

// unlock lets the next run in. A session that cannot be told gives the lock back when it ends.
func (s *schemas) unlock(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropTimeout)
	defer cancel()
	if _, err := s.lock.Exec(ctx, "SELECT pg_advisory_unlock_all()"); err != nil {
		_ = s.lock.Conn().Close(ctx)
	}
	s.lock.Release()
}

// clear drops the schemas and closes the pools on them.
func (s *schemas) clear(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropTimeout)
	defer cancel()
	for _, pool := range s.all() {
		pool.Close()
	}
	return s.dropAll(ctx)
}

func (s *schemas) dropAll(ctx context.Context) error {
	for _, name := range schemaNames {
		if _, err := s.lock.Exec(ctx, "DROP SCHEMA IF EXISTS "+name+" CASCADE"); err != nil {
			return fmt.Errorf("drop the schema %s: %w", name, err)
		}
	}
	return nil
}

// settle gives the planner the numbers that it would have in a shop that runs for longer than a
// bench.
func (s *schemas) settle(ctx context.Context) error {
	for _, pool := range s.all() {
		_, err := pool.Exec(ctx, "ANALYZE orders, order_lines, stock, stock_movements, outbox, charges")
		if err != nil {
			return fmt.Errorf("analyze the tables: %w", err)
		}
	}
	return nil
}
