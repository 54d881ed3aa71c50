package forget

// whyOpen returns why an order cannot be erased yet, and the way out, or an empty text.
const whyOpen = `
	SELECT CASE
		WHEN o.status = 'placed' THEN 'it waits for its payment; cancel it, or wait until it expires'
		WHEN o.status = 'paying' OR EXISTS (SELECT FROM charges c WHERE c.order_id = o.id AND c.settled_at IS NULL)
			THEN 'a payment is under way; wait until it is settled, or settle it at /admin/attention'
		WHEN EXISTS (SELECT FROM charges c JOIN refunds r ON r.charge_id = c.id
				WHERE c.order_id = o.id AND r.settled_at IS NULL)
			THEN 'a refund is under way; wait until it is settled, or settle it at /admin/attention'
		WHEN EXISTS (SELECT FROM charges c WHERE c.order_id = o.id AND c.owes IS NOT NULL AND c.owed_ended_at IS NULL
				AND c.amount_refunded < c.amount AND c.dispute IS DISTINCT FROM 'lost')
			THEN 'the shop owes the buyer money; wait until it is returned, or end the debt at /admin/attention'
		WHEN EXISTS (SELECT FROM charges c WHERE c.order_id = o.id AND c.dispute = 'open')
			THEN 'the payment is disputed; wait for the end of the dispute, or close it at /admin/attention'
		WHEN EXISTS (SELECT FROM charges c JOIN provider_events e ON e.charge_id = c.id
				WHERE c.order_id = o.id AND e.state IN ('received', 'quarantined'))
			THEN 'an event of the payment provider waits; apply or dismiss it at /admin/events'
		WHEN EXISTS (SELECT FROM receipts r WHERE r.order_id = o.id AND r.sent_at IS NULL AND r.dead_at IS NULL)
				OR NOT EXISTS (SELECT FROM receipts r WHERE r.order_id = o.id)
				AND EXISTS (SELECT FROM outbox e WHERE e.order_id = o.id AND e.type = 'order.paid')
			THEN 'its receipt is not sent; wait until it is, or until the shop gives it up'
		ELSE '' END
	FROM orders o WHERE o.id = $1`

// noMeaning replaces a fingerprint: from the hash of an address and a basket, both can be guessed.
const noMeaning = `decode(repeat('00', 32), 'hex')`

// eraseOrder blanks what is personal in the rows of an order. An answer without bytes makes
// dedup.Once return ErrErased.
var eraseOrder = []string{
	`UPDATE orders SET email = '', placed_from = NULL, answer = '', fingerprint = ` + noMeaning + `,
		erased_at = least(erased_at, now()) WHERE id = $1`,
	`UPDATE cancellations SET answer = '', fingerprint = ` + noMeaning + ` WHERE order_id = $1`,
	`UPDATE charges SET answer = '', fingerprint = ` + noMeaning + `, payment_method = 'erased',
		answer_status = coalesce(answer_status, CASE WHEN status = 'declined' THEN 402 ELSE 201 END),
		decline_code = CASE WHEN decline_code IS NOT NULL THEN 'declined' END WHERE order_id = $1`,
	`UPDATE refunds SET reason = '', answer = CASE WHEN answer IS NOT NULL THEN ''::bytea END,
		fingerprint = CASE WHEN fingerprint IS NOT NULL THEN ` + noMeaning + ` END
	WHERE charge_id IN (SELECT id FROM charges WHERE order_id = $1)`,
	`UPDATE provider_events SET payload = '', facts = '{}', reason = ''
	WHERE charge_id IN (SELECT id FROM charges WHERE order_id = $1)`,
	`UPDATE outbox SET payload = payload - 'origin' WHERE order_id = $1`,
	`UPDATE receipts SET last_error = CASE WHEN last_error IS NOT NULL THEN 'erased' END WHERE order_id = $1`,
	`UPDATE operator_actions SET reason = 'erased', answer = '', fingerprint = ` + noMeaning + ` WHERE order_id = $1`,
}

// countErasure makes every node stop answering from what it keeps in memory.
const countErasure = `
	INSERT INTO erasures (times) VALUES (1) ON CONFLICT (only_row) DO UPDATE SET times = erasures.times + 1`

const (
	sliceSize = 2000
	firstID   = "00000000-0000-0000-0000-000000000000"
)

// ordersOf finds a person's orders in the slice after $1, as the other queries for slices do.
const ordersOf = `
	WITH slice AS (SELECT id, email, customer_id FROM orders WHERE id > $1::uuid ORDER BY id LIMIT $3)
	SELECT (SELECT id::text FROM slice ORDER BY slice.id DESC LIMIT 1),
		coalesce(array_agg(id::text) FILTER (WHERE lower(email) = lower($2)
			OR customer_id = (SELECT c.id FROM customers c WHERE lower(c.email) = lower($2))), '{}'), count(*)
	FROM slice`

// mentions are rows that may hold the address without belonging to one of the person's orders. The
// statement erase returns the ids of the rows that it erased; why is the reason for the others.
var mentions = []struct{ what, first, find, erase, why string }{
	{
		what: "refund", first: firstID, find: mentioned("refunds", "uuid", "reason"),
		erase: `UPDATE refunds SET reason = '' WHERE id = ANY($1::text[]::uuid[]) RETURNING id::text`,
	}, {
		what: "operator's action", first: firstID,
		find: mentioned("operator_actions", "uuid", "operator || ' ' || reason"),
		erase: `UPDATE operator_actions SET operator = 'erased', reason = 'erased', answer = '',
			fingerprint = ` + noMeaning + ` WHERE id = ANY($1::text[]::uuid[]) RETURNING id::text`,
	}, {
		what: "provider's event",
		find: mentioned("provider_events", "text",
			"encode(payload, 'escape') || ' ' || encode(facts, 'escape') || ' ' || reason"),
		erase: `UPDATE provider_events SET payload = '', facts = '{}', reason = ''
			WHERE id = ANY($1::text[]) AND state IN ('applied', 'dismissed') RETURNING id`,
		why: "it waits; apply or dismiss it at /admin/events",
	},
}

// mentioned finds the rows of a slice whose text contains the address.
func mentioned(table, idType, text string) string {
	return `
	WITH slice AS (SELECT id, ` + text + ` AS text FROM ` + table + `
		WHERE id > $1::` + idType + ` ORDER BY id LIMIT $3)
	SELECT (SELECT id::text FROM slice ORDER BY slice.id DESC LIMIT 1),
		coalesce(array_agg(id::text) FILTER (WHERE position(lower($2) IN lower(text)) > 0), '{}'), count(*)
	FROM slice`
}
