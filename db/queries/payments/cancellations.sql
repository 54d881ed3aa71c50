-- name: FindCancellationByKey :one
SELECT * FROM cancellations WHERE customer_id = $1 AND idempotency_key = $2;

-- name: InsertCancellation :execrows
INSERT INTO cancellations (order_id, customer_id, idempotency_key, fingerprint, answer, created_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING;
