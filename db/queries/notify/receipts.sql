-- ClaimReceipt makes the caller the sender, unless the mail is sent or another sender's lease runs.
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

-- MarkReceiptSent records whoever sent it: the mail is out, even if the lease has passed meanwhile.
-- name: MarkReceiptSent :exec
UPDATE receipts SET sent_at = now() WHERE order_id = $1 AND kind = $2 AND sent_at IS NULL;

-- ReleaseReceipt lets the next try begin at once after a send that failed, as far as the sender could see.
-- name: ReleaseReceipt :exec
UPDATE receipts SET lease_until = now() WHERE order_id = $1 AND kind = $2 AND attempt = $3 AND sent_at IS NULL;
