-- name: FindToken :one
SELECT customer_id, admin, demo FROM api_tokens WHERE hash = $1;

-- name: InsertToken :exec
INSERT INTO api_tokens (hash, customer_id, admin, demo)
VALUES ($1, $2, $3, $4)
ON CONFLICT (hash) DO NOTHING;

-- name: InsertCustomer :execrows
INSERT INTO customers (id, email) VALUES ($1, sqlc.narg(email))
ON CONFLICT DO NOTHING;

-- name: FindCustomerByEmail :one
SELECT id FROM customers WHERE lower(email) = lower(sqlc.arg(email)::text);

-- name: GetEmail :one
SELECT coalesce(email, '')::text AS email FROM customers WHERE id = $1;
