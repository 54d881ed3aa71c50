-- Changing the status of locked orders, many at a time.

-- LockOrders expects sorted ids, each once, and locks in that order: two transactions that lock the
-- same orders cannot deadlock.
-- name: LockOrders :many
SELECT o.id, o.customer_id, o.email, o.status, o.currency, o.total, o.created_at
FROM (SELECT unnest(sqlc.arg(ids)::uuid[]) AS id) AS k
CROSS JOIN LATERAL (
    SELECT orders.id, orders.customer_id, orders.email, orders.status, orders.currency, orders.total,
           orders.created_at
    FROM orders WHERE orders.id = k.id LIMIT 1 FOR NO KEY UPDATE) AS o;

-- name: ListHeldOrders :many
SELECT o.id::text FROM (SELECT unnest(sqlc.arg(ids)::text[])::uuid AS id) AS k
CROSS JOIN LATERAL (SELECT orders.id FROM orders WHERE orders.id = k.id LIMIT 1) AS o
LEFT JOIN LATERAL (SELECT true AS yes FROM orders WHERE orders.id = o.id LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED) AS free ON true
WHERE free.yes IS NULL;

-- ChangeStatuses expects rows that LockOrders locked.
-- name: ChangeStatuses :exec
UPDATE orders SET status = c.status
FROM (SELECT unnest(sqlc.arg(ids)::uuid[]) AS id, unnest(sqlc.arg(statuses)::text[]) AS status) AS c
WHERE orders.id = c.id;

-- LockStockOfOrders locks in the order of LockStock, whatever the database's collation.
-- name: LockStockOfOrders :exec
SELECT FROM (
    SELECT l.sku FROM order_lines l WHERE l.order_id = ANY(sqlc.arg(order_ids)::uuid[])
    GROUP BY l.sku ORDER BY l.sku COLLATE "C") AS k
CROSS JOIN LATERAL (SELECT FROM stock WHERE stock.sku = k.sku LIMIT 1 FOR NO KEY UPDATE) AS s;

-- MoveStock writes one movement per order and SKU, and its effect on what is available. A sale has
-- no effect and touches no row of stock.
-- name: MoveStock :exec
WITH moved AS (
    INSERT INTO stock_movements (sku, kind, quantity, order_id)
    SELECT l.sku, m.kind, sum(l.quantity), l.order_id
    FROM (SELECT unnest(sqlc.arg(order_ids)::uuid[]) AS order_id, unnest(sqlc.arg(kinds)::text[]) AS kind) AS m
    JOIN order_lines l ON l.order_id = m.order_id
    GROUP BY l.order_id, l.sku, m.kind
    RETURNING stock_movements.sku, stock_movements.delta
)
UPDATE stock SET available = available + d.delta
FROM (SELECT moved.sku, sum(moved.delta)::bigint AS delta FROM moved GROUP BY moved.sku) AS d
WHERE stock.sku = d.sku AND d.delta <> 0;
