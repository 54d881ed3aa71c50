-- InsertEvent returns no row for an event that was stored before. The event names its charge or its
-- capture.
-- name: InsertEvent :one
INSERT INTO provider_events (id, type, payload, facts, state, reason, charge_id)
VALUES ($1, $2, $3, $4, $5, $6,
    coalesce(sqlc.narg(charge_id)::uuid, (SELECT c.id FROM charges c
        WHERE c.provider = sqlc.arg(provider)::text AND c.provider_id = sqlc.arg(capture_id)::text)))
ON CONFLICT (id) DO NOTHING
RETURNING id;

-- name: ChargeOfEvent :one
SELECT charge_id FROM provider_events WHERE id = $1;

-- name: ListDueEvents :many
SELECT id FROM provider_events WHERE state = 'received' AND due_at <= now() ORDER BY due_at LIMIT $1;

-- name: LockDueEvent :one
SELECT id, type, facts FROM provider_events WHERE id = $1 AND state = 'received' FOR UPDATE SKIP LOCKED;

-- name: MarkEventApplied :exec
UPDATE provider_events SET state = 'applied', applied_at = now() WHERE id = $1;

-- name: QuarantineEvent :exec
UPDATE provider_events SET state = 'quarantined', reason = $2 WHERE id = $1 AND state = 'received';

-- PostponeEvent doubles the wait with every try, and gives the event its end state after the last
-- one.
-- name: PostponeEvent :exec
UPDATE provider_events SET tries = tries + 1,
    due_at = now() + least(sqlc.arg(first_wait)::interval * power(2, least(tries, 20)),
        sqlc.arg(longest_wait)::interval),
    state = CASE WHEN tries + 1 < sqlc.arg(max_tries)::int THEN state ELSE sqlc.arg(end_state)::text END,
    reason = CASE WHEN tries + 1 < sqlc.arg(max_tries)::int THEN reason ELSE sqlc.arg(reason)::text END
WHERE id = $1 AND state = 'received';

-- name: ListQuarantined :many
SELECT id, type, payload, reason, charge_id, received_at FROM provider_events
WHERE state = 'quarantined' AND received_at < coalesce(sqlc.narg(before)::timestamptz, 'infinity')
ORDER BY received_at DESC LIMIT $1;

-- UpsertDispute returns where the dispute stands. A closed one stays closed.
-- name: UpsertDispute :one
INSERT INTO disputes AS d (id, charge_id, status, amount, currency) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (id) DO UPDATE SET
    status = CASE d.status WHEN 'open' THEN excluded.status ELSE d.status END,
    closed_at = CASE WHEN d.status = 'open' AND excluded.status <> 'open' THEN now() ELSE d.closed_at END
RETURNING status;

-- name: SetDispute :exec
UPDATE charges SET dispute = $2 WHERE id = $1;
