-- Placing orders. Every statement takes a batch of orders as arrays. CROSS JOIN LATERAL … LIMIT 1
-- makes a look-up one step down an index, whatever size the planner assumes for the tables.

-- name: FindOrdersByKeys :many
SELECT o.id, o.customer_id, o.idempotency_key, o.fingerprint, o.answer
FROM (SELECT unnest(sqlc.arg(customer_ids)::uuid[]) AS customer_id,
             unnest(sqlc.arg(idempotency_keys)::text[]) AS idempotency_key) AS k
CROSS JOIN LATERAL (
    SELECT orders.id, orders.customer_id, orders.idempotency_key, orders.fingerprint, orders.answer
    FROM orders
    WHERE orders.customer_id = k.customer_id AND orders.idempotency_key = k.idempotency_key LIMIT 1) AS o;

-- name: GetOffers :many
SELECT o.sku, o.name, o.currency, o.unit_price, o.available
FROM (SELECT unnest(sqlc.arg(skus)::text[]) AS sku) AS k
CROSS JOIN LATERAL (
    SELECT p.sku, p.name, p.currency, p.unit_price, s.available
    FROM products p JOIN stock s ON s.sku = p.sku
    WHERE p.sku = k.sku LIMIT 1) AS o;

-- InsertOrders returns the ids of the orders whose keys were free. It inserts in the order of the
-- keys: two nodes with the same keys cannot deadlock. Of twins in one statement the oldest wins.
-- name: InsertOrders :many
INSERT INTO orders (id, customer_id, idempotency_key, fingerprint, answer,
                    email, status, currency, total, created_at, placed_from, expires_at)
SELECT o.id, o.customer_id, o.idempotency_key, o.fingerprint, o.answer,
       o.email, 'placed', o.currency, o.total, o.created_at, nullif(o.placed_from, ''),
       now() + sqlc.arg(expiry)::interval
FROM (SELECT unnest(sqlc.arg(ids)::uuid[]) AS id,
             unnest(sqlc.arg(customer_ids)::uuid[]) AS customer_id,
             unnest(sqlc.arg(idempotency_keys)::text[]) AS idempotency_key,
             unnest(sqlc.arg(fingerprints)::bytea[]) AS fingerprint,
             unnest(sqlc.arg(answers)::bytea[]) AS answer,
             unnest(sqlc.arg(emails)::text[]) AS email,
             unnest(sqlc.arg(currencies)::text[]) AS currency,
             unnest(sqlc.arg(totals)::bigint[]) AS total,
             unnest(sqlc.arg(created_ats)::timestamptz[]) AS created_at,
             unnest(sqlc.arg(placed_froms)::text[]) AS placed_from) AS o
ORDER BY o.customer_id, o.idempotency_key, o.id
ON CONFLICT ON CONSTRAINT orders_one_per_key DO NOTHING
RETURNING id;

-- ListHeldByOthers returns the SKUs and customers that placing an order has to wait for.
-- name: ListHeldByOthers :many
WITH k AS (SELECT unnest(sqlc.arg(ids)::text[]) AS id)
SELECT s.sku FROM k
CROSS JOIN LATERAL (SELECT stock.sku FROM stock WHERE stock.sku = k.id LIMIT 1) AS s
LEFT JOIN LATERAL (SELECT true AS yes FROM stock WHERE stock.sku = s.sku LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED) AS free ON true
WHERE free.yes IS NULL
UNION ALL
SELECT c.id::text FROM k
CROSS JOIN LATERAL (SELECT customers.id FROM customers WHERE customers.id::text = k.id LIMIT 1) AS c
LEFT JOIN LATERAL (SELECT true AS yes FROM customers WHERE customers.id = c.id LIMIT 1
    FOR KEY SHARE SKIP LOCKED) AS free ON true
WHERE free.yes IS NULL;

-- LockUnpaid expects sorted names, each once. Two transactions that count the unpaid orders of one
-- customer or network run one after the other.
-- name: LockUnpaid :exec
SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' unpaid ' || k.name, 0))
FROM (SELECT unnest(sqlc.arg(names)::text[]) AS name) AS k;

-- CountUnpaid counts to most. It has to be a statement of its own after LockUnpaid, to see what the
-- transaction before has committed. ORDER BY keeps it on the indexes that are made for it.
-- name: CountUnpaid :many
SELECT k.id::text AS name, (SELECT count(*) FROM (SELECT FROM orders o
    WHERE o.customer_id = k.id AND o.status IN ('placed', 'paying')
    ORDER BY o.customer_id, o.id LIMIT sqlc.arg(most)::int) AS u)::bigint AS unpaid
FROM (SELECT unnest(sqlc.arg(customer_ids)::uuid[]) AS id) AS k
UNION ALL
SELECT k.name, (SELECT count(*) FROM (SELECT FROM orders o
    WHERE o.placed_from = k.name AND o.status IN ('placed', 'paying')
    ORDER BY o.placed_from, o.id LIMIT sqlc.arg(most)::int) AS u)::bigint
FROM (SELECT unnest(sqlc.arg(placed_froms)::text[]) AS name) AS k;

-- DeleteRefused deletes orders that this transaction inserted and refuses.
-- name: DeleteRefused :exec
DELETE FROM orders WHERE id = ANY(sqlc.arg(ids)::uuid[]);

-- Reserve writes the lines, one movement per order and SKU, and their effect on what is available.
-- Neither has foreign keys: see docs/decisions.md, D12.
-- It expects the stock rows to be locked by LockStock.
-- name: Reserve :exec
WITH l AS (
    SELECT unnest(sqlc.arg(order_ids)::uuid[]) AS order_id, unnest(sqlc.arg(lines)::int[]) AS line,
           unnest(sqlc.arg(skus)::text[]) AS sku, unnest(sqlc.arg(names)::text[]) AS name,
           unnest(sqlc.arg(quantities)::bigint[]) AS quantity, unnest(sqlc.arg(unit_prices)::bigint[]) AS unit_price
), written AS (
    INSERT INTO order_lines (order_id, line, sku, name, quantity, unit_price)
    SELECT l.order_id, l.line, l.sku, l.name, l.quantity, l.unit_price FROM l
), moved AS (
    INSERT INTO stock_movements (sku, kind, quantity, order_id)
    SELECT l.sku, 'reserved', sum(l.quantity), l.order_id FROM l GROUP BY l.order_id, l.sku ORDER BY l.order_id, l.sku
    RETURNING stock_movements.sku, stock_movements.delta
)
UPDATE stock SET available = available + m.delta
FROM (SELECT moved.sku, sum(moved.delta)::bigint AS delta FROM moved GROUP BY moved.sku) AS m
WHERE stock.sku = m.sku;
