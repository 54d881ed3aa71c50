-- ClaimReceipt gives the caller the lease, unless the receipt is sent or another sender has the
-- lease.
-- name: ClaimReceipt :one
INSERT INTO receipts (order_id, kind, lease_until)
VALUES ($1, $2, now() + sqlc.arg(lease)::interval)
ON CONFLICT (order_id, kind) DO UPDATE
    SET attempt = receipts.attempt + 1, lease_until = excluded.lease_until
    WHERE receipts.sent_at IS NULL AND receipts.lease_until < now()
RETURNING attempt;

-- name: GetReceipt :one
SELECT sent_at, greatest(extract(epoch FROM lease_until - now()), 0)::float8 AS lease_seconds
FROM receipts WHERE order_id = $1 AND kind = $2;

-- MarkReceiptSent does not check the attempt: the mail is sent, even if the lease has ended.
-- name: MarkReceiptSent :exec
UPDATE receipts SET sent_at = now() WHERE order_id = $1 AND kind = $2 AND sent_at IS NULL;

-- ReleaseReceipt ends the lease after a failure, so that the next attempt need not wait for it.
-- name: ReleaseReceipt :exec
UPDATE receipts SET lease_until = now() WHERE order_id = $1 AND kind = $2 AND attempt = $3 AND sent_at IS NULL;
