-- InsertEvent returns no row for an event that was stored before. The event names its charge or its
-- capture.
-- name: InsertEvent :one
INSERT INTO provider_events (id, type, payload, state, charge_id)
VALUES ($1, $2, $3, 'applied',
    coalesce(sqlc.narg(charge_id)::uuid, (SELECT c.id FROM charges c WHERE c.provider_id = sqlc.arg(capture_id)::text)))
ON CONFLICT (id) DO NOTHING
RETURNING id;

-- name: ChargeOfEvent :one
SELECT charge_id FROM provider_events WHERE id = $1;

-- name: QuarantineEvent :exec
UPDATE provider_events SET state = 'quarantined', reason = $2 WHERE id = $1;

-- name: ListQuarantined :many
SELECT id, type, payload, reason, charge_id, received_at FROM provider_events
WHERE state = 'quarantined' AND received_at < coalesce(sqlc.narg(before)::timestamptz, 'infinity')
ORDER BY received_at DESC LIMIT $1;
