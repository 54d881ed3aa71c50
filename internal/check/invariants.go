package check

// Source is what the database is compared with.
type Source string

// An invariant compares the database with itself or with an outside witness.
const (
	Database Source = "database"
	Provider Source = "provider"
	Mailbox  Source = "mailbox"
)

// invariant is an invariant and the statement that finds the rows that break it. Statements return
// (id, says) and may use these arguments:
//
//	@healing                      how long something may be on its way
//	@return_tries                 after how many tries an operator decides about what is owed
//	@since                        the beginning of the window, long ago for a check of everything
//	@asked                        when the witnesses were asked, by the database's clock
//	@legal_event, _from, _to      columns of an order's legal steps
//	@capture_…, @refund_…         columns of the provider's records (Provider only)
//	@mail_…                       columns of the receipts in the mailbox (Mailbox only)
type invariant struct {
	name   string
	source Source
	says   string
	// rows is an expression for the number of rows that are checked.
	rows       string
	violations string
	// warnings may be empty.
	warnings string
	// whole is true if it makes no sense for some of the orders.
	whole bool
}

// invariants are those of the design, except I2, I4, I14 and I15: these are about the answers that
// clients saw, which the database does not have.
var invariants = []invariant{
	{name: "I1", source: Database, says: "one order, charge, refund … per customer and key", rows: keyedRows,
		violations: onePerKey},
	{name: "I3", source: Database, says: "one answer per key, about its own row", rows: keyedRows,
		violations: ownAnswers},
	{name: "I5", source: Database, says: "an order is captured once, for its total", rows: chargeRows,
		violations: capturedOnce},
	{name: "I5", source: Provider, says: "the provider captured once per order, its total", rows: captureRows,
		violations: capturedOnceOutside},
	{name: "I6", source: Database, says: "paid means captured; nothing hangs", rows: orderRows,
		violations: paidMeansCaptured, warnings: owedByOperators},
	{name: "I6", source: Provider, says: "captured at the provider means charged here", rows: captureRows,
		violations: capturedMeansCharged},
	{name: "I7", source: Database, says: "an order's units move once each", rows: movementRows,
		violations: unitsMoveOnce},
	{name: "I7", source: Database, says: "stock is the sum of its movements", rows: movementRows,
		violations: stockAddsUp, whole: true},
	{name: "I8", source: Database, says: "refunds stay within the capture", rows: "(SELECT count(*) FROM refunds)",
		violations: refundsWithin},
	{name: "I8", source: Provider, says: "captures and refunds are the provider's",
		rows: captureRows + " + cardinality(@refund_id::text[])", violations: moneyAgrees},
	{name: "I9", source: Database, says: "every change has its event, and back", rows: eventRows,
		violations: eventsTell},
	{name: "I10", source: Database, says: "every event is sent and has its effect", rows: eventRows,
		violations: eventsConsumed},
	{name: "I11", source: Mailbox, says: "paid orders have their receipt in the mailbox",
		rows: "cardinality(@mail_id::text[])", violations: receiptsArrived, warnings: receiptTwins},
	{name: "I12", source: Database, says: "the provider's events took effect",
		rows: "(SELECT count(*) FROM provider_events)", violations: providerEventsApplied, warnings: quarantined},
	{name: "I13", source: Database, says: "orders took legal steps only", rows: eventRows, violations: legalSteps},
}

const (
	orderRows    = "(SELECT count(*) FROM orders)"
	chargeRows   = "(SELECT count(*) FROM charges)"
	eventRows    = "(SELECT count(*) FROM outbox)"
	captureRows  = "cardinality(@capture_id::text[])"
	movementRows = "(SELECT count(*) FROM stock_movements)"
	keyedRows    = "(SELECT count(*) FROM (" + keyed + ") AS k)"
)

// keyed selects all rows with an idempotency key.
const keyed = `
	SELECT 'order' AS kind, id, customer_id, idempotency_key FROM orders
	UNION ALL SELECT 'charge', id, customer_id, idempotency_key FROM charges
	UNION ALL SELECT 'refund', id, customer_id, idempotency_key FROM refunds WHERE idempotency_key IS NOT NULL
	UNION ALL SELECT 'cancellation', order_id, customer_id, idempotency_key FROM cancellations
	UNION ALL SELECT 'delivery', id, customer_id, idempotency_key FROM deliveries`

