-- The shop's tables as they are often designed: foreign keys and indexes, and no constraint that
-- knows a repeated request.
CREATE TABLE customers (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text NOT NULL UNIQUE
);

CREATE TABLE api_tokens (
    hash        bytea PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customers
);

CREATE TABLE products (
    sku         text PRIMARY KEY,
    name        text NOT NULL,
    description text NOT NULL,
    currency    text NOT NULL,
    unit_price  bigint NOT NULL,
    position    integer NOT NULL
);

CREATE TABLE stock (
    sku       text PRIMARY KEY REFERENCES products,
    available bigint NOT NULL DEFAULT 0
);

CREATE TABLE orders (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customers,
    email       text NOT NULL,
    status      text NOT NULL DEFAULT 'placed',
    currency    text NOT NULL,
    total       bigint NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX orders_of_customer ON orders (customer_id, id DESC);

CREATE TABLE order_lines (
    order_id   bigint NOT NULL REFERENCES orders,
    line       integer NOT NULL,
    sku        text NOT NULL REFERENCES products,
    name       text NOT NULL,
    quantity   bigint NOT NULL,
    unit_price bigint NOT NULL,
    PRIMARY KEY (order_id, line)
);

CREATE TABLE stock_movements (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku        text NOT NULL REFERENCES stock,
    kind       text NOT NULL,
    quantity   bigint NOT NULL,
    order_id   bigint REFERENCES orders,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX stock_movements_of_order ON stock_movements (order_id);

CREATE TABLE outbox (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    type       text NOT NULL,
    order_id   bigint NOT NULL,
    payload    jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    sent_at    timestamptz
);
CREATE INDEX outbox_unsent ON outbox (id) WHERE sent_at IS NULL;

CREATE TABLE charges (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id       bigint NOT NULL REFERENCES orders,
    payment_method text NOT NULL,
    status         text NOT NULL,
    amount         bigint NOT NULL,
    currency       text NOT NULL,
    provider_id    text,
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX charges_of_order ON charges (order_id);
