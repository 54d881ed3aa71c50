-- name: FindActionByKey :one
SELECT id, fingerprint, answer FROM operator_actions WHERE customer_id = $1 AND idempotency_key = $2;

-- InsertAction returns no row if the key is taken. A twin that is still running is waited for.
-- name: InsertAction :one
INSERT INTO operator_actions (id, customer_id, operator, idempotency_key, fingerprint, action, subject, order_id,
                              reason, answer)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT ON CONSTRAINT operator_actions_one_per_key DO NOTHING
RETURNING id;

-- name: GetDispute :one
SELECT * FROM disputes WHERE id = $1;

-- RetryReturn makes all that a charge owes due, with all tries ahead.
-- name: RetryReturn :exec
UPDATE charges SET return_due = now(), return_tries = 0 WHERE id = $1;

-- name: EndDebt :exec
UPDATE charges SET owed_ended_at = now() WHERE id = $1;

-- RedoEvent makes an event that waits due, with all tries ahead.
-- name: RedoEvent :one
UPDATE provider_events SET state = 'received', tries = 0, due_at = now()
WHERE id = $1 AND state IN ('received', 'quarantined')
RETURNING id;

-- name: DismissEvent :one
UPDATE provider_events SET state = 'dismissed'
WHERE id = $1 AND state IN ('received', 'quarantined')
RETURNING id;

-- ListAttention lists charges that an operator should look at: open for long, with a refund open
-- for long, with money owed that no try is to come for, or disputed. Each part steps through a
-- partial index of open rows.
-- name: ListAttention :many
SELECT * FROM charges WHERE id IN (
    SELECT c.id FROM charges c
    WHERE c.status IN ('pending', 'unknown', 'requires_action')
      AND (c.unknown_at < now() - interval '1 minute' OR c.started_at < now() - interval '1 hour')
    UNION ALL
    SELECT r.charge_id FROM refunds r
    WHERE r.status IN ('pending', 'unknown') AND r.started_at < now()
        - CASE r.status WHEN 'unknown' THEN interval '1 minute' ELSE interval '1 day' END
    UNION ALL
    SELECT c.id FROM charges c
    WHERE c.owes IS NOT NULL AND c.owed_ended_at IS NULL AND c.amount_refunded < c.amount
      AND c.dispute IS DISTINCT FROM 'lost' AND c.return_due IS NULL
      AND c.amount_refunded + c.refund_reserved < c.amount
    UNION ALL
    SELECT d.charge_id FROM disputes d WHERE d.status = 'open')
ORDER BY id LIMIT $1;

-- name: ListRefundsOfCharges :many
SELECT * FROM refunds WHERE charge_id = ANY(sqlc.arg(charge_ids)::uuid[]) ORDER BY created_at, id;

-- name: ListDisputesOfCharges :many
SELECT * FROM disputes WHERE charge_id = ANY(sqlc.arg(charge_ids)::uuid[]) ORDER BY opened_at, id;