const onePerKey = `
	SELECT min(id::text), format('key %s of customer %s made %s rows: %s %s', idempotency_key, customer_id, count(*),
		kind, string_agg(id::text, ', '))
	FROM (` + keyed + `) AS k
	GROUP BY kind, customer_id, idempotency_key HAVING count(*) > 1`

// ownAnswers compares bytes, not JSON: an answer that is not JSON is a finding and must not fail
// the statement. Answers of an erased order are empty. A charge that was given up and captured
// after all keeps the 402 of its first answer.
const ownAnswers = `
	SELECT id::text, format('the answer kept for the %s is not about it', kind)
	FROM (
		SELECT 'order' AS kind, id, id AS order_id, answer, format('"total":%s,', total) AS money FROM orders
		UNION ALL SELECT 'charge', id, order_id, answer, format('"amount":%s,', amount) FROM charges
			WHERE answer IS NOT NULL
		UNION ALL SELECT 'refund', r.id, c.order_id, r.answer, format('"amount":%s,', r.amount) FROM refunds r
			JOIN charges c ON c.id = r.charge_id WHERE r.answer IS NOT NULL
		UNION ALL SELECT 'cancellation', c.order_id, c.order_id, c.answer, format('"total":%s,', o.total)
			FROM cancellations c JOIN orders o ON o.id = c.order_id
		UNION ALL SELECT 'delivery', id, NULL, answer, '' FROM deliveries
	) AS k
	WHERE (position(convert_to(format('"id":"%s"', id), 'UTF8') IN answer) = 0
			OR position(convert_to(money, 'UTF8') IN answer) = 0)
		AND NOT (answer = '' AND EXISTS (
			SELECT FROM orders o WHERE o.id = k.order_id AND o.erased_at IS NOT NULL))
	UNION ALL
	SELECT id::text, format('the charge is %s, the answer kept for it is %s', status, coalesce(answer_status::text,
		'missing')) FROM charges
	WHERE (answer IS NULL AND (status = 'declined' OR status = 'succeeded' AND pays))
	   OR (answer IS NOT NULL AND settled_at IS NULL)
	   OR answer_status NOT IN (201, 402) OR (answer_status = 201 AND status <> 'succeeded')
	UNION ALL
	SELECT id::text, format('the charge went back whole, its key is not answered') FROM charges
	WHERE status = 'succeeded' AND answer IS NULL AND amount_refunded = amount
	UNION ALL
	SELECT id::text, format('the refund is %s, its answer is %s', status, CASE WHEN answer IS NULL THEN 'missing'
		ELSE 'final' END) FROM refunds
	WHERE (settled_at IS NOT NULL AND cause <> 'outside') AND answer IS NULL OR answer_status NOT IN (201, 402)`

const capturedOnce = `
	SELECT order_id::text, format('%s charges of the order succeeded: %s', count(*), string_agg(id::text, ', '))
	FROM charges WHERE status = 'succeeded' AND pays GROUP BY order_id HAVING count(*) > 1
	UNION ALL
	SELECT c.id::text, format('the charge is about %s %s, its order %s about %s', c.amount, c.currency, c.order_id,
		coalesce(o.total || ' ' || o.currency, 'nothing: there is none'))
	FROM charges c LEFT JOIN orders o ON o.id = c.order_id
	WHERE (c.amount, c.currency) IS DISTINCT FROM (o.total, o.currency)
	UNION ALL
	SELECT id::text, 'the charge succeeded without a capture' FROM charges
	WHERE status = 'succeeded' AND provider_id IS NULL`

// captured selects the captures that succeeded at the provider.
const captured = `
	SELECT id, charge_id, order_id, amount, currency, at
	FROM unnest(@capture_id::text[], @capture_charge::text[], @capture_order::text[], @capture_status::text[],
		@capture_amount::bigint[], @capture_currency::text[], @capture_at::timestamptz[])
		AS w (id, charge_id, order_id, status, amount, currency, at)
	WHERE status = 'succeeded'`

