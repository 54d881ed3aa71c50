-- +goose Up

-- The catalog. Prices are in minor units of the currency.
-- Promises: a SKU is a short plain name; a price is positive and in a currency that pages and
-- receipts can print; a product has its row of stock. An order line copies the price, so a later
-- change rewrites no order.
CREATE TABLE products (
    sku         text PRIMARY KEY CHECK (sku ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    name        text NOT NULL,
    description text NOT NULL,
    -- The codes of internal/money.
    currency    text NOT NULL CONSTRAINT products_currency CHECK (currency IN (
        'AED', 'AFN', 'ALL', 'AMD', 'AOA', 'ARS', 'AUD', 'AWG', 'AZN', 'BAM', 'BBD', 'BDT', 'BHD', 'BIF',
        'BMD', 'BND', 'BOB', 'BOV', 'BRL', 'BSD', 'BTN', 'BWP', 'BYN', 'BZD', 'CAD', 'CDF', 'CHE', 'CHF',
        'CHW', 'CLF', 'CLP', 'CNY', 'COP', 'COU', 'CRC', 'CUP', 'CVE', 'CZK', 'DJF', 'DKK', 'DOP', 'DZD',
        'EGP', 'ERN', 'ETB', 'EUR', 'FJD', 'FKP', 'GBP', 'GEL', 'GHS', 'GIP', 'GMD', 'GNF', 'GTQ', 'GYD',
        'HKD', 'HNL', 'HTG', 'HUF', 'IDR', 'ILS', 'INR', 'IQD', 'IRR', 'ISK', 'JMD', 'JOD', 'JPY', 'KES',
        'KGS', 'KHR', 'KMF', 'KPW', 'KRW', 'KWD', 'KYD', 'KZT', 'LAK', 'LBP', 'LKR', 'LRD', 'LSL', 'LYD',
        'MAD', 'MDL', 'MGA', 'MKD', 'MMK', 'MNT', 'MOP', 'MRU', 'MUR', 'MVR', 'MWK', 'MXN', 'MXV', 'MYR',
        'MZN', 'NAD', 'NGN', 'NIO', 'NOK', 'NPR', 'NZD', 'OMR', 'PAB', 'PEN', 'PGK', 'PHP', 'PKR', 'PLN',
        'PYG', 'QAR', 'RON', 'RSD', 'RUB', 'RWF', 'SAR', 'SBD', 'SCR', 'SDG', 'SEK', 'SGD', 'SHP', 'SLE',
        'SOS', 'SRD', 'SSP', 'STN', 'SVC', 'SYP', 'SZL', 'THB', 'TJS', 'TMT', 'TND', 'TOP', 'TRY', 'TTD',
        'TWD', 'TZS', 'UAH', 'UGX', 'USD', 'USN', 'UYI', 'UYU', 'UYW', 'UZS', 'VED', 'VES', 'VND', 'VUV',
        'WST', 'XAD', 'XAF', 'XCD', 'XCG', 'XOF', 'XPF', 'YER', 'ZAR', 'ZMW', 'ZWG')),
    unit_price  bigint NOT NULL CHECK (unit_price BETWEEN 1 AND 10000000000),
    position    integer NOT NULL
);

-- Available units per SKU: on hand and not reserved.
-- Promise: never negative, so one unit cannot be reserved for two buyers. The number equals the sum
-- of stock_movements.delta for the SKU. It is a row of its own so that buyers queue on one lock per
-- SKU. The trigger below adds it with the product.
CREATE TABLE stock (
    sku       text PRIMARY KEY REFERENCES products,
    available bigint NOT NULL DEFAULT 0 CHECK (available >= 0)
);

-- +goose StatementBegin
CREATE FUNCTION add_stock() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO stock (sku) VALUES (NEW.sku);
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER products_add_stock AFTER INSERT ON products FOR EACH ROW EXECUTE FUNCTION add_stock();
ALTER TABLE products ADD CONSTRAINT products_have_stock FOREIGN KEY (sku) REFERENCES stock
    DEFERRABLE INITIALLY DEFERRED;

-- An order with its idempotency key, the fingerprint of the request and the answer to it.
-- Promises: one order per customer and key, forever; a status out of six; a positive total. A retry
-- finds this row and gets the same bytes.
CREATE TABLE orders (
    id              uuid PRIMARY KEY,
    customer_id     uuid NOT NULL REFERENCES customers,
    idempotency_key text NOT NULL CHECK (octet_length(idempotency_key) BETWEEN 1 AND 255),
    fingerprint     bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    answer          bytea NOT NULL,
    email           text NOT NULL,
    status          text NOT NULL CHECK (status IN ('placed', 'paying', 'paid', 'refunded', 'canceled', 'expired')),
    currency        text NOT NULL,
    total           bigint NOT NULL CHECK (total > 0),
    -- The network that a guest's order came from, as a keyed hash. NULL for an order through the
    -- API.
    placed_from     text,
    -- By the database's clock. An order still unpaid at this time releases its stock, or, if it is
    -- being paid then, once as much time later.
    expires_at      timestamptz NOT NULL DEFAULT now() + interval '30 minutes',
    created_at      timestamptz NOT NULL,
    -- When `shop forget` erased the buyer's data. The row stays, and its key stays used.
    erased_at       timestamptz,
    CONSTRAINT orders_one_per_key UNIQUE (customer_id, idempotency_key),
    CONSTRAINT orders_erased CHECK (erased_at IS NULL OR email = '' AND answer = '')
);
-- 00007_tuning.sql makes this index partial.
CREATE INDEX orders_of_customer ON orders (customer_id, id DESC);
-- Counting what a customer, and what the guests of a network, have not paid.
CREATE INDEX orders_unpaid ON orders (customer_id, id) WHERE status IN ('placed', 'paying');
CREATE INDEX orders_unpaid_from ON orders (placed_from, id)
    WHERE status IN ('placed', 'paying') AND placed_from IS NOT NULL;
CREATE INDEX orders_expiring ON orders (expires_at) WHERE status IN ('placed', 'paying');

-- Orders that failed to expire, and when to try again.
-- Promise: an order that cannot expire does not keep the others from it.
CREATE TABLE failed_expiries (
    order_id uuid PRIMARY KEY REFERENCES orders ON DELETE CASCADE,
    failures integer NOT NULL,
    retry_at timestamptz NOT NULL
);

-- How often an order was erased. Each node reads it every second, and stops answering from memory
-- what was kept before it changed.
-- Promise: one row, which changes in the transaction that erases an order.
CREATE TABLE erasures (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    times    bigint NOT NULL
);

-- The lines of an order in the buyer's sequence, with the name and price at that moment.
-- Promises: a line number is used once per order; quantity and price are positive; order and
-- product exist, until 00007_tuning.sql drops these two foreign keys. No statement changes a line
-- after the order's transaction.
CREATE TABLE order_lines (
    order_id   uuid NOT NULL REFERENCES orders,
    line       integer NOT NULL,
    sku        text NOT NULL REFERENCES products,
    name       text NOT NULL,
    quantity   bigint NOT NULL CHECK (quantity > 0),
    unit_price bigint NOT NULL CHECK (unit_price > 0),
    PRIMARY KEY (order_id, line)
);

-- Stock received through the API, under the caller's idempotency key.
-- Promise: one delivery per customer and key.
CREATE TABLE deliveries (
    id              uuid PRIMARY KEY,
    customer_id     uuid NOT NULL REFERENCES customers,
    idempotency_key text NOT NULL CHECK (octet_length(idempotency_key) BETWEEN 1 AND 255),
    fingerprint     bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    answer          bytea NOT NULL,
    created_at      timestamptz NOT NULL,
    CONSTRAINT deliveries_one_per_key UNIQUE (customer_id, idempotency_key)
);

-- Every change of stock.available, with its cause: an order or a line of a supplier's delivery.
-- Promises: an order moves a SKU once per kind; a reservation ends once, sold or released; a
-- delivery line raises stock once, however often its file is imported; a movement has one cause;
-- stock and order exist, until 00007_tuning.sql drops these two foreign keys.
CREATE TABLE stock_movements (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku         text NOT NULL REFERENCES stock,
    kind        text NOT NULL CHECK (kind IN ('delivered', 'reserved', 'sold', 'released', 'returned')),
    quantity    bigint NOT NULL CHECK (quantity > 0),
    -- Effect on stock.available. A sale has none: its units left with the reservation.
    delta       bigint NOT NULL GENERATED ALWAYS AS (
        CASE kind WHEN 'reserved' THEN -quantity WHEN 'sold' THEN 0 ELSE quantity END) STORED,
    order_id    uuid REFERENCES orders,
    supplier    text,
    delivery_id text,
    line        integer,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT stock_movements_one_per_order_kind UNIQUE (order_id, sku, kind),
    CONSTRAINT stock_movements_one_per_delivery_line UNIQUE (supplier, delivery_id, line),
    CONSTRAINT stock_movements_one_cause CHECK (CASE kind
        WHEN 'delivered' THEN order_id IS NULL AND num_nulls(supplier, delivery_id, line) = 0
        ELSE order_id IS NOT NULL AND num_nonnulls(supplier, delivery_id, line) = 0 END)
);
CREATE INDEX stock_movements_of_sku ON stock_movements (sku, id DESC);
CREATE UNIQUE INDEX stock_movements_one_end ON stock_movements (order_id, sku) WHERE kind IN ('sold', 'released');

-- +goose Down
DROP TABLE stock_movements, deliveries, order_lines, erasures, failed_expiries, orders, stock, products;
DROP FUNCTION add_stock;
