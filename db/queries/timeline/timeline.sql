-- OrderPlaced, like Cancellation below, takes the time of the first stock movement if that is
-- earlier: created_at is a moment inside the transaction, and the other rows have the time of its
-- beginning.
-- name: OrderPlaced :many
SELECT o.idempotency_key, least(o.created_at, min(m.created_at))::timestamptz AS at
FROM orders o LEFT JOIN stock_movements m ON m.order_id = o.id
WHERE o.id = $1
GROUP BY o.id;

-- Movements and the statements below return the newest rows, newest first. The order is by a column
-- without an index, or Postgres may read the whole index of the primary key.
-- name: Movements :many
SELECT sku, kind, quantity, created_at FROM stock_movements WHERE order_id = sqlc.arg(order_id)::uuid
ORDER BY created_at DESC, id DESC LIMIT $1;

-- name: Charges :many
SELECT id, idempotency_key, payment_method, status, amount, currency, decline_code, provider_id, attempt,
    started_at, asked_at, unknown_at, settled_at, pays
FROM charges WHERE order_id = sqlc.arg(order_id)::uuid
ORDER BY created_at DESC, id DESC LIMIT $1;

-- name: Refunds :many
SELECT r.id, r.idempotency_key, r.cause, r.reason, r.status, r.amount, r.currency, r.provider_id, r.failure_code,
    r.attempt, r.started_at, r.asked_at, r.unknown_at, r.settled_at,
    coalesce((SELECT u.email FROM customers u WHERE u.id = r.customer_id), '')::text AS operator
FROM refunds r JOIN charges c ON c.id = r.charge_id
WHERE c.order_id = sqlc.arg(order_id)::uuid
ORDER BY r.created_at DESC, r.id DESC LIMIT $1;

-- ProviderEvents dates an applied event no earlier than the charge it settled: it can have waited.
-- name: ProviderEvents :many
SELECT e.id, e.type, e.state, e.reason,
    coalesce(e.applied_at, e.received_at)::timestamptz AS received_at,
    coalesce(c.settled_at = e.applied_at, false)::boolean AS settles
FROM provider_events e JOIN charges c ON c.id = e.charge_id
WHERE c.order_id = sqlc.arg(order_id)::uuid
ORDER BY e.received_at DESC, e.id DESC LIMIT $1;

-- name: Disputes :many
SELECT d.id, d.status, d.amount, d.currency, d.opened_at, d.closed_at
FROM disputes d JOIN charges c ON c.id = d.charge_id
WHERE c.order_id = sqlc.arg(order_id)::uuid
ORDER BY d.opened_at DESC, d.id DESC LIMIT $1;

-- name: Cancellation :many
SELECT c.idempotency_key, least(c.created_at, min(m.created_at))::timestamptz AS at,
    coalesce((SELECT u.email FROM customers u JOIN orders o ON o.id = c.order_id
        WHERE u.id = c.customer_id AND u.id <> o.customer_id), '')::text AS operator
FROM cancellations c LEFT JOIN stock_movements m ON m.order_id = c.order_id AND m.kind IN ('released', 'returned')
WHERE c.order_id = $1
GROUP BY c.order_id;

-- name: OperatorActions :many
SELECT id, operator, idempotency_key, action, subject, reason, created_at FROM operator_actions
WHERE order_id = sqlc.arg(order_id)::uuid
ORDER BY created_at DESC, id DESC LIMIT $1;

-- name: OutboxEvents :many
SELECT id, type, created_at, sent_at, stream_seq FROM outbox WHERE order_id = sqlc.arg(order_id)::uuid
ORDER BY created_at DESC, id DESC LIMIT $1;

-- name: Receipt :many
SELECT attempt, created_at, sent_at FROM receipts WHERE order_id = $1 AND kind = 'paid';

-- StoppedTwins returns the newest of the subjects.
-- name: StoppedTwins :many
SELECT kind, operation, event_id, event_type, attempt, times, at FROM stopped_twins
WHERE subject = ANY(sqlc.arg(subjects)::uuid[]) ORDER BY at DESC LIMIT $1;

-- CountStopped counts the stopped twins of an order and of its charges, refunds, events and
-- operators' actions, by kind.
-- name: CountStopped :many
SELECT s.kind, sum(s.times)::bigint AS times FROM stopped_twins s
WHERE s.subject = ANY(ARRAY(
    SELECT sqlc.arg(order_id)::uuid
    UNION ALL SELECT c.id FROM charges c WHERE c.order_id = sqlc.arg(order_id)::uuid
    UNION ALL SELECT r.id FROM refunds r JOIN charges c ON c.id = r.charge_id
        WHERE c.order_id = sqlc.arg(order_id)::uuid
    UNION ALL SELECT b.id FROM outbox b WHERE b.order_id = sqlc.arg(order_id)::uuid
    UNION ALL SELECT a.id FROM operator_actions a WHERE a.order_id = sqlc.arg(order_id)::uuid))
GROUP BY s.kind;

-- CountPassed counts what the layers let through for an order: each of it happened once.
-- name: CountPassed :one
SELECT count(*)::bigint AS charges,
    coalesce(sum(c.attempt - 1) FILTER (WHERE c.unknown_at IS NOT NULL), 0)::bigint AS asked_again,
    count(*) FILTER (WHERE c.status = 'succeeded')::bigint AS captures,
    (SELECT count(*) FROM provider_events e JOIN charges p ON p.id = e.charge_id
        WHERE p.order_id = sqlc.arg(order_id)::uuid)::bigint AS provider_events,
    (SELECT count(*) FROM outbox b WHERE b.order_id = sqlc.arg(order_id)::uuid)::bigint AS events,
    (SELECT count(*) FROM outbox b WHERE b.order_id = sqlc.arg(order_id)::uuid AND b.sent_at IS NOT NULL)::bigint
        AS published,
    (SELECT count(*) FROM receipts r WHERE r.order_id = sqlc.arg(order_id)::uuid)::bigint AS receipts,
    (SELECT count(*) FROM receipts r WHERE r.order_id = sqlc.arg(order_id)::uuid AND r.sent_at IS NOT NULL)::bigint
        AS mails
FROM charges c WHERE c.order_id = sqlc.arg(order_id)::uuid;

-- name: InsertStopped :exec
INSERT INTO stopped_twins (subject, kind, operation, event_id, event_type, attempt, times, at)
SELECT unnest(sqlc.arg(subjects)::uuid[]), unnest(sqlc.arg(kinds)::text[]), unnest(sqlc.arg(operations)::text[]),
       unnest(sqlc.arg(event_ids)::text[]), unnest(sqlc.arg(event_types)::text[]), unnest(sqlc.arg(attempts)::int[]),
       unnest(sqlc.arg(times)::int[]), unnest(sqlc.arg(ats)::timestamptz[]);
