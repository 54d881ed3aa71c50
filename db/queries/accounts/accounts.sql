-- FindToken returns a token that is good, and for how long it will be: an hour stands for longer.
-- name: FindToken :one
SELECT customer_id, admin, demo, coalesce(extract(epoch FROM expires_at - now()), 3600)::float8 AS seconds_left
FROM api_tokens
WHERE hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now());

-- name: InsertToken :exec
INSERT INTO api_tokens (hash, customer_id, admin, demo, prefix, expires_at)
VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => sqlc.narg(seconds)::float8))
ON CONFLICT (hash) DO NOTHING;

-- name: ListTokens :many
SELECT t.prefix, coalesce(c.email, '')::text AS email, t.admin, t.demo, t.created_at, t.expires_at, t.revoked_at,
    (t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now()))::boolean AS good
FROM api_tokens t JOIN customers c ON c.id = t.customer_id
ORDER BY t.created_at, t.hash;

-- FindTokensByPrefix returns the tokens that may still be revoked. The text may be longer than what
-- is stored, up to the whole token.
-- name: FindTokensByPrefix :many
SELECT hash FROM api_tokens
WHERE revoked_at IS NULL
    AND (starts_with(prefix, sqlc.arg(text)::text) OR starts_with(sqlc.arg(text)::text, prefix));

-- name: RevokeToken :one
UPDATE api_tokens SET revoked_at = now()
WHERE hash = $1 AND revoked_at IS NULL
RETURNING prefix;

-- name: InsertSession :exec
INSERT INTO operator_sessions (hash, token_hash) VALUES ($1, $2);

-- FindSession returns the operator of a session that has not ended, and whether it is time to note
-- that the session is in use.
-- name: FindSession :one
SELECT t.customer_id, t.admin, t.demo, (s.seen_at < now() - interval '1 minute')::boolean AS stale
FROM operator_sessions s JOIN api_tokens t ON t.hash = s.token_hash
WHERE s.hash = $1 AND s.seen_at > now() - sqlc.arg(idle)::interval AND s.created_at > now() - sqlc.arg(age)::interval
    AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now());

-- name: TouchSession :exec
UPDATE operator_sessions SET seen_at = now() WHERE hash = $1;

-- name: DeleteSession :exec
DELETE FROM operator_sessions WHERE hash = $1;

-- name: DeleteEndedSessions :exec
DELETE FROM operator_sessions
WHERE seen_at <= now() - sqlc.arg(idle)::interval OR created_at <= now() - sqlc.arg(age)::interval;

-- name: InsertCustomer :execrows
INSERT INTO customers (id, email) VALUES ($1, sqlc.narg(email))
ON CONFLICT DO NOTHING;

-- name: FindCustomerByEmail :one
SELECT id FROM customers WHERE lower(email) = lower(sqlc.arg(email)::text);

-- name: GetEmail :one
SELECT coalesce(email, '')::text AS email FROM customers WHERE id = $1;
