-- Enqueue may let an event without a trace inherit that of its order's latest event: what a webhook
-- or a worker does for an order belongs to the request that began it.
-- About clock_timestamp(), see docs/decisions.md, D104.
-- name: Enqueue :exec
INSERT INTO outbox (id, type, order_id, payload, created_at, traceparent)
SELECT e.id, e.type, e.order_id, e.payload, clock_timestamp(), CASE
    WHEN e.traceparent <> '' OR NOT sqlc.arg(inherit)::boolean THEN e.traceparent
    ELSE coalesce((SELECT o.traceparent FROM outbox o WHERE o.order_id = e.order_id AND o.traceparent <> ''
        ORDER BY o.id DESC LIMIT 1), '') END
FROM (SELECT unnest(sqlc.arg(ids)::uuid[]) AS id, unnest(sqlc.arg(types)::text[]) AS type,
    unnest(sqlc.arg(order_ids)::uuid[]) AS order_id, unnest(sqlc.arg(payloads)::jsonb[]) AS payload,
    unnest(sqlc.arg(traceparents)::text[]) AS traceparent) AS e;

-- ClaimUnsent leases unsent rows to one relay, of those that failed before or of the others, and
-- skips those that another relay is claiming. It cannot remember the last id that it saw: a
-- transaction that commits late adds rows with lower ids. The array makes the planner find the rows
-- by index, whatever its statistics of the table.
-- name: ClaimUnsent :many
UPDATE outbox SET claimed_until = now() + sqlc.arg(lease)::interval
WHERE id = ANY(ARRAY(
    SELECT o.id FROM outbox o WHERE o.sent_at IS NULL AND o.failures = 0 AND o.claimed_until < now()
    ORDER BY o.id LIMIT sqlc.arg(most) FOR UPDATE SKIP LOCKED))
RETURNING id, type, order_id, payload, traceparent, created_at, stream_seq, claimed_until;

-- name: ClaimFailed :many
UPDATE outbox SET claimed_until = now() + sqlc.arg(lease)::interval
WHERE id = ANY(ARRAY(
    SELECT o.id FROM outbox o WHERE o.sent_at IS NULL AND o.failures > 0 AND o.claimed_until < now()
    ORDER BY o.id LIMIT sqlc.arg(most) FOR UPDATE SKIP LOCKED))
RETURNING id, type, order_id, payload, traceparent, created_at, stream_seq, claimed_until;

-- MarkSent is fenced by the claim: a relay that another one followed changes nothing. It does not
-- ask for sent_at IS NULL: the planner, which believes that almost nothing is unsent, would compare
-- each unsent row with each id.
-- name: MarkSent :execrows
UPDATE outbox SET sent_at = now(), stream_seq = sent.seq, failures = 0
FROM (SELECT unnest(sqlc.arg(ids)::uuid[]) AS id, unnest(sqlc.arg(seqs)::bigint[]) AS seq) AS sent
WHERE outbox.id = sent.id AND outbox.claimed_until = sqlc.arg(claim)::timestamptz;

-- ReleaseClaims ends the lease of rows that were not published.
-- name: ReleaseClaims :exec
UPDATE outbox SET claimed_until = '-infinity'
WHERE id = ANY(sqlc.arg(ids)::uuid[]) AND sent_at IS NULL AND claimed_until = sqlc.arg(claim)::timestamptz;

-- FailClaims puts rows off that cannot be published, for a time that doubles from a second to half
-- a minute. Its condition is that of MarkSent.
-- name: FailClaims :exec
WITH later AS (
    SELECT o.id, now() + least(interval '1 second' * 2 ^ least(o.failures, 5), interval '30 seconds') AS until
    FROM outbox o WHERE o.id = ANY(sqlc.arg(ids)::uuid[])
)
UPDATE outbox SET failures = outbox.failures + 1, claimed_until = later.until
FROM later
WHERE outbox.id = later.id AND outbox.claimed_until = sqlc.arg(claim)::timestamptz;

-- AloneAsPublisher reports whether the transaction is the cell's only one of its kind, until it
-- ends.
-- name: AloneAsPublisher :one
SELECT pg_try_advisory_xact_lock(hashtextextended(current_schema() || ' outbox publisher', 0));

-- StayPublisher fails if the transaction has ended.
-- name: StayPublisher :exec
SELECT;

-- BecomePublisher keeps all former publishers from giving numbers. It waits for claims at work.
-- name: BecomePublisher :one
UPDATE outbox_numbering SET publisher = publisher + 1 RETURNING publisher;

