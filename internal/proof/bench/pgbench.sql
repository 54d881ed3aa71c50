-- The naive transaction as a script of pgbench: two lines out of the products, a statement at a
-- time.
\set a random(0, 999)
\set b random(0, 999)
\set low least(:a, :b)
\set high greatest(:a, :b)
\set customer :client_id + 1
BEGIN;
SELECT sku, name, currency, unit_price FROM products WHERE sku IN ('BENCH-' || :low, 'BENCH-' || :high);
UPDATE stock SET available = available - 1 WHERE sku = 'BENCH-' || :low AND available >= 1;
UPDATE stock SET available = available - 1 WHERE sku = 'BENCH-' || :high AND available >= 1;
INSERT INTO orders (customer_id, email, currency, total) VALUES (:customer, 'buyer@example.com', 'EUR', 2800)
  RETURNING id, created_at \gset
INSERT INTO order_lines (order_id, line, sku, name, quantity, unit_price)
  VALUES (:id, 1, 'BENCH-' || :low, 'Thing', 1, 1400);
INSERT INTO order_lines (order_id, line, sku, name, quantity, unit_price)
  VALUES (:id, 2, 'BENCH-' || :high, 'Thing', 1, 1400);
INSERT INTO stock_movements (sku, kind, quantity, order_id) VALUES ('BENCH-' || :low, 'reserved', 1, :id);
INSERT INTO stock_movements (sku, kind, quantity, order_id) VALUES ('BENCH-' || :high, 'reserved', 1, :id);
INSERT INTO outbox (type, order_id, payload) VALUES ('order.placed', :id,
  '{"status":"placed","currency":"EUR","total":2800,"email":"buyer@example.com"}');
COMMIT;
