-- ClaimReceipt gives the caller the lease, unless the receipt has ended, is not due or another
-- sender has the lease. The excluded row was created now.
-- name: ClaimReceipt :one
INSERT INTO receipts (order_id, kind, lease_until, paid_at, due_at, created_at)
VALUES ($1, $2, now() + sqlc.arg(lease)::interval, sqlc.arg(paid_at), sqlc.arg(paid_at), now())
ON CONFLICT (order_id, kind) DO UPDATE
    SET attempt = receipts.attempt + 1, lease_until = excluded.lease_until
    WHERE receipts.sent_at IS NULL AND receipts.dead_at IS NULL AND receipts.due_at <= excluded.created_at
        AND receipts.lease_until < excluded.created_at
RETURNING order_id, attempt, failures, paid_at;

-- ScheduleReceipt leaves the receipt to the next sender.
-- name: ScheduleReceipt :exec
INSERT INTO receipts (order_id, kind, attempt, lease_until, paid_at, due_at)
VALUES ($1, $2, 0, '-infinity', sqlc.arg(paid_at), sqlc.arg(paid_at))
ON CONFLICT (order_id, kind) DO NOTHING;

-- ClaimDue claims the receipt that is due for longest, of those that failed before or of the rest.
-- name: ClaimDue :one
WITH due AS MATERIALIZED (
    SELECT r.order_id, r.kind FROM receipts r
    WHERE r.sent_at IS NULL AND r.dead_at IS NULL AND (r.failures > 0) = sqlc.arg(failed)::boolean
        AND r.due_at <= now() AND r.lease_until < now()
    ORDER BY r.due_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE receipts SET attempt = receipts.attempt + 1, lease_until = now() + sqlc.arg(lease)::interval
FROM due WHERE receipts.order_id = due.order_id AND receipts.kind = due.kind
RETURNING receipts.order_id, receipts.attempt, receipts.failures, receipts.paid_at;

-- name: GetReceipt :one
SELECT sent_at, dead_at FROM receipts WHERE order_id = $1 AND kind = $2;

-- MarkReceiptSent does not check the attempt: the mail is sent, even if the lease has ended.
-- name: MarkReceiptSent :exec
UPDATE receipts SET sent_at = now(), dead_at = NULL, last_error = NULL
WHERE order_id = $1 AND kind = $2 AND sent_at IS NULL;

-- PutOffReceipt ends the lease after a failure and sets when the receipt is due again.
-- name: PutOffReceipt :exec
UPDATE receipts SET lease_until = now(), due_at = now() + sqlc.arg(pause)::interval,
    failures = sqlc.arg(failures), last_error = coalesce(nullif(sqlc.arg(last_error)::text, ''), last_error),
    dead_at = now() + CASE WHEN sqlc.arg(dead)::boolean THEN interval '0' END
WHERE order_id = $1 AND kind = $2 AND attempt = $3 AND sent_at IS NULL;

-- name: ListDead :many
SELECT order_id, attempt, coalesce(last_error, '') AS reason, dead_at::timestamptz AS dead_at FROM receipts
WHERE dead_at IS NOT NULL AND (sqlc.narg(before)::uuid IS NULL OR order_id < sqlc.narg(before))
ORDER BY order_id DESC LIMIT $1;

-- RetryDead makes dead receipts due, from the highest order id down.
-- name: RetryDead :many
UPDATE receipts SET dead_at = NULL, failures = 0, due_at = now()
WHERE (order_id, kind) IN (
    SELECT r.order_id, r.kind FROM receipts r
    WHERE r.dead_at IS NOT NULL AND (sqlc.narg(order_id)::uuid IS NULL OR r.order_id = sqlc.narg(order_id))
    ORDER BY r.order_id DESC LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING order_id;

-- CountOpen counts up to a limit, because a scrape must not take longer the more there is to see.
-- name: CountOpen :one
SELECT (SELECT count(*) FROM (SELECT FROM receipts w WHERE w.sent_at IS NULL AND w.dead_at IS NULL
        LIMIT sqlc.arg(most)) AS c) AS waiting,
    (SELECT count(*) FROM (SELECT FROM receipts d WHERE d.dead_at IS NOT NULL LIMIT sqlc.arg(most)) AS c) AS dead;

-- RecoverReceipt stores what became of a receipt after the time that the tables were restored to.
-- One that ended before stays as it is.
-- name: RecoverReceipt :execrows
INSERT INTO receipts AS r (order_id, kind, attempt, lease_until, paid_at, due_at, sent_at, dead_at, last_error)
VALUES ($1, $2, 0, '-infinity', sqlc.arg(paid_at), sqlc.arg(paid_at), sqlc.narg(sent_at),
    now() + CASE WHEN sqlc.arg(dead)::boolean THEN interval '0' END, nullif(sqlc.arg(reason)::text, ''))
ON CONFLICT (order_id, kind) DO UPDATE
    SET sent_at = excluded.sent_at, dead_at = excluded.dead_at, last_error = excluded.last_error
    WHERE r.sent_at IS NULL AND r.dead_at IS NULL;

-- name: ListOpen :many
SELECT order_id, paid_at FROM receipts
WHERE kind = $1 AND sent_at IS NULL AND dead_at IS NULL AND order_id > sqlc.arg(after) ORDER BY order_id LIMIT 1000;
