-- Moving orders on to be paid, many at a time.

-- LockOrders takes ids in order, each once, and locks in that order: two nodes with the same orders in another order cannot deadlock.
-- name: LockOrders :many
SELECT o.id, o.customer_id, o.email, o.status, o.currency, o.total, o.created_at
FROM (SELECT unnest(sqlc.arg(ids)::uuid[]) AS id) AS k
CROSS JOIN LATERAL (
    SELECT orders.id, orders.customer_id, orders.email, orders.status, orders.currency, orders.total, orders.created_at
    FROM orders WHERE orders.id = k.id LIMIT 1 FOR NO KEY UPDATE) AS o;

-- ProceedOrders expects the rows to be locked by LockOrders. Who is paying gets time to do so.
-- name: ProceedOrders :exec
UPDATE orders SET status = c.status, expires_at = CASE c.status WHEN 'paying' THEN greatest(orders.expires_at, now() + sqlc.arg(expiry)::interval) ELSE orders.expires_at END
FROM (SELECT unnest(sqlc.arg(ids)::uuid[]) AS id, unnest(sqlc.arg(statuses)::text[]) AS status) AS c
WHERE orders.id = c.id;

-- SellOrders touches no row of stock: the units left with the reservation.
-- name: SellOrders :exec
INSERT INTO stock_movements (sku, kind, quantity, order_id)
SELECT l.sku, 'sold', sum(l.quantity), l.order_id FROM order_lines l
WHERE l.order_id = ANY(sqlc.arg(ids)::uuid[])
GROUP BY l.order_id, l.sku;