// capturedOnceOutside leaves out money that came too late for its order: it goes back (I6).
const capturedOnceOutside = `
	WITH captured AS (` + captured + `)
	SELECT w.order_id, format('the provider took money %s times for the order: %s', count(*), string_agg(w.id, ', '))
	FROM captured w LEFT JOIN charges c ON c.id::text = w.charge_id
	WHERE c.id IS NULL OR c.pays AND c.status <> 'declined' GROUP BY w.order_id HAVING count(*) > 1
	UNION ALL
	SELECT charge_id, format('the provider took money %s times for the charge: %s', count(*), string_agg(id, ', '))
	FROM captured GROUP BY charge_id HAVING count(*) > 1
	UNION ALL
	SELECT w.id, format('the provider took %s %s for order %s; charge %s is about %s', w.amount, w.currency,
		w.order_id, w.charge_id, CASE WHEN o.id IS NULL THEN 'nothing: there is none'
			ELSE format('%s %s for order %s', o.total, o.currency, o.id) END)
	FROM captured w LEFT JOIN charges c ON c.id::text = w.charge_id LEFT JOIN orders o ON o.id = c.order_id
	WHERE (w.order_id, w.amount, w.currency) IS DISTINCT FROM (o.id::text, o.total, o.currency)`

// paidMeansCaptured also finds what hangs, which a provider that is away causes until it is back,
// and money that is owed while nothing is on its way and no operator was asked.
const paidMeansCaptured = `
	WITH charged AS (
		SELECT order_id, coalesce(bool_or(status = 'succeeded' AND pays), false) AS captured,
			bool_or(status IN ('pending', 'unknown', 'requires_action')) AS open,
			coalesce(sum(amount - amount_refunded) FILTER (WHERE status = 'succeeded' AND pays), 0) AS kept,
			coalesce(bool_or(owes = 'canceled'), false) AS owes
		FROM charges GROUP BY order_id
	)
	SELECT o.id::text, format('the order is %s, %s, %s', o.status,
		CASE WHEN c.captured THEN format('%s %s of it are captured and kept', c.kept, o.currency)
			ELSE 'nothing is captured for it' END,
		CASE WHEN c.open THEN 'a charge is open' ELSE 'no charge is open' END)
	FROM orders o LEFT JOIN charged c ON c.order_id = o.id
	WHERE NOT CASE o.status
		WHEN 'paid' THEN coalesce(c.captured, false) AND NOT c.open AND c.kept > 0
		WHEN 'refunded' THEN coalesce(c.captured, false) AND NOT c.open AND (c.owes OR c.kept = 0)
		WHEN 'paying' THEN coalesce(c.open, false) AND NOT c.captured
		WHEN 'placed' THEN NOT coalesce(c.open, false) AND NOT coalesce(c.captured, false)
		ELSE NOT coalesce(c.captured, false) END
	UNION ALL
	SELECT id::text, format('the %s is %s for %s s: the provider is away, or nothing reconciles', kind, status,
		round(extract(epoch FROM now() - started_at)))
	FROM (SELECT 'charge' AS kind, id, status, started_at FROM charges WHERE status IN ('pending', 'unknown')
		UNION ALL SELECT 'refund', id, status, started_at FROM refunds
			WHERE status IN ('pending', 'unknown') AND provider_id IS NULL) AS open
	WHERE started_at < now() - @healing::interval
	UNION ALL
	SELECT id::text, format('the charge owes %s %s, and nothing is on its way',
		amount - amount_refunded - refund_reserved, currency)
	FROM charges WHERE ` + owing + ` AND return_due IS NULL AND return_tries < @return_tries::int
	UNION ALL
	SELECT id::text, format('the charge should have returned %s %s %s s ago',
		amount - amount_refunded - refund_reserved, currency, round(extract(epoch FROM now() - return_due)))
	FROM charges WHERE ` + owing + ` AND return_due < now() - @healing::interval`