-- AnyToNumber reports whether a claim would find events.
-- name: AnyToNumber :one
SELECT EXISTS (SELECT FROM outbox o WHERE o.sent_at IS NULL AND (o.number IS NOT NULL OR o.claimed_until < now()));

-- LockNumbering returns no row if another relay has become the publisher.
-- name: LockNumbering :one
SELECT n.last FROM outbox_numbering n WHERE n.publisher = $1 FOR UPDATE;

-- Numbered returns the unsent events with the lowest numbers. It asks for no lease: whoever gave
-- the numbers, they go first.
-- name: Numbered :many
SELECT id, type, order_id, payload, traceparent, created_at, stream_seq, number::bigint AS number
FROM outbox WHERE sent_at IS NULL AND number IS NOT NULL ORDER BY outbox.number LIMIT sqlc.arg(most);

-- GiveNumbers gives unsent events the numbers after last, unless they were put off.
-- name: GiveNumbers :many
UPDATE outbox SET number = given.number
FROM (
    SELECT u.id, sqlc.arg(last)::bigint + row_number() OVER (ORDER BY u.id) AS number
    FROM (SELECT o.id FROM outbox o WHERE o.sent_at IS NULL AND o.number IS NULL AND o.claimed_until < now()
        ORDER BY o.id LIMIT sqlc.arg(most) FOR UPDATE SKIP LOCKED) AS u
) AS given
WHERE outbox.id = given.id
RETURNING outbox.id, type, order_id, payload, traceparent, created_at, stream_seq,
    outbox.number::bigint AS number;

-- RaiseNumbering notes numbers as given. The row is locked.
-- name: RaiseNumbering :exec
UPDATE outbox_numbering SET last = $1;

-- MarkNumbered is fenced by the number, which changes when the broker may have lost the event. Its
-- condition is that of MarkSent.
-- name: MarkNumbered :execrows
UPDATE outbox SET sent_at = now(), stream_seq = sent.seq, failures = 0
FROM (SELECT unnest(sqlc.arg(ids)::uuid[]) AS id, unnest(sqlc.arg(numbers)::bigint[]) AS number,
    unnest(sqlc.arg(seqs)::bigint[]) AS seq) AS sent
WHERE outbox.id = sent.id AND outbox.number = sent.number;

-- PutOffNumbered takes the number of an event that the broker does not have, and puts it off like
-- FailClaims.
-- name: PutOffNumbered :exec
WITH later AS (
    SELECT o.id, now() + least(interval '1 second' * 2 ^ least(o.failures, 5), interval '30 seconds') AS until
    FROM outbox o WHERE o.id = sqlc.arg(id)
)
UPDATE outbox SET number = NULL, failures = outbox.failures + 1, claimed_until = later.until
FROM later
WHERE outbox.id = later.id AND outbox.number = sqlc.arg(number)::bigint;

-- Backlog counts up to a limit, because a scrape must not take longer the more there is to see.
-- name: Backlog :one
SELECT (SELECT count(*) FROM (SELECT FROM outbox u WHERE u.sent_at IS NULL LIMIT sqlc.arg(most)) AS c) AS events,
    coalesce((SELECT extract(epoch FROM now() - o.created_at) FROM outbox o WHERE o.sent_at IS NULL
        ORDER BY o.id LIMIT 1), 0)::float8 AS oldest_seconds;

-- SentBounds returns the time and the stream numbers of an oldest and a newest event since an id
-- that were sent by then. The broker holds both, unless it lost events. It looks at a thousand rows
-- from each end, and below the lowest unsent id, which bounds a backlog.
-- name: SentBounds :one
SELECT now()::timestamptz AS asked_at,
    coalesce((SELECT a.stream_seq FROM (SELECT o.id, o.sent_at, o.stream_seq FROM outbox o
            WHERE o.id >= sqlc.arg(since) ORDER BY o.id LIMIT 1000) AS a
        WHERE a.sent_at IS NOT NULL ORDER BY a.id LIMIT 1), 0)::bigint AS oldest,
    greatest(
        coalesce((SELECT z.stream_seq FROM (SELECT n.id, n.sent_at, n.stream_seq FROM outbox n
                WHERE n.id >= sqlc.arg(since) ORDER BY n.id DESC LIMIT 1000) AS z
            WHERE z.sent_at IS NOT NULL ORDER BY z.id DESC LIMIT 1), 0),
        coalesce((SELECT b.stream_seq FROM outbox b WHERE b.sent_at IS NOT NULL AND b.id >= sqlc.arg(since)
                AND b.id < (SELECT u.id FROM outbox u WHERE u.sent_at IS NULL AND u.failures = 0
                    ORDER BY u.id LIMIT 1)
            ORDER BY b.id DESC LIMIT 1), 0))::bigint AS newest;

