-- +goose Up

-- Speed only: this file changes no promise. A fork with few orders can delete it, and with it the
-- planner switches `lookUps` in internal/pg/pool.go, which each session sets for itself. This file
-- lists both, with the figures that pay for them, from docs/performance.md and docs/decisions.md.
-- The figures of the outbox have their command; those of the other entries were not recorded with
-- one. To measure an entry again, delete it and run
--     go run ./cmd/shop bench --duration 120s

-- Planner switches, in internal/pg/pool.go: each statement is planned once per connection, as steps
-- down indexes. A plan that Postgres makes while tables are small, and keeps, may scan them:
-- placing became ten times slower within seconds. Planning each time took a third of a batch.
-- jit = off: not measured.

-- A plan that is kept may look up an idempotency key by either index that starts with the customer,
-- and the choice is chance while the table is small. total > 0 always holds, but only queries that
-- ask for it can use this index, and the look-up of a key does not. The wrong index has its part in
-- the ten times above; alone it was not measured.
DROP INDEX orders_of_customer;
CREATE INDEX orders_of_customer ON orders (customer_id, id DESC) WHERE total > 0;

-- A kept plan assumes that rows are spread evenly over the customers, or SKUs, that the statistics
-- have seen. If they have seen one, walking the primary key backwards looks as good as the right
-- index, and reads the whole table for any other. These figures replace those of the statistics.
-- Citus has no such setting for a column.
-- +goose StatementBegin
DO $$
BEGIN
    ALTER TABLE orders ALTER COLUMN customer_id SET (n_distinct = -0.1);
    ALTER TABLE stock_movements ALTER COLUMN sku SET (n_distinct = 1000);
EXCEPTION WHEN feature_not_supported THEN
    RAISE NOTICE 'without n_distinct: %', SQLERRM;
END $$;
-- +goose StatementEnd

-- Lines and movements are written in their order's transaction, which locks the stock row of each
-- SKU, and no statement deletes orders or products. Checking the parents of each row took half the
-- time of a batch. I7 of `shop check` finds orphans.
ALTER TABLE order_lines DROP CONSTRAINT order_lines_order_id_fkey, DROP CONSTRAINT order_lines_sku_fkey;
ALTER TABLE stock_movements DROP CONSTRAINT stock_movements_order_id_fkey, DROP CONSTRAINT stock_movements_sku_fkey;

-- Every batch updates stock rows. In a page that is nine tenths empty the new version of a row
-- stays beside the old one, no index changes, and the next reader prunes the old version. In full
-- pages, reading a thousand rows of stock became six times slower within seconds.
ALTER TABLE stock SET (fillfactor = 10);

-- An outbox row is updated twice soon after its insert and never again. Free space keeps its
-- versions in one page, and a claim changes no index. Vacuum starts after 1 % and 10,000 changed
-- rows, not after a fifth of a table that only grows. With 500,000 finished orders the relay
-- publishes 18,251 events a second, with hardly any 19,512. Without these settings: not measured.
--     go run ./cmd/shop bench --orders 500000 --duration 20s
ALTER TABLE outbox SET (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 10000,
    autovacuum_analyze_scale_factor = 0.02
);

-- +goose Down
ALTER TABLE outbox RESET (
    fillfactor,
    autovacuum_vacuum_scale_factor,
    autovacuum_vacuum_threshold,
    autovacuum_analyze_scale_factor
);
ALTER TABLE stock RESET (fillfactor);
-- +goose StatementBegin
DO $$
BEGIN
    ALTER TABLE stock_movements ALTER COLUMN sku RESET (n_distinct);
    ALTER TABLE orders ALTER COLUMN customer_id RESET (n_distinct);
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END $$;
-- +goose StatementEnd
ALTER TABLE stock_movements
    ADD CONSTRAINT stock_movements_sku_fkey FOREIGN KEY (sku) REFERENCES stock,
    ADD CONSTRAINT stock_movements_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders;
ALTER TABLE order_lines
    ADD CONSTRAINT order_lines_sku_fkey FOREIGN KEY (sku) REFERENCES products,
    ADD CONSTRAINT order_lines_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders;
DROP INDEX orders_of_customer;
CREATE INDEX orders_of_customer ON orders (customer_id, id DESC);
