-- name: Enqueue :exec
INSERT INTO outbox (id, type, order_id, payload)
SELECT unnest(sqlc.arg(ids)::uuid[]), unnest(sqlc.arg(types)::text[]), unnest(sqlc.arg(order_ids)::uuid[]),
  unnest(sqlc.arg(payloads)::jsonb[]);

-- ClaimUnsent leases unsent rows to one relay and skips those that another relay is claiming. It
-- cannot remember the last id that it saw: a transaction that commits late adds rows with lower
-- ids. The array makes the planner find the rows by index, whatever its statistics of the table.
-- name: ClaimUnsent :many
UPDATE outbox SET claimed_until = now() + sqlc.arg(lease)::interval
WHERE id = ANY(ARRAY(
    SELECT o.id FROM outbox o WHERE o.sent_at IS NULL AND o.claimed_until < now()
    ORDER BY o.id LIMIT sqlc.arg(most) FOR UPDATE SKIP LOCKED))
RETURNING id, type, order_id, payload, created_at, stream_seq;

-- name: MarkSent :exec
UPDATE outbox SET sent_at = now(), stream_seq = sent.seq
FROM (SELECT unnest(sqlc.arg(ids)::uuid[]) AS id, unnest(sqlc.arg(seqs)::bigint[]) AS seq) AS sent
WHERE outbox.id = sent.id;

-- name: Backlog :one
SELECT count(*) AS events, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_seconds
FROM outbox WHERE sent_at IS NULL;

-- ReleaseClaims ends the lease of rows that were not published.
-- name: ReleaseClaims :exec
UPDATE outbox SET claimed_until = '-infinity' WHERE id = ANY(sqlc.arg(ids)::uuid[]) AND sent_at IS NULL;

-- SentBounds returns the stream numbers of the oldest and the newest event since an id. The broker
-- holds both, unless it lost events.
-- name: SentBounds :one
SELECT coalesce((SELECT o.stream_seq FROM outbox o WHERE o.sent_at IS NOT NULL AND o.id >= sqlc.arg(since)
  ORDER BY o.id LIMIT 1), 0)::bigint AS oldest,
    coalesce((SELECT n.stream_seq FROM outbox n WHERE n.sent_at IS NOT NULL AND n.id >= sqlc.arg(since)
      ORDER BY n.id DESC LIMIT 1), 0)::bigint AS newest;

-- ResendLost makes events unsent that the broker no longer holds. They keep their old number, which
-- becomes part of a new message id.
-- name: ResendLost :execrows
UPDATE outbox SET sent_at = NULL, claimed_until = '-infinity'
WHERE sent_at IS NOT NULL AND id >= sqlc.arg(since) AND (stream_seq < sqlc.arg(first_held)::bigint
  OR stream_seq > sqlc.arg(last_held)::bigint);