-- name: IsMending :one
SELECT EXISTS (SELECT FROM outbox_mend);

-- name: BeginMend :exec
INSERT INTO outbox_mend (first_held, last_held, sent_until, done_to) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING;

-- LockMend returns no row if there is no mend, or if another relay works on it.
-- name: LockMend :one
SELECT first_held, last_held, sent_until, done_to, resent FROM outbox_mend FOR UPDATE SKIP LOCKED;

-- name: StepMend :exec
UPDATE outbox_mend SET done_to = $1, resent = $2;

-- name: EndMend :exec
DELETE FROM outbox_mend;

-- ResendLost makes the events of one slice unsent that the broker no longer holds. They keep their
-- old number, which becomes part of a new message id.
-- name: ResendLost :one
WITH slice AS MATERIALIZED (
    SELECT o.id, o.sent_at, o.stream_seq FROM outbox o WHERE o.id > sqlc.arg(done_to)
    ORDER BY o.id LIMIT sqlc.arg(most)
), lost AS (
    UPDATE outbox SET sent_at = NULL, claimed_until = '-infinity', number = NULL
    FROM slice WHERE outbox.id = slice.id AND outbox.sent_at <= sqlc.arg(sent_until)::timestamptz
        AND (outbox.stream_seq < sqlc.arg(first_held)::bigint OR outbox.stream_seq > sqlc.arg(last_held)::bigint)
    RETURNING outbox.id
)
SELECT (SELECT count(*) FROM slice) AS seen, (SELECT count(*) FROM lost) AS resent,
    coalesce((SELECT s.id FROM slice s ORDER BY s.id DESC LIMIT 1), sqlc.arg(done_to))::uuid AS done_to;

-- CountFailure returns how often the event has failed, with this time.
-- name: CountFailure :one
INSERT INTO consumer_failures AS f (consumer, stream_seq, stored_at, failed_at) VALUES ($1, $2, $3, now())
ON CONFLICT (consumer, stream_seq, stored_at) DO UPDATE SET failures = f.failures + 1, failed_at = excluded.failed_at
RETURNING failures;

-- name: ForgetFailures :exec
DELETE FROM consumer_failures WHERE consumer = $1 AND stream_seq = $2 AND stored_at = $3;

-- ForgetLostFailures deletes counts of events that the stream no longer holds.
-- name: ForgetLostFailures :exec
DELETE FROM consumer_failures WHERE (consumer, stream_seq, stored_at) IN (
    SELECT f.consumer, f.stream_seq, f.stored_at FROM consumer_failures f
    WHERE f.consumer = $1 AND f.failed_at < now() - sqlc.arg(age)::interval LIMIT 10000);

-- NewestSent returns the newest of the last thousand events that was sent, if there is one.
-- name: NewestSent :one
SELECT s.id, s.stream_seq::bigint AS stream_seq
FROM (SELECT o.id, o.sent_at, o.stream_seq FROM outbox o ORDER BY o.id DESC LIMIT 1000) AS s
WHERE s.sent_at IS NOT NULL ORDER BY s.id DESC LIMIT 1;

-- IsLost reports whether an event is missing that cannot have been deleted for its age.
-- name: IsLost :one
SELECT (NOT EXISTS (SELECT FROM outbox o WHERE o.id = sqlc.arg(id)::uuid)
    AND sqlc.arg(created_at)::timestamptz >= coalesce((SELECT k.since FROM outbox_kept k), '-infinity'))::boolean;

-- NotePublished reports whether the event exists, and marks it as sent.
-- name: NotePublished :one
WITH noted AS (
    UPDATE outbox SET sent_at = now(), stream_seq = sqlc.arg(stream_seq)::bigint, claimed_until = '-infinity',
        failures = 0
    WHERE outbox.id = sqlc.arg(id) AND outbox.sent_at IS NULL
)
SELECT EXISTS (SELECT FROM outbox o WHERE o.id = sqlc.arg(id))::boolean;

-- name: InsertPublished :exec
INSERT INTO outbox (id, type, order_id, payload, traceparent, created_at, sent_at, stream_seq)
VALUES (sqlc.arg(id), sqlc.arg(type), sqlc.arg(order_id), sqlc.arg(payload), sqlc.arg(traceparent),
    sqlc.arg(created_at), now(), sqlc.arg(stream_seq)::bigint);
