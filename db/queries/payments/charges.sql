-- name: FindChargeByKey :one
SELECT * FROM charges WHERE customer_id = $1 AND idempotency_key = $2;

-- name: GetCharge :one
SELECT * FROM charges WHERE id = $1;

-- name: FindChargeByCapture :one
SELECT * FROM charges WHERE provider = sqlc.arg(provider)::text AND provider_id = sqlc.arg(provider_id)::text;

-- name: LockCharge :one
SELECT * FROM charges WHERE id = $1 FOR NO KEY UPDATE;

-- LockPaidCharge returns the charge that pays for a paid order, and for how long it has, in
-- seconds.
-- name: LockPaidCharge :one
SELECT sqlc.embed(charges), extract(epoch FROM now() - settled_at)::float8 AS paid_for
FROM charges WHERE order_id = $1 AND pays AND status = 'succeeded' FOR NO KEY UPDATE;

-- name: ListCharges :many
SELECT * FROM charges WHERE order_id = $1 ORDER BY created_at, id;

-- MarkUnknown keeps the charge live, because only the provider's answer can end it, and sets when
-- to ask again. A charge that waits for its buyer goes on waiting.
-- name: MarkUnknown :one
UPDATE charges SET status = CASE WHEN status = 'requires_action' THEN status ELSE 'unknown' END,
    provider_id = coalesce(provider_id, nullif(sqlc.arg(provider_id)::text, '')),
    unknown_at = least(unknown_at, now()), lease_until = now() + sqlc.arg(pause)::interval
WHERE id = $1 AND attempt = $2 AND status IN ('pending', 'unknown', 'requires_action')
RETURNING *;

-- ClaimUnsettledCharges takes over charges whose lease has run out. Their new attempt number fences
-- off the workers that held them before. Charges that were tried often come last.
-- name: ClaimUnsettledCharges :many
UPDATE charges SET attempt = attempt + 1, lease_until = now() + sqlc.arg(lease)::interval
WHERE id IN (
    SELECT c.id FROM charges c
    WHERE c.status IN ('pending', 'unknown', 'requires_action') AND c.lease_until < now()
    ORDER BY c.attempt > 4, c.lease_until LIMIT sqlc.arg(most) FOR UPDATE SKIP LOCKED)
RETURNING *;

-- HurryCharge makes the reconciler look at a charge now, unless a worker is asking about it.
-- name: HurryCharge :exec
UPDATE charges SET lease_until = now() WHERE id = $1 AND status IN ('unknown', 'requires_action');

-- name: HurryCharges :exec
UPDATE charges SET lease_until = now() WHERE order_id = $1 AND status IN ('unknown', 'requires_action');

-- name: ChargeAgeSeconds :one
SELECT extract(epoch FROM now() - started_at)::float8 FROM charges WHERE id = $1;

-- MarkAsked comes before the provider is asked again. It changes nothing for a stale worker.
-- name: MarkAsked :execrows
UPDATE charges SET asked_at = now()
WHERE id = $1 AND attempt = $2 AND status IN ('pending', 'unknown', 'requires_action');

-- Owe makes the charge owe its money. The caller has the lease to return it.
-- name: Owe :exec
UPDATE charges SET owes = sqlc.arg(why)::text, return_due = now() + sqlc.arg(lease)::interval WHERE id = $1;

-- ClaimOwing takes charges that are due to return what they owe. Those that failed come last.
-- name: ClaimOwing :many
UPDATE charges SET return_tries = return_tries + 1, return_due = now() + sqlc.arg(lease)::interval
WHERE id IN (
    SELECT c.id FROM charges c
    WHERE c.owes IS NOT NULL AND c.owed_ended_at IS NULL AND c.amount_refunded < c.amount AND c.return_due < now()
    ORDER BY c.return_tries > 1, c.return_due LIMIT sqlc.arg(most) FOR UPDATE SKIP LOCKED)
RETURNING *;

-- PostponeReturn without a pause leaves the next try to an operator.
-- name: PostponeReturn :exec
UPDATE charges SET return_due = now() + nullif(sqlc.arg(pause)::interval, interval '0')
WHERE id = $1 AND return_due IS NOT NULL;

-- UpdateRefunded writes what a locked charge has given back. Without due_in nothing is due.
-- name: UpdateRefunded :exec
UPDATE charges SET amount_refunded = $2, refund_reserved = $3, answer = $4, answer_status = $5,
    return_due = now() + nullif(sqlc.arg(due_in)::interval, interval '0')
WHERE id = $1;

-- ListUnsettled lists unknown charges before the others, the oldest first.
-- name: ListUnsettled :many
SELECT * FROM charges WHERE status IN ('pending', 'unknown', 'requires_action') ORDER BY status DESC, id LIMIT $1;

