-- Deleting old rows. Each statement looks at one slice, and deletes what is old enough of it. A
-- slice of ids lies between after, the last id of the slice before it, and before.

-- NoteKept comes before the deletion of events.
-- name: NoteKept :exec
INSERT INTO outbox_kept (since) VALUES ($1)
ON CONFLICT (one) DO UPDATE SET since = greatest(outbox_kept.since, excluded.since);

-- DeleteEvents deletes all events of an order together, when the newest is old enough.
-- name: DeleteEvents :one
WITH slice AS MATERIALIZED (
    SELECT o.id, o.order_id FROM outbox o
    WHERE o.id > sqlc.arg(after)::uuid AND o.id < sqlc.arg(before)::uuid
    ORDER BY o.id LIMIT sqlc.arg(most)
), gone AS (
    DELETE FROM outbox WHERE outbox.order_id = ANY(ARRAY(SELECT s.order_id FROM slice s))
        AND NOT EXISTS (SELECT FROM outbox n WHERE n.order_id = outbox.order_id
            AND (n.id >= sqlc.arg(before)::uuid OR n.sent_at IS NULL
                OR n.sent_at >= sqlc.arg(sent_before)::timestamptz))
    RETURNING outbox.id
)
SELECT (SELECT count(*) FROM slice) AS seen, (SELECT count(*) FROM gone) AS deleted,
    coalesce((SELECT s.id FROM slice s ORDER BY s.id DESC LIMIT 1), sqlc.arg(after)::uuid)::uuid AS last;

-- DeleteReceipts keeps the receipt of an order that has events.
-- name: DeleteReceipts :one
WITH slice AS MATERIALIZED (
    SELECT r.order_id FROM receipts r
    WHERE r.order_id > sqlc.arg(after)::uuid AND r.order_id < sqlc.arg(before)::uuid
    ORDER BY r.order_id LIMIT sqlc.arg(most)
), gone AS (
    DELETE FROM receipts WHERE receipts.order_id = ANY(ARRAY(SELECT s.order_id FROM slice s))
        AND coalesce(receipts.sent_at, receipts.dead_at) < sqlc.arg(ended_before)::timestamptz
        AND NOT EXISTS (SELECT FROM outbox o WHERE o.order_id = receipts.order_id)
    RETURNING receipts.order_id
)
SELECT (SELECT count(*) FROM slice) AS seen, (SELECT count(*) FROM gone) AS deleted,
    coalesce((SELECT s.order_id FROM slice s ORDER BY s.order_id DESC LIMIT 1), sqlc.arg(after)::uuid)::uuid AS last;

-- DeleteProviderEvents keeps the events that wait for their turn or for an operator.
-- name: DeleteProviderEvents :execrows
DELETE FROM provider_events WHERE id = ANY(ARRAY(
    SELECT e.id FROM provider_events e
    WHERE e.state IN ('applied', 'dismissed') AND e.received_at < sqlc.arg(received_before)::timestamptz
    ORDER BY e.received_at LIMIT sqlc.arg(most)));

-- name: DeleteStopped :execrows
DELETE FROM stopped_twins WHERE id = ANY(ARRAY(
    SELECT s.id FROM stopped_twins s WHERE s.at < sqlc.arg(seen_before)::timestamptz
    ORDER BY s.at LIMIT sqlc.arg(most)));
