-- A common first version: tables without the constraints that decide. A run of the lab reads only
-- its own rows.
CREATE TABLE IF NOT EXISTS orders (
    id              uuid PRIMARY KEY,
    run             text NOT NULL,
    idempotency_key text,
    quantity        bigint NOT NULL,
    status          text NOT NULL DEFAULT 'placed',
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS orders_of_run ON orders (run);

CREATE TABLE IF NOT EXISTS payments (
    id         uuid PRIMARY KEY,
    run        text NOT NULL,
    order_id   uuid NOT NULL,
    status     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS payments_of_run ON payments (run);

CREATE TABLE IF NOT EXISTS events (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run        text NOT NULL,
    type       text NOT NULL,
    payment_id uuid NOT NULL
);
CREATE INDEX IF NOT EXISTS events_of_run ON events (run);

-- Keys are unique here, but a key's use is not recorded, and an order may be paid under any number
-- of keys.
CREATE TABLE IF NOT EXISTS idempotency_keys (
    run      text NOT NULL,
    key      text NOT NULL,
    order_id uuid NOT NULL,
    PRIMARY KEY (run, key)
);

CREATE TABLE IF NOT EXISTS stock_movements (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run         text NOT NULL,
    delivery_id text NOT NULL,
    quantity    bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS stock_movements_of_run ON stock_movements (run);
