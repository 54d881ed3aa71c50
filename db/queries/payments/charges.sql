-- name: FindChargeByKey :one
SELECT * FROM charges WHERE customer_id = $1 AND idempotency_key = $2;

-- name: GetCharge :one
SELECT * FROM charges WHERE id = $1;

-- name: FindLiveCharge :one
SELECT * FROM charges WHERE order_id = $1 AND status IN ('pending', 'unknown', 'succeeded');

-- MarkUnknown keeps the charge live, because only the provider's word can end it, and says when to ask again.
-- name: MarkUnknown :one
UPDATE charges SET status = 'unknown', unknown_at = coalesce(unknown_at, now()), lease_until = now() + sqlc.arg(pause)::interval
WHERE id = $1 AND attempt = $2 AND status IN ('pending', 'unknown')
RETURNING *;

-- name: SettleCharge :exec
UPDATE charges SET status = $2, provider_id = $3, decline_code = $4, answer_status = $5, answer = $6, settled_at = now()
WHERE id = $1;

-- name: LockCharge :one
SELECT * FROM charges WHERE id = $1 FOR NO KEY UPDATE;

-- name: ListCharges :many
SELECT * FROM charges WHERE order_id = $1 ORDER BY id;

-- ClaimUnsettledCharges takes over charges whose lease has run out. The new attempt number refuses the writes of whoever held them.
-- name: ClaimUnsettledCharges :many
UPDATE charges SET attempt = attempt + 1, lease_until = now() + sqlc.arg(lease)::interval
WHERE id IN (
    SELECT c.id FROM charges c WHERE c.status IN ('pending', 'unknown') AND c.lease_until < now()
    ORDER BY c.lease_until LIMIT sqlc.arg(most) FOR UPDATE SKIP LOCKED)
RETURNING *;

-- name: ChargeAges :one
SELECT extract(epoch FROM now() - started_at)::float8 AS started, extract(epoch FROM now() - asked_at)::float8 AS asked
FROM charges WHERE id = $1;

-- MarkAsked is written before the provider is asked once more, by whoever holds the charge.
-- name: MarkAsked :execrows
UPDATE charges SET asked_at = now() WHERE id = $1 AND attempt = $2 AND status IN ('pending', 'unknown');

-- AddRefunded fails by the constraint charges_refunds_within_capture when it is too much.
-- name: AddRefunded :one
UPDATE charges SET amount_refunded = amount_refunded + sqlc.arg(amount) WHERE id = $1
RETURNING *;

-- name: FindChargeByProviderID :one
SELECT * FROM charges WHERE provider_id = sqlc.arg(provider_id)::text;

-- ListUnsettled puts what nobody knows first, and among it what has waited longest.
-- name: ListUnsettled :many
SELECT * FROM charges WHERE status IN ('pending', 'unknown') ORDER BY status DESC, id LIMIT $1;

-- name: ListAllCharges :many
SELECT * FROM charges WHERE id < coalesce(sqlc.narg(before)::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC LIMIT $1;