// owing is what holds of a charge whose money has to go back and is not on its way.
const owing = `owes IS NOT NULL AND owed_ended_at IS NULL AND amount_refunded + refund_reserved < amount
	AND dispute IS DISTINCT FROM 'lost' AND dispute IS DISTINCT FROM 'open'`

const owedByOperators = `
	SELECT id::text, format('the charge owes %s %s, and an operator has to decide',
		amount - amount_refunded - refund_reserved, currency)
	FROM charges WHERE ` + owing + ` AND return_due IS NULL AND return_tries >= @return_tries::int`

// capturedMeansCharged allows time for the provider's event if a charge was given up and captured
// after all.
const capturedMeansCharged = `
	SELECT w.id, format('the provider took %s %s; charge %s of order %s is declined', w.amount, w.currency,
		w.charge_id, w.order_id)
	FROM (` + captured + `) AS w JOIN charges c ON c.id::text = w.charge_id
	WHERE c.status = 'declined' AND w.at < @asked::timestamptz - @healing::interval`

const unitsMoveOnce = `
	WITH due AS (
		SELECT l.order_id, l.sku, o.status, sum(l.quantity) AS quantity,
			o.status IN ('paid', 'refunded') AS sold,
			o.status IN ('canceled', 'expired') AS released,
			o.status = 'refunded' AND c.order_id IS NOT NULL AS returned
		FROM order_lines l JOIN orders o ON o.id = l.order_id LEFT JOIN cancellations c ON c.order_id = o.id
		GROUP BY l.order_id, l.sku, o.status, c.order_id
	), moved AS (
		SELECT order_id, sku, count(*) AS movements,
			coalesce(sum(quantity) FILTER (WHERE kind = 'reserved'), 0) AS reserved,
			coalesce(sum(quantity) FILTER (WHERE kind = 'sold'), 0) AS sold,
			coalesce(sum(quantity) FILTER (WHERE kind = 'released'), 0) AS released,
			coalesce(sum(quantity) FILTER (WHERE kind = 'returned'), 0) AS returned
		FROM stock_movements WHERE order_id IS NOT NULL GROUP BY order_id, sku
	)
	SELECT order_id::text, format('%s units of %s ordered, the order is %s: '
			'%s reserved, %s sold, %s released, %s returned, in %s movements',
		coalesce(d.quantity, 0), sku, coalesce(d.status, 'without such a line'), coalesce(m.reserved, 0),
		coalesce(m.sold, 0), coalesce(m.released, 0), coalesce(m.returned, 0), coalesce(m.movements, 0))
	FROM due d FULL JOIN moved m USING (order_id, sku)
	WHERE (m.reserved, m.sold, m.released, m.returned, m.movements) IS DISTINCT FROM
		(d.quantity, d.quantity * d.sold::int, d.quantity * d.released::int, d.quantity * d.returned::int,
			1 + d.sold::int + d.released::int + d.returned::int)
	UNION ALL
	SELECT l.order_id::text, format('line %s, %s of %s, has no such order or product', l.line, l.quantity, l.sku)
	FROM order_lines l
	WHERE NOT EXISTS (SELECT FROM orders o WHERE o.id = l.order_id)
		OR NOT EXISTS (SELECT FROM products p WHERE p.sku = l.sku)
	UNION ALL
	SELECT m.order_id::text, format('%s units of %s are %s without a row of stock', m.quantity, m.sku, m.kind)
	FROM stock_movements m WHERE NOT EXISTS (SELECT FROM stock s WHERE s.sku = m.sku)`

const stockAddsUp = `
	SELECT s.sku, format('%s units are available, the movements sum to %s', s.available, coalesce(m.sum, 0))
	FROM stock s LEFT JOIN (SELECT sku, sum(delta) AS sum FROM stock_movements GROUP BY sku) AS m ON m.sku = s.sku
	WHERE s.available < 0 OR s.available <> coalesce(m.sum, 0)`