-- name: ListAllCharges :many
SELECT * FROM charges WHERE id < coalesce(sqlc.narg(before)::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC LIMIT $1;

-- The statements below start and settle charges. They take a batch of charges as arrays and expect
-- the orders to be locked. CROSS JOIN LATERAL makes a look-up one step down an index, whatever size
-- the planner assumes for the tables.

-- InsertCharges inserts and returns the charges that can start: the order belongs to the customer
-- and waits for a payment, the key is free, and the order has no live charge and not too many
-- declined ones. It inserts in the order of the keys: two nodes with the same keys cannot deadlock.
-- About clock_timestamp(), see docs/decisions.md, D104.
-- name: InsertCharges :many
INSERT INTO charges (id, order_id, customer_id, idempotency_key, fingerprint, payment_method,
                     provider, status, amount, currency, lease_until, created_at)
SELECT c.id, o.id, o.customer_id, c.idempotency_key, c.fingerprint, c.payment_method,
       sqlc.arg(provider)::text, 'pending', o.total, o.currency, clock_timestamp() + sqlc.arg(lease)::interval,
       sqlc.arg(created_at)::timestamptz
FROM (SELECT unnest(sqlc.arg(ids)::uuid[]) AS id,
             unnest(sqlc.arg(order_ids)::uuid[]) AS order_id,
             unnest(sqlc.arg(customer_ids)::uuid[]) AS customer_id,
             unnest(sqlc.arg(idempotency_keys)::text[]) AS idempotency_key,
             unnest(sqlc.arg(fingerprints)::bytea[]) AS fingerprint,
             unnest(sqlc.arg(payment_methods)::text[]) AS payment_method) AS c
CROSS JOIN LATERAL (
    SELECT orders.id, orders.customer_id, orders.status, orders.total, orders.currency
    FROM orders WHERE orders.id = c.order_id LIMIT 1) AS o
WHERE o.customer_id = c.customer_id AND o.status = 'placed'
  AND (SELECT count(*) FROM charges d WHERE d.order_id = o.id AND d.status = 'declined') < sqlc.arg(most_declined)::int
ORDER BY c.customer_id, c.idempotency_key, c.id
ON CONFLICT DO NOTHING
RETURNING *;

-- name: FindUsedKeys :many
SELECT c.customer_id, c.idempotency_key
FROM (SELECT unnest(sqlc.arg(customer_ids)::uuid[]) AS customer_id,
             unnest(sqlc.arg(idempotency_keys)::text[]) AS idempotency_key) AS k
CROSS JOIN LATERAL (
    SELECT charges.customer_id, charges.idempotency_key FROM charges
    WHERE charges.customer_id = k.customer_id AND charges.idempotency_key = k.idempotency_key LIMIT 1) AS c;

-- name: ListChargesOfOrders :many
SELECT * FROM charges WHERE order_id = ANY(sqlc.arg(order_ids)::uuid[]);

-- LockCharges locks all charges of the orders.
-- name: LockCharges :many
SELECT * FROM charges WHERE order_id = ANY(sqlc.arg(order_ids)::uuid[]) FOR NO KEY UPDATE;

-- SettleCharges expects rows that LockCharges locked. A charge that waits for its buyer is looked
-- at again after the pause.
-- name: SettleCharges :exec
UPDATE charges SET status = s.status, pays = s.pays, provider_id = nullif(s.provider_id, ''),
    decline_code = nullif(s.decline_code, ''), action_url = nullif(s.action_url, ''),
    answer_status = nullif(s.answer_status, 0), answer = s.answer,
    owes = coalesce(charges.owes, nullif(s.owes, '')),
    return_due = CASE WHEN charges.owes IS NULL AND s.owes <> '' THEN s.settled_at ELSE charges.return_due END,
    lease_until = CASE WHEN s.status = 'requires_action' THEN s.look_again_at ELSE charges.lease_until END,
    settled_at = CASE WHEN s.status <> 'requires_action' THEN s.settled_at END
FROM (SELECT unnest(sqlc.arg(ids)::uuid[]) AS id,
             unnest(sqlc.arg(statuses)::text[]) AS status,
             unnest(sqlc.arg(pays)::boolean[]) AS pays,
             unnest(sqlc.arg(owes)::text[]) AS owes,
             unnest(sqlc.arg(provider_ids)::text[]) AS provider_id,
             unnest(sqlc.arg(decline_codes)::text[]) AS decline_code,
             unnest(sqlc.arg(action_urls)::text[]) AS action_url,
             unnest(sqlc.arg(answer_statuses)::int[]) AS answer_status,
             unnest(sqlc.arg(answers)::bytea[]) AS answer,
             now() AS settled_at, now() + sqlc.arg(action_pause)::interval AS look_again_at) AS s
WHERE charges.id = s.id;

-- DateCharge gives a charge that is made again its own times.
-- name: DateCharge :exec
UPDATE charges SET created_at = $2, started_at = sqlc.arg(started_at), asked_at = sqlc.arg(started_at) WHERE id = $1;

-- name: DateSettled :exec
UPDATE charges SET settled_at = $2 WHERE id = $1;

-- name: NewestChargeStarted :one
SELECT started_at FROM charges ORDER BY id DESC LIMIT 1;

-- IsChargeSeen reports whether a charge is stored, or an event about it.
-- name: IsChargeSeen :one
SELECT (EXISTS (SELECT FROM charges c WHERE c.id = sqlc.arg(id)::uuid)
    OR EXISTS (SELECT FROM provider_events e WHERE e.charge_id = sqlc.arg(id)::uuid))::boolean;
