-- Writes the orders of the table settled, each with all that it has caused: they are over, as
-- nearly all orders of a shop that has run for years.
INSERT INTO orders (id, customer_id, idempotency_key, fingerprint, answer, email, status, currency, total, created_at,
  expires_at)
SELECT order_id, customer_id, idempotency_key,
  sha256(convert_to(format('{"email":"buyer@example.com","lines":[{"sku":"%s","quantity":1}]}', sku), 'UTF8')),
  convert_to(format('{"id":"%s","status":"placed","email":"buyer@example.com","currency":"EUR","total":1400,'
    '"lines":[{"sku":"%s","name":"Thing","quantity":1,"unit_price":1400,"amount":1400}],"created_at":"%s"}',
    order_id, sku, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')), 'UTF8'),
  'buyer@example.com', CASE WHEN paid THEN 'paid' ELSE 'expired' END, 'EUR', 1400, at, at + interval '30 minutes'
FROM settled ORDER BY n;

INSERT INTO order_lines (order_id, line, sku, name, quantity, unit_price)
SELECT order_id, 1, sku, 'Thing', 1, 1400 FROM settled ORDER BY n;

INSERT INTO stock_movements (sku, kind, quantity, order_id, created_at)
SELECT sku, kind, 1, order_id, at
FROM settled CROSS JOIN LATERAL unnest(ARRAY['reserved', CASE WHEN paid THEN 'sold' ELSE 'released' END]) AS kind
  ORDER BY n;

INSERT INTO charges (id, order_id, customer_id, idempotency_key, fingerprint, payment_method, status, amount, currency,
  provider, provider_id, lease_until, answer_status, answer, created_at, settled_at, started_at, asked_at)
SELECT charge_id, order_id, customer_id, 'pay-' || idempotency_key, sha256(convert_to(order_id::text, 'UTF8')),
  'pm_ok', 'succeeded', 1400, 'EUR', 'bench', 'cap_' || idempotency_key, at,
  201, convert_to(format('{"id":"%s","order_id":"%s","status":"succeeded","amount":1400,"amount_refunded":0,'
    '"currency":"EUR","created_at":"%s"}',
    charge_id, order_id, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')), 'UTF8'), at, at, at, at
FROM settled WHERE paid ORDER BY n;

INSERT INTO outbox (id, type, order_id, payload, created_at, claimed_until, sent_at, stream_seq)
SELECT (head || '700' || (nth + 1) || tail)::uuid, 'order.' || status, order_id,
  format('{"status": "%s", "currency": "EUR", "total": 1400}', status)::jsonb, at, at, at, 3 * n + nth
FROM settled AS s CROSS JOIN LATERAL unnest(CASE WHEN paid THEN ARRAY['placed', 'paying', 'paid']
  ELSE ARRAY['placed', 'expired'] END) WITH ORDINALITY AS told (status, nth)
ORDER BY n, nth;

INSERT INTO receipts (order_id, kind, lease_until, sent_at, created_at)
SELECT order_id, 'paid', at, at, at FROM settled WHERE paid ORDER BY n;

UPDATE stock SET available = available - sold.units
FROM (SELECT sku, count(*) AS units FROM settled WHERE paid GROUP BY sku) AS sold
WHERE stock.sku = sold.sku;