const refundsWithin = `
	SELECT c.id::text, format('the charge of %s is %s and gave back %s with %s reserved; its refunds are about %s '
			'and %s',
		c.amount, c.status, c.amount_refunded, c.refund_reserved, coalesce(r.given, 0), coalesce(r.open, 0))
	FROM charges c LEFT JOIN (
		SELECT charge_id, sum(amount) FILTER (WHERE status = 'succeeded') AS given,
			sum(amount) FILTER (WHERE status IN ('pending', 'unknown')) AS open
		FROM refunds GROUP BY charge_id) AS r ON r.charge_id = c.id
	WHERE c.amount_refunded + c.refund_reserved > c.amount OR c.amount_refunded <> coalesce(r.given, 0)
		OR c.refund_reserved <> coalesce(r.open, 0)
		OR (c.status <> 'succeeded' AND coalesce(r.given, 0) + coalesce(r.open, 0) > 0)
	UNION ALL
	SELECT r.id::text, format('the refund is in %s, its charge in %s', r.currency, c.currency)
	FROM refunds r JOIN charges c ON c.id = r.charge_id WHERE r.currency <> c.currency`

// moneyAgrees expects of the provider what was settled before it was asked. It gives a refund that
// the provider made, with us or without, the time in which its event tells us.
const moneyAgrees = `
	WITH captured AS (` + captured + `), given AS (
		SELECT id, capture_id, amount, currency, at
		FROM unnest(@refund_id::text[], @refund_capture::text[], @refund_status::text[], @refund_amount::bigint[],
			@refund_currency::text[], @refund_at::timestamptz[]) AS w (id, capture_id, status, amount, currency, at)
		WHERE status = 'succeeded'
	)
	SELECT c.id::text, format('the charge was captured as %s for %s %s, which the provider does not know',
		c.provider_id, c.amount, c.currency)
	FROM charges c LEFT JOIN captured w ON w.id = c.provider_id
	WHERE c.status = 'succeeded' AND c.settled_at <= @asked::timestamptz
	  AND (w.charge_id, w.amount, w.currency) IS DISTINCT FROM (c.id::text, c.amount, c.currency)
	UNION ALL
	SELECT r.id::text, format('%s %s were given back as %s, which the provider does not know', r.amount, r.currency,
		r.provider_id)
	FROM refunds r JOIN charges c ON c.id = r.charge_id LEFT JOIN given w ON w.id = r.provider_id
	WHERE r.status = 'succeeded' AND r.settled_at <= @asked::timestamptz
	  AND (w.capture_id, w.amount, w.currency) IS DISTINCT FROM (c.provider_id, r.amount, r.currency)
	UNION ALL
	SELECT w.id, format('the provider gave back %s %s of capture %s, which is not booked', w.amount, w.currency,
		w.capture_id)
	FROM given w LEFT JOIN refunds r ON r.provider_id = w.id AND r.status = 'succeeded'
	WHERE r.id IS NULL AND w.at < @asked::timestamptz - @healing::interval
	UNION ALL
	SELECT w.capture_id, format('the provider gave back %s of the capture, charge %s of %s only %s', w.sum, c.id,
		c.amount, c.amount_refunded)
	FROM (SELECT capture_id, sum(amount) AS sum FROM given GROUP BY capture_id) AS w
		JOIN charges c ON c.provider_id = w.capture_id
	WHERE w.sum > c.amount_refunded + c.refund_reserved AND w.sum > c.amount`

// steps selects the events of each order in the only sequence that can be legal: paying and
// declined alternate, and a final state comes last. The ids and created_at do not give the
// sequence: they come from the nodes' clocks and from the start of transactions, but the sequence
// is that in which transactions locked the order's row.
const steps = `
	SELECT order_id, id, type, payload, after, lag(after, 1, '') OVER walk AS before, lead(id) OVER walk IS NULL AS last
	FROM (
		SELECT e.order_id, e.id, e.type, e.payload, l.after,
			row_number() OVER (PARTITION BY e.order_id, e.type ORDER BY e.id) AS nth
		FROM outbox e JOIN (
			SELECT DISTINCT event, after FROM unnest(@legal_event::text[], @legal_to::text[]) AS l (event, after)
		) AS l ON l.event = e.type
	) AS told
	WINDOW walk AS (PARTITION BY order_id
		ORDER BY type = 'order.placed' DESC, after IN ('placed', 'paying') DESC, nth,
			after = 'placed', after = 'refunded', id)`

