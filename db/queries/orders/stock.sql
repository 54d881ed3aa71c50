-- name: ListProducts :many
SELECT p.sku, p.name, p.description, p.currency, p.unit_price, s.available
FROM products p JOIN stock s USING (sku)
ORDER BY p.position, p.sku;

-- name: GetProducts :many
SELECT sku, name, currency, unit_price FROM products WHERE sku = ANY(sqlc.arg(skus)::text[]);

-- name: InsertProduct :execrows
INSERT INTO products (sku, name, description, currency, unit_price, position)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (sku) DO NOTHING;

-- UpdateProduct leaves what is NULL as it is.
-- name: UpdateProduct :execrows
UPDATE products SET name = coalesce(sqlc.narg(name), name), description = coalesce(sqlc.narg(description), description),
    currency = coalesce(sqlc.narg(currency), currency), unit_price = coalesce(sqlc.narg(unit_price), unit_price)
WHERE sku = $1;

-- name: NextPosition :one
SELECT (coalesce(max(position), -1) + 1)::int FROM products;

-- LockStock expects sorted SKUs, each once, and locks their rows in that order: two baskets with
-- the same products cannot deadlock. Foreign key checks do not wait for FOR NO KEY UPDATE.
-- name: LockStock :many
SELECT s.sku, s.available
FROM (SELECT unnest(sqlc.arg(skus)::text[]) AS sku) AS k
CROSS JOIN LATERAL (SELECT stock.sku, stock.available FROM stock WHERE stock.sku = k.sku
  LIMIT 1 FOR NO KEY UPDATE) AS s;

-- InsertDeliveryLines records the lines that were not booked before and returns them. RaiseStock
-- comes last in the transaction, so that buyers do not wait for a whole delivery.
-- name: InsertDeliveryLines :many
INSERT INTO stock_movements (sku, kind, quantity, supplier, delivery_id, line)
SELECT l.sku, 'delivered', l.quantity, sqlc.arg(supplier)::text, l.delivery_id, l.line
FROM (SELECT unnest(sqlc.arg(delivery_ids)::text[]) AS delivery_id, unnest(sqlc.arg(lines)::int[]) AS line,
             unnest(sqlc.arg(skus)::text[]) AS sku, unnest(sqlc.arg(quantities)::bigint[]) AS quantity) AS l
ON CONFLICT ON CONSTRAINT stock_movements_one_per_delivery_line DO NOTHING
RETURNING delivery_id::text AS delivery_id, line::int AS line, sku, quantity;

-- RaiseStock expects the rows to be locked by LockStock.
-- name: RaiseStock :execrows
UPDATE stock SET available = available + l.quantity
FROM (SELECT unnest(sqlc.arg(skus)::text[]) AS sku, unnest(sqlc.arg(quantities)::bigint[]) AS quantity) AS l
WHERE stock.sku = l.sku;

-- FindDeliveryLines reads the lines that were booked before.
-- name: FindDeliveryLines :many
SELECT m.delivery_id::text AS delivery_id, m.line::int AS line, m.sku, m.quantity
FROM (SELECT unnest(sqlc.arg(delivery_ids)::text[]) AS delivery_id, unnest(sqlc.arg(lines)::int[]) AS line) AS l
CROSS JOIN LATERAL (
    SELECT s.delivery_id, s.line, s.sku, s.quantity FROM stock_movements s
    WHERE s.supplier = sqlc.arg(supplier)::text AND s.delivery_id = l.delivery_id AND s.line = l.line
    LIMIT 1) AS m;

-- name: FindDeliveryByKey :one
SELECT id, fingerprint, answer FROM deliveries WHERE customer_id = $1 AND idempotency_key = $2;

-- name: InsertDelivery :execrows
INSERT INTO deliveries (id, customer_id, idempotency_key, fingerprint, answer, created_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT ON CONSTRAINT deliveries_one_per_key DO NOTHING;

-- name: ListMovements :many
SELECT id, kind, quantity, delta, order_id, supplier, delivery_id, line, created_at FROM stock_movements
WHERE sku = $1 AND id < coalesce(sqlc.narg(before)::bigint, 9223372036854775807)
ORDER BY id DESC
LIMIT $2;

-- CountHeld counts unpaid orders, and the units that they hold, up to a limit. A scrape must not
-- take longer the more there is to see.
-- name: CountHeld :one
SELECT count(DISTINCT o.id) AS orders, coalesce(sum(l.quantity), 0)::bigint AS units
FROM (SELECT id FROM orders WHERE status IN ('placed', 'paying') ORDER BY expires_at LIMIT sqlc.arg(most)) AS o
JOIN order_lines l ON l.order_id = o.id;
