-- InsertEvent returns no row for an event that was stored before. The event names its charge or its
-- capture.
-- About clock_timestamp(), see docs/decisions.md, D104.
-- name: InsertEvent :one
INSERT INTO provider_events (id, type, payload, facts, state, reason, charge_id, received_at)
SELECT e.id, e.type, e.payload, e.facts, e.state, e.reason, coalesce(e.charge_id, c.id), clock_timestamp()
FROM (SELECT sqlc.arg(id)::text AS id, sqlc.arg(type)::text AS type, sqlc.arg(payload)::bytea AS payload,
             sqlc.arg(facts)::bytea AS facts, sqlc.arg(state)::text AS state, sqlc.arg(reason)::text AS reason,
             sqlc.narg(charge_id)::uuid AS charge_id) AS e
LEFT JOIN charges c ON c.provider = sqlc.arg(provider)::text AND c.provider_id = sqlc.arg(capture_id)::text
ON CONFLICT (id) DO NOTHING
RETURNING id;

-- name: ChargeOfEvent :one
SELECT charge_id FROM provider_events WHERE id = $1;

-- name: EventState :one
SELECT state FROM provider_events WHERE id = $1;

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
WITH later AS (
    SELECT p.id, now() + least(sqlc.arg(first_wait)::interval * power(2, least(p.tries, 20)),
        sqlc.arg(longest_wait)::interval) AS due_at
    FROM provider_events p WHERE p.id = sqlc.arg(id)
)
UPDATE provider_events AS e SET tries = e.tries + 1, due_at = later.due_at,
    state = CASE WHEN e.tries + 1 < sqlc.arg(max_tries)::int THEN e.state ELSE sqlc.arg(end_state)::text END,
    reason = CASE WHEN e.tries + 1 < sqlc.arg(max_tries)::int THEN e.reason ELSE sqlc.arg(reason)::text END
FROM later WHERE e.id = later.id AND e.state = 'received';

-- HurryEvents makes the events due that wait for something of the charge. It skips those
-- that a worker has locked, which waits for the charge and will see the change.
-- name: HurryEvents :exec
UPDATE provider_events SET due_at = now() WHERE id IN (
    SELECT id FROM provider_events WHERE charge_id = sqlc.arg(charge_id)::uuid AND state = 'received' AND due_at > now()
    FOR UPDATE SKIP LOCKED);

-- name: ListQuarantined :many
SELECT id, type, payload, reason, charge_id, received_at FROM provider_events
WHERE state = 'quarantined' AND received_at < coalesce(sqlc.narg(before)::timestamptz, 'infinity')
ORDER BY received_at DESC LIMIT $1;

-- UpsertDispute returns where the dispute stands. A closed one stays closed. The excluded row was
-- opened now.
-- name: UpsertDispute :one
INSERT INTO disputes AS d (id, charge_id, status, amount, currency, opened_at) VALUES ($1, $2, $3, $4, $5, now())
ON CONFLICT (id) DO UPDATE SET
    status = CASE WHEN d.status = 'open' THEN excluded.status ELSE d.status END,
    closed_at = CASE WHEN d.status = 'open' AND excluded.status <> 'open' THEN excluded.opened_at ELSE d.closed_at END
RETURNING status;

-- name: SetDispute :exec
UPDATE charges SET dispute = $2 WHERE id = $1;