// partly is what holds of an order whose events may have been deleted because they were old. All
// events of an order are deleted together, but later ones can follow.
const partly = `o.created_at < (SELECT max(since) FROM outbox_kept) + interval '1 minute'`

const eventsTell = `
	WITH steps AS (` + steps + `)
	SELECT o.id::text, format('the order is %s, its events say %s; placed %s times', o.status,
		coalesce(s.told, 'nothing'), coalesce(s.placed, 0))
	FROM orders o LEFT JOIN (
		SELECT order_id, count(*) FILTER (WHERE type = 'order.placed') AS placed,
			max(after) FILTER (WHERE last) AS told FROM steps GROUP BY order_id
	) AS s ON s.order_id = o.id
	WHERE (s.placed, s.told) IS DISTINCT FROM (1, o.status)
		AND NOT (coalesce(s.placed, 0) = 0 AND coalesce(s.told, o.status) = o.status
			AND coalesce(` + partly + `, false))
	UNION ALL
	SELECT e.id::text, format('%s is about order %s, which does not exist', e.type, e.order_id)
	FROM outbox e LEFT JOIN orders o ON o.id = e.order_id WHERE o.id IS NULL
	UNION ALL
	SELECT e.id::text, format('%s tells of an order of %s %s, order %s is about %s %s', e.type, e.payload->>'total',
		e.payload->>'currency', o.id, o.total, o.currency)
	FROM steps e JOIN orders o ON o.id = e.order_id
	WHERE (e.payload->>'total', e.payload->>'currency') IS DISTINCT FROM (o.total::text, o.currency)
	UNION ALL
	SELECT e.id::text, format('%s tells of an order that is %s and costs %s, order %s is %s and costs %s', e.type,
		e.payload->>'status', e.payload->>'total', o.id, o.status, o.total)
	FROM outbox e JOIN orders o ON o.id = e.order_id
	WHERE e.type = 'payment.declined_late' AND NOT (o.status IN ('canceled', 'expired')
		AND (e.payload->>'status', e.payload->>'total') IS NOT DISTINCT FROM (o.status, o.total::text))
	UNION ALL
	SELECT c.id::text, format('the charge for order %s was declined, and no event tells so', o.id)
	FROM charges c JOIN orders o ON o.id = c.order_id
		LEFT JOIN outbox e ON e.order_id = c.order_id AND e.payload->'origin'->>'charge_id' = c.id::text
			AND e.type IN ('order.payment_declined', 'payment.declined_late')
	WHERE c.status = 'declined' AND e.id IS NULL AND o.erased_at IS NULL AND NOT coalesce(` + partly + `, false)`

const eventsConsumed = `
	SELECT id::text, format('%s of order %s waits to be sent for %s s', type, order_id,
		round(extract(epoch FROM now() - created_at)))
	FROM outbox WHERE sent_at IS NULL AND created_at < now() - @healing::interval
	UNION ALL
	SELECT o.id::text, format('the order was paid %s s ago and has no receipt',
		round(extract(epoch FROM now() - e.created_at)))
	FROM outbox e JOIN orders o ON o.id = e.order_id LEFT JOIN receipts r ON r.order_id = o.id AND r.kind = 'paid'
	WHERE e.type = 'order.paid' AND e.created_at < now() - @healing::interval AND r.sent_at IS NULL
		AND NOT coalesce(r.failures > 0 AND r.dead_at IS NULL AND r.due_at > now(), false)`

const mails = `SELECT id, order_id, receiver
	FROM unnest(@mail_id::text[], @mail_order::text[], @mail_to::text[]) AS w (id, order_id, receiver)`

