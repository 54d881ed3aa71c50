-- name: FindChargeByKey :one
SELECT * FROM charges WHERE customer_id = $1 AND idempotency_key = $2;

-- name: GetCharge :one
SELECT * FROM charges WHERE id = $1;

-- name: FindLiveCharge :one
SELECT * FROM charges WHERE order_id = $1 AND status IN ('pending', 'unknown', 'succeeded');

-- name: LockCharge :one
SELECT * FROM charges WHERE id = $1 FOR NO KEY UPDATE;

-- name: ListCharges :many
SELECT * FROM charges WHERE order_id = $1 ORDER BY id;

-- MarkUnknown keeps the charge live, because only the provider's answer can end it, and sets when
-- to ask again.
-- name: MarkUnknown :one
UPDATE charges SET status = 'unknown', unknown_at = coalesce(unknown_at, now()),
    lease_until = now() + sqlc.arg(pause)::interval
WHERE id = $1 AND attempt = $2 AND status IN ('pending', 'unknown')
RETURNING *;

-- ClaimUnsettledCharges takes over charges whose lease has run out. Their new attempt number fences
-- off the workers that held them before.
-- name: ClaimUnsettledCharges :many
UPDATE charges SET attempt = attempt + 1, lease_until = now() + sqlc.arg(lease)::interval
WHERE id IN (
    SELECT c.id FROM charges c WHERE c.status IN ('pending', 'unknown') AND c.lease_until < now()
    ORDER BY c.lease_until LIMIT sqlc.arg(most) FOR UPDATE SKIP LOCKED)
RETURNING *;

-- name: ChargeAges :one
SELECT extract(epoch FROM now() - started_at)::float8 AS started, extract(epoch FROM now() - asked_at)::float8 AS asked
FROM charges WHERE id = $1;

-- MarkAsked comes before the provider is asked again. It changes nothing for a stale worker.
-- name: MarkAsked :execrows
UPDATE charges SET asked_at = now() WHERE id = $1 AND attempt = $2 AND status IN ('pending', 'unknown');

-- ListUnsettled lists unknown charges before pending ones, the oldest first.
-- name: ListUnsettled :many
SELECT * FROM charges WHERE status IN ('pending', 'unknown') ORDER BY status DESC, id LIMIT $1;

-- name: ListAllCharges :many
SELECT * FROM charges WHERE id < coalesce(sqlc.narg(before)::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC LIMIT $1;

-- The statements below start and settle charges. They take a batch of charges as arrays and expect
-- the orders to be locked. CROSS JOIN LATERAL makes a look-up one step down an index, whatever size
-- the planner assumes for the tables.

-- InsertCharges inserts and returns the charges that can start: the order belongs to the customer
-- and waits for a payment, the key is free, and the order has no live charge. It inserts in the
-- order of the keys: two nodes with the same keys cannot deadlock.
-- name: InsertCharges :many
INSERT INTO charges (id, order_id, customer_id, idempotency_key, fingerprint, payment_method,
                     status, amount, currency, lease_until, created_at)
SELECT c.id, o.id, o.customer_id, c.idempotency_key, c.fingerprint, c.payment_method,
       'pending', o.total, o.currency, now() + sqlc.arg(lease)::interval, sqlc.arg(created_at)::timestamptz
FROM (SELECT unnest(sqlc.arg(ids)::uuid[]) AS id,
             unnest(sqlc.arg(order_ids)::uuid[]) AS order_id,
             unnest(sqlc.arg(customer_ids)::uuid[]) AS customer_id,
             unnest(sqlc.arg(idempotency_keys)::text[]) AS idempotency_key,
             unnest(sqlc.arg(fingerprints)::bytea[]) AS fingerprint,
             unnest(sqlc.arg(payment_methods)::text[]) AS payment_method) AS c
CROSS JOIN LATERAL (
    SELECT orders.id, orders.customer_id, orders.status, orders.total, orders.currency
    FROM orders WHERE orders.id = c.order_id LIMIT 1) AS o
WHERE o.customer_id = c.customer_id AND o.status = 'placed'
ORDER BY c.customer_id, c.idempotency_key, c.id
ON CONFLICT DO NOTHING
RETURNING *;

-- name: FindUsedKeys :many
SELECT c.customer_id, c.idempotency_key
FROM (SELECT unnest(sqlc.arg(customer_ids)::uuid[]) AS customer_id,
             unnest(sqlc.arg(idempotency_keys)::text[]) AS idempotency_key) AS k
CROSS JOIN LATERAL (
    SELECT charges.customer_id, charges.idempotency_key FROM charges
    WHERE charges.customer_id = k.customer_id AND charges.idempotency_key = k.idempotency_key LIMIT 1) AS c;

-- name: FindLiveCharges :many
SELECT * FROM charges
WHERE order_id = ANY(sqlc.arg(order_ids)::uuid[]) AND status IN ('pending', 'unknown', 'succeeded');

-- LockCharges locks all charges of the orders.
-- name: LockCharges :many
SELECT * FROM charges WHERE order_id = ANY(sqlc.arg(order_ids)::uuid[]) FOR NO KEY UPDATE;

-- name: SettleCharges :exec
UPDATE charges SET status = s.status, provider_id = nullif(s.provider_id, ''),
    decline_code = nullif(s.decline_code, ''), answer_status = s.answer_status, answer = s.answer, settled_at = now()
FROM (SELECT unnest(sqlc.arg(ids)::uuid[]) AS id,
             unnest(sqlc.arg(statuses)::text[]) AS status,
             unnest(sqlc.arg(provider_ids)::text[]) AS provider_id,
             unnest(sqlc.arg(decline_codes)::text[]) AS decline_code,
             unnest(sqlc.arg(answer_statuses)::int[]) AS answer_status,
             unnest(sqlc.arg(answers)::bytea[]) AS answer) AS s
WHERE charges.id = s.id;
