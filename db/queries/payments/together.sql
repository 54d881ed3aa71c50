-- Starting and settling charges, many at a time: each statement takes the whole batch as arrays.

-- name: FindChargesByKeys :many
SELECT charges.* FROM (SELECT unnest(sqlc.arg(customer_ids)::uuid[]) AS customer_id, unnest(sqlc.arg(idempotency_keys)::text[]) AS idempotency_key) AS k
JOIN charges ON charges.customer_id = k.customer_id AND charges.idempotency_key = k.idempotency_key;

-- InsertCharges returns the charges that met no unique key: their own, or their order's one live charge. It takes the keys in their order, so that
-- two nodes with the same keys in other orders cannot deadlock.
-- name: InsertCharges :many
INSERT INTO charges (id, order_id, customer_id, idempotency_key, fingerprint, payment_method, status, amount, currency, lease_until, created_at)
SELECT c.id, c.order_id, c.customer_id, c.idempotency_key, c.fingerprint, c.payment_method, 'pending', c.amount, c.currency,
       now() + sqlc.arg(lease)::interval, sqlc.arg(created_at)::timestamptz
FROM (SELECT unnest(sqlc.arg(ids)::uuid[]) AS id, unnest(sqlc.arg(order_ids)::uuid[]) AS order_id, unnest(sqlc.arg(customer_ids)::uuid[]) AS customer_id,
             unnest(sqlc.arg(idempotency_keys)::text[]) AS idempotency_key, unnest(sqlc.arg(fingerprints)::bytea[]) AS fingerprint,
             unnest(sqlc.arg(payment_methods)::text[]) AS payment_method, unnest(sqlc.arg(amounts)::bigint[]) AS amount,
             unnest(sqlc.arg(currencies)::text[]) AS currency) AS c
ORDER BY c.customer_id, c.idempotency_key
ON CONFLICT DO NOTHING
RETURNING *;

-- LockCharges takes ids in order, each once, after the locks of their orders.
-- name: LockCharges :many
SELECT charges.* FROM (SELECT unnest(sqlc.arg(ids)::uuid[]) AS id) AS k JOIN charges ON charges.id = k.id FOR NO KEY UPDATE OF charges;

-- name: SettleCharges :exec
UPDATE charges SET status = s.status, provider_id = nullif(s.provider_id, ''), decline_code = nullif(s.decline_code, ''),
    answer_status = s.answer_status, answer = s.answer, settled_at = now()
FROM (SELECT unnest(sqlc.arg(ids)::uuid[]) AS id, unnest(sqlc.arg(statuses)::text[]) AS status, unnest(sqlc.arg(provider_ids)::text[]) AS provider_id,
             unnest(sqlc.arg(decline_codes)::text[]) AS decline_code, unnest(sqlc.arg(answer_statuses)::int[]) AS answer_status,
             unnest(sqlc.arg(answers)::bytea[]) AS answer) AS s
WHERE charges.id = s.id;