// receiptsArrived expects the mails that were recorded as sent before the mailbox was asked. I10
// checks that every paid order has such a record.
const receiptsArrived = `
	WITH mails AS (` + mails + `)
	SELECT r.order_id::text, format('the receipt was sent at %s and is not in the mailbox', r.sent_at)
	FROM receipts r LEFT JOIN mails w ON w.order_id = r.order_id::text
	WHERE r.sent_at BETWEEN @since::timestamptz AND @asked::timestamptz AND w.id IS NULL
	UNION ALL
	SELECT w.id, format('a receipt for order %s, which is %s', w.order_id, coalesce(o.status, 'unknown here'))
	FROM mails w LEFT JOIN orders o ON o.id::text = w.order_id
	WHERE o.id IS NULL OR o.status NOT IN ('paid', 'refunded')
	UNION ALL
	SELECT w.id, format('the receipt for order %s went to %s instead of %s', o.id, w.receiver, o.email)
	FROM mails w JOIN orders o ON o.id::text = w.order_id
	WHERE lower(w.receiver) <> lower(o.email) AND o.erased_at IS NULL`

const receiptTwins = `
	SELECT order_id, format('%s receipts instead of one: right only if a sender crashed between SMTP and its record',
		count(*))
	FROM (` + mails + `) AS w GROUP BY order_id HAVING count(*) > 1`

// providerEventsApplied reads what was understood of the events, whatever provider sent them.
const providerEventsApplied = `
	WITH applied AS (
		SELECT id, type, convert_from(facts, 'UTF8')::json AS facts FROM provider_events WHERE state = 'applied'
	), captures AS (
		SELECT id, type, facts->'capture'->>'id' AS object, facts->'capture'->>'reference' AS reference,
			facts->'capture'->>'status' AS status
		FROM applied WHERE facts->'capture' IS NOT NULL
	)
	SELECT e.id, format('%s of %s was applied, charge %s is %s', e.type, e.object, e.reference,
		coalesce(c.status || ' as ' || coalesce(c.provider_id, 'nothing'), 'unknown here'))
	FROM captures e LEFT JOIN charges c ON c.id::text = e.reference
	WHERE (e.status = 'succeeded' AND (c.status, c.provider_id) IS DISTINCT FROM ('succeeded', e.object))
	   OR (e.status <> 'succeeded' AND (c.id IS NULL OR c.status IN ('pending', 'unknown')
	   	OR (c.status = 'succeeded' AND c.provider_id = e.object)))
	UNION ALL
	SELECT e.id, format('%s was applied, no refund here is that', e.type)
	FROM applied e LEFT JOIN refunds r ON r.provider_id = e.facts->'refund'->>'id'
	WHERE e.facts->'refund'->>'status' = 'succeeded' AND r.id IS NULL
	UNION ALL
	SELECT e.id, format('%s was applied, no dispute here is that', e.type)
	FROM applied e LEFT JOIN disputes d ON d.id = e.facts->'dispute'->>'id'
	WHERE e.facts->'dispute' IS NOT NULL AND d.id IS NULL
	UNION ALL
	SELECT id, format('%s waits for %s s to be applied: %s', type, round(extract(epoch FROM now() - due_at)), reason)
	FROM provider_events WHERE state = 'received' AND due_at < now() - @healing::interval`

const quarantined = `
	SELECT id, format('%s is in quarantine: %s', type, reason) FROM provider_events WHERE state = 'quarantined'`

const legalSteps = `
	SELECT s.order_id::text, format('%s cannot follow %s (event %s tells of an order that is %s)', s.type,
		coalesce(nullif(s.before, ''), 'nothing'), s.id, s.payload->>'status')
	FROM (` + steps + `) AS s
	LEFT JOIN unnest(@legal_event::text[], @legal_from::text[], @legal_to::text[]) AS l (event, before, after)
		ON (l.event, l.before, l.after) = (s.type, s.before, s.after)
	WHERE (l.event IS NULL AND NOT (s.before = '' AND s.type <> 'order.placed' AND EXISTS (
			SELECT FROM orders o WHERE o.id = s.order_id AND ` + partly + `)))
		OR s.payload->>'status' IS DISTINCT FROM s.after
	UNION ALL
	SELECT id::text, format('%s is no step of an order', type) FROM outbox
	WHERE type LIKE 'order.%' AND type <> ALL (@legal_event::text[])`
