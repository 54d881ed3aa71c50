-- name: FindCancellationByKey :one
SELECT * FROM cancellations WHERE customer_id = $1 AND idempotency_key = $2;

-- InsertCancellation returns no row when the key is taken.
-- name: InsertCancellation :one
INSERT INTO cancellations (order_id, customer_id, idempotency_key, fingerprint, answer, created_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
RETURNING order_id;
