-- +goose Up

-- The catalog. Prices are in minor units of the currency.
-- Promises: a SKU is a short plain name; a price is positive and has a currency. An order line
-- copies the price, so a later change rewrites no order.
CREATE TABLE products (
    sku         text PRIMARY KEY CHECK (sku ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    name        text NOT NULL,
    description text NOT NULL,
    currency    text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    unit_price  bigint NOT NULL CHECK (unit_price BETWEEN 1 AND 10000000000),
    position    integer NOT NULL
);

-- Available units per SKU: on hand and not reserved.
-- Promise: never negative, so one unit cannot be reserved for two buyers. The number equals the sum
-- of stock_movements.delta for the SKU. It is a row of its own so that buyers queue on one lock per
-- SKU.
CREATE TABLE stock (
    sku       text PRIMARY KEY REFERENCES products,
    available bigint NOT NULL DEFAULT 0 CHECK (available >= 0)
);

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
    -- By the database's clock. An order still unpaid at this time releases its stock; starting a
    -- charge moves it on.
    expires_at      timestamptz NOT NULL DEFAULT now() + interval '30 minutes',
    created_at      timestamptz NOT NULL,
    CONSTRAINT orders_one_per_key UNIQUE (customer_id, idempotency_key)
);
-- 00007_tuning.sql makes this index partial.
CREATE INDEX orders_of_customer ON orders (customer_id, id DESC);
CREATE INDEX orders_expiring ON orders (expires_at) WHERE status IN ('placed', 'paying');

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
CREATE UNIQUE INDEX stock_movements_one_end ON stock_movements (order_id, sku) WHERE kind IN ('sold', 'released');

-- +goose Down
DROP TABLE stock_movements, deliveries, order_lines, orders, stock, products;
