-- name: FindRefundByKey :one
SELECT * FROM refunds
WHERE customer_id = sqlc.arg(customer_id)::uuid AND idempotency_key = sqlc.arg(idempotency_key)::text;

-- name: GetRefund :one
SELECT * FROM refunds WHERE id = $1;

-- InsertRefund inserts the refund and takes its amount off the charge, if the key is free. It fails
-- by the constraint charges_refunds_within_capture when the charge cannot give so much back.
-- name: InsertRefund :many
WITH refund AS (
    INSERT INTO refunds (id, charge_id, customer_id, idempotency_key, fingerprint, cause, reason, status,
                         amount, currency, lease_until, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, 'pending', $8, $9, now() + sqlc.arg(lease)::interval, $10)
    ON CONFLICT ON CONSTRAINT refunds_one_per_key DO NOTHING
    RETURNING *
), charge AS (
    UPDATE charges SET amount_refunded = charges.amount_refunded + refund.amount
    FROM refund WHERE charges.id = refund.charge_id
)
SELECT * FROM refund;

-- name: LockRefund :one
SELECT * FROM refunds WHERE id = $1 FOR NO KEY UPDATE;

-- name: SettleRefund :exec
UPDATE refunds SET status = 'succeeded', provider_id = $2, answer = $3, settled_at = now() WHERE id = $1;

-- FailRefund gives the amount back to the charge, and the key back to the customer: nothing
-- happened under it.
-- name: FailRefund :exec
WITH refund AS (
    UPDATE refunds SET status = 'failed', idempotency_key = NULL, fingerprint = NULL, settled_at = now()
    WHERE refunds.id = $1
    RETURNING refunds.charge_id, refunds.amount
)
UPDATE charges SET amount_refunded = charges.amount_refunded - refund.amount
FROM refund WHERE charges.id = refund.charge_id;

-- name: MarkRefundUnknown :one
UPDATE refunds SET status = 'unknown', unknown_at = coalesce(unknown_at, now()),
    lease_until = now() + sqlc.arg(pause)::interval
WHERE id = $1 AND attempt = $2 AND status IN ('pending', 'unknown')
RETURNING *;

-- name: ClaimUnsettledRefunds :many
UPDATE refunds SET attempt = attempt + 1, lease_until = now() + sqlc.arg(lease)::interval
WHERE id IN (
    SELECT r.id FROM refunds r WHERE r.status IN ('pending', 'unknown') AND r.lease_until < now()
    ORDER BY r.lease_until LIMIT sqlc.arg(most) FOR UPDATE SKIP LOCKED)
RETURNING *;

-- name: RefundAgeSeconds :one
SELECT extract(epoch FROM now() - started_at)::float8 FROM refunds WHERE id = $1;

-- name: HasLiveRefund :one
SELECT EXISTS (SELECT FROM refunds WHERE charge_id = $1 AND status IN ('pending', 'unknown'));

-- name: FindRefundByProviderID :one
SELECT * FROM refunds WHERE provider_id = sqlc.arg(provider_id)::text;
