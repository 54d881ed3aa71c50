-- name: FindRefundByKey :one
SELECT * FROM refunds
WHERE customer_id = sqlc.arg(customer_id)::uuid AND idempotency_key = sqlc.arg(idempotency_key)::text;

-- name: GetRefund :one
SELECT * FROM refunds WHERE id = $1;

-- name: FindRefundByProviderID :one
SELECT * FROM refunds WHERE provider_id = sqlc.arg(provider_id)::text;

-- name: LockRefund :one
SELECT * FROM refunds WHERE id = $1 FOR NO KEY UPDATE;

-- name: ListRefunds :many
SELECT * FROM refunds WHERE charge_id = $1 ORDER BY created_at, id;

-- name: ListRefundsOfOrder :many
SELECT r.* FROM refunds r JOIN charges c ON c.id = r.charge_id WHERE c.order_id = $1 ORDER BY r.created_at, r.id;

-- InsertRefund inserts the refund and reserves its amount of the charge, if the key is free. It
-- fails by the constraint charges_refunds_within_capture when the charge cannot give so much back.
-- name: InsertRefund :many
WITH refund AS (
    INSERT INTO refunds (id, charge_id, customer_id, idempotency_key, fingerprint, cause, reason, status,
                         amount, currency, lease_until, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, 'pending', $8, $9, now() + sqlc.arg(lease)::interval, $10)
    ON CONFLICT ON CONSTRAINT refunds_one_per_key DO NOTHING
    RETURNING *
), charge AS (
    UPDATE charges SET refund_reserved = charges.refund_reserved + refund.amount
    FROM refund WHERE charges.id = refund.charge_id
)
SELECT * FROM refund;

-- AdoptRefund gives a refund its key that was rebuilt without it.
-- name: AdoptRefund :execrows
UPDATE refunds SET customer_id = sqlc.arg(customer_id)::uuid, idempotency_key = sqlc.arg(idempotency_key)::text,
    fingerprint = $2, cause = 'requested', reason = $3, answer = $4, answer_status = $5
WHERE id = $1 AND status = $6 AND idempotency_key IS NULL;

-- InsertOutsideRefund inserts a refund that the provider made without us, once.
-- name: InsertOutsideRefund :many
INSERT INTO refunds (id, charge_id, cause, status, amount, currency, provider_id, lease_until, created_at, settled_at)
VALUES ($1, $2, 'outside', sqlc.arg(status)::text, $3, $4, $5, now(), $6,
    now() + CASE WHEN sqlc.arg(status)::text <> 'pending' THEN interval '0' END)
ON CONFLICT DO NOTHING
RETURNING id;

-- SettleRefund expects a row that LockRefund locked. A pending refund is looked at again after the
-- pause.
-- name: SettleRefund :exec
UPDATE refunds SET status = sqlc.arg(status)::text, provider_id = $2, failure_code = $3, answer = $4,
    answer_status = $5, lease_until = now() + sqlc.arg(pause)::interval,
    settled_at = now() + CASE WHEN sqlc.arg(status)::text <> 'pending' THEN interval '0' END
WHERE id = $1;

-- name: MarkRefundUnknown :one
UPDATE refunds SET status = CASE WHEN provider_id IS NULL THEN 'unknown' ELSE status END,
    refused = refused OR sqlc.arg(refused)::boolean,
    unknown_at = least(unknown_at, now()), lease_until = now() + sqlc.arg(pause)::interval
WHERE id = $1 AND attempt = $2 AND status IN ('pending', 'unknown')
RETURNING *;

-- MarkRefundAsked comes before the provider is asked again. It changes nothing for a stale worker.
-- name: MarkRefundAsked :execrows
UPDATE refunds SET asked_at = now() WHERE id = $1 AND attempt = $2 AND status IN ('pending', 'unknown');

-- name: ClaimUnsettledRefunds :many
UPDATE refunds SET attempt = attempt + 1, lease_until = now() + sqlc.arg(lease)::interval
WHERE id IN (
    SELECT r.id FROM refunds r WHERE r.status IN ('pending', 'unknown') AND r.lease_until < now()
    ORDER BY r.attempt > 4, r.lease_until LIMIT sqlc.arg(most) FOR UPDATE SKIP LOCKED)
RETURNING *;

-- name: RefundAges :one
SELECT extract(epoch FROM now() - started_at)::float8 AS started, extract(epoch FROM now() - asked_at)::float8 AS asked
FROM refunds WHERE id = $1;
