-- name: InsertEvent :execrows
INSERT INTO provider_events (id, type, payload, state) VALUES ($1, $2, $3, 'applied')
ON CONFLICT (id) DO NOTHING;

-- name: QuarantineEvent :exec
UPDATE provider_events SET state = 'quarantined', reason = $2 WHERE id = $1;

-- name: ListQuarantined :many
SELECT id, type, payload, reason, received_at FROM provider_events WHERE state = 'quarantined'
ORDER BY received_at DESC LIMIT $1;
