-- name: FindRefundByKey :one
SELECT * FROM refunds WHERE customer_id = sqlc.arg(customer_id)::uuid AND idempotency_key = sqlc.arg(idempotency_key)::text;

-- name: GetRefund :one
SELECT * FROM refunds WHERE id = $1;

-- name: InsertRefund :one
INSERT INTO refunds (id, charge_id, customer_id, idempotency_key, fingerprint, cause, reason, status, amount, currency, lease_until, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, 'pending', $8, $9, now() + sqlc.arg(lease)::interval, $10)
ON CONFLICT ON CONSTRAINT refunds_one_per_key DO NOTHING
RETURNING *;

-- name: LockRefund :one
SELECT * FROM refunds WHERE id = $1 FOR NO KEY UPDATE;

-- name: SettleRefund :exec
UPDATE refunds SET status = 'succeeded', provider_id = $2, answer = $3, settled_at = now() WHERE id = $1;

-- FailRefund gives the key back: nothing happened under it.
-- name: FailRefund :exec
UPDATE refunds SET status = 'failed', idempotency_key = NULL, fingerprint = NULL, settled_at = now() WHERE id = $1;

-- name: MarkRefundUnknown :one
UPDATE refunds SET status = 'unknown', unknown_at = coalesce(unknown_at, now()), lease_until = now() + sqlc.arg(pause)::interval
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

-- name: ListRefunds :many
SELECT * FROM refunds WHERE charge_id = $1 ORDER BY id;

-- name: FindRefundByProviderID :one
SELECT * FROM refunds WHERE provider_id = sqlc.arg(provider_id)::text;
