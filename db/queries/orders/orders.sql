-- name: FindOrderByKey :one
SELECT id, fingerprint, answer FROM orders
WHERE customer_id = $1 AND idempotency_key = $2;

-- name: GetOrder :one
SELECT id, customer_id, email, status, currency, total, created_at FROM orders WHERE id = $1;

-- name: GetOrderLines :many
SELECT order_id, sku, name, quantity, unit_price FROM order_lines
WHERE order_id = ANY(sqlc.arg(order_ids)::uuid[])
ORDER BY order_id, line;

-- ListOrders and PlacedLately ask for total > 0, which always holds: the partial index
-- orders_of_customer serves only queries that do.
-- name: ListOrders :many
SELECT id, customer_id, email, status, currency, total, created_at FROM orders
WHERE customer_id = $1 AND total > 0 AND id < coalesce(sqlc.narg(before)::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT $2;

-- PlacedLately finds the customer's newest open or paid order with the same units per SKU and
-- another key.
-- name: PlacedLately :one
SELECT id, customer_id, email, status, currency, total, created_at FROM orders
WHERE customer_id = sqlc.arg(customer_id) AND total > 0 AND idempotency_key <> sqlc.arg(other_than)
  AND created_at >= sqlc.arg(since)
  AND status IN ('placed', 'paying', 'paid')
  AND sqlc.arg(units)::jsonb = (SELECT jsonb_object_agg(l.sku, l.units) FROM
      (SELECT sku, sum(quantity) AS units FROM order_lines WHERE order_id = orders.id GROUP BY sku) AS l)
ORDER BY id DESC
LIMIT 1;

-- OrderDeadline is when LockExpired finds the order as it stands.
-- name: OrderDeadline :one
SELECT (expires_at + CASE status WHEN 'paying' THEN sqlc.arg(expiry)::interval ELSE interval '0' END)::timestamptz
FROM orders WHERE id = $1;

-- ListExpired finds orders that were not paid in time. An order that is being paid has the time
-- expiry once more. It leaves out orders that failed to expire and whose pause has not ended.
-- name: ListExpired :many
SELECT id FROM orders
WHERE status IN ('placed', 'paying') AND expires_at < now()
  AND (status = 'placed' OR expires_at < now() - sqlc.arg(expiry)::interval)
  AND NOT EXISTS (SELECT FROM failed_expiries f WHERE f.order_id = orders.id AND f.retry_at > now())
ORDER BY expires_at
LIMIT sqlc.arg(most);

-- LockExpired returns the order if it still has to expire. It skips an order that another
-- transaction has locked: the next run finds it.
-- name: LockExpired :many
SELECT id, customer_id, email, status, currency, total, created_at FROM orders
WHERE id = sqlc.arg(id) AND status IN ('placed', 'paying') AND expires_at < now()
  AND (status = 'placed' OR expires_at < now() - sqlc.arg(expiry)::interval)
FOR NO KEY UPDATE SKIP LOCKED;

-- PutOffExpiry doubles the pause with every failure, up to an hour.
-- About clock_timestamp(), see docs/decisions.md, D104.
-- name: PutOffExpiry :one
INSERT INTO failed_expiries (order_id, failures, retry_at)
SELECT sqlc.arg(order_id)::uuid, n.failures, n.retry_at
FROM (SELECT coalesce(max(f.failures), 0) + 1 AS failures,
        clock_timestamp()
            + least(interval '10 seconds' * 2 ^ least(coalesce(max(f.failures), 0), 16), interval '1 hour') AS retry_at
    FROM failed_expiries f WHERE f.order_id = sqlc.arg(order_id)::uuid) AS n
ON CONFLICT (order_id) DO UPDATE SET failures = excluded.failures, retry_at = excluded.retry_at
RETURNING failures;

-- name: ListAllOrders :many
SELECT id, customer_id, email, status, currency, total, created_at FROM orders
WHERE id < coalesce(sqlc.narg(before)::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT $1;

-- FindByNumber reads all orders: the number is derived from the id.
-- name: FindByNumber :many
SELECT id, customer_id, email, status, currency, total, created_at FROM orders
WHERE right(id::text, length(sqlc.arg(id_end)::text)) = sqlc.arg(id_end)::text
ORDER BY id DESC
LIMIT $1;

-- name: CountErasures :one
SELECT coalesce(sum(times), 0)::bigint FROM erasures;
