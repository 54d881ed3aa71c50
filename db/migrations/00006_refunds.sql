-- +goose Up

-- An unpaid order gives its stock back after this time, by the database's clock; a charge that
-- starts moves it on.
ALTER TABLE orders ADD COLUMN expires_at timestamptz NOT NULL DEFAULT now() + interval '30 minutes';
CREATE INDEX orders_expiring ON orders (expires_at) WHERE status IN ('placed', 'paying');

-- The age of a charge by the database's clock decides whether its key still counts at the provider.
-- How long ago the provider was last asked decides whether "not found" proves anything.
ALTER TABLE charges ADD COLUMN started_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE charges ADD COLUMN asked_at timestamptz NOT NULL DEFAULT now();

-- Money on its way back. The amount is taken off what the charge can still refund when the row is
-- written, before the provider is asked, so that refunds at the same time cannot exceed the
-- capture. Without a customer, the shop itself asked. Promises: one refund per customer and key;
-- one row per refund at the provider; a settled refund a client asked for carries its answer.
CREATE TABLE refunds (
    id              uuid PRIMARY KEY,
    charge_id       uuid NOT NULL REFERENCES charges,
    customer_id     uuid REFERENCES customers,
    -- Given back, with the key, when the provider refuses for good: nothing happened under it.
    idempotency_key text CHECK (octet_length(idempotency_key) BETWEEN 1 AND 255),
    fingerprint     bytea CHECK (octet_length(fingerprint) = 32),
    cause           text NOT NULL CHECK (cause IN ('requested', 'canceled', 'late')),
    reason          text NOT NULL DEFAULT '',
    status          text NOT NULL CHECK (status IN ('pending', 'unknown', 'succeeded', 'failed')),
    amount          bigint NOT NULL CHECK (amount > 0),
    currency        text NOT NULL,
    provider_id     text UNIQUE,
    attempt         integer NOT NULL DEFAULT 1,
    lease_until     timestamptz NOT NULL,
    answer          bytea,
    created_at      timestamptz NOT NULL,
    started_at      timestamptz NOT NULL DEFAULT now(),
    settled_at      timestamptz,
    CONSTRAINT refunds_one_per_key UNIQUE (customer_id, idempotency_key),
    CONSTRAINT refunds_key_has_meaning CHECK (num_nulls(idempotency_key, fingerprint) <> 1),
    CONSTRAINT refunds_settled CHECK ((status = 'succeeded') = (num_nulls(provider_id, answer, settled_at) = 0))
);
CREATE INDEX refunds_of_charge ON refunds (charge_id);
CREATE INDEX refunds_unsettled ON refunds (lease_until) WHERE status IN ('pending', 'unknown');

-- Orders that a customer called off, with the answer of that request.
-- Promises: an order is canceled once; one cancellation per customer and key.
CREATE TABLE cancellations (
    order_id        uuid PRIMARY KEY REFERENCES orders,
    customer_id     uuid NOT NULL REFERENCES customers,
    idempotency_key text NOT NULL CHECK (octet_length(idempotency_key) BETWEEN 1 AND 255),
    fingerprint     bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    answer          bytea NOT NULL,
    created_at      timestamptz NOT NULL,
    CONSTRAINT cancellations_one_per_key UNIQUE (customer_id, idempotency_key)
);

-- The inbox: events of the payment provider, written in the transaction of their effect. Promise:
-- an event takes effect once, however often and in whatever order events arrive. A quarantined one
-- contradicts what we know; it changed nothing and waits for an operator.
CREATE TABLE provider_events (
    id          text PRIMARY KEY,
    type        text NOT NULL,
    payload     jsonb NOT NULL,
    state       text NOT NULL CHECK (state IN ('applied', 'quarantined')),
    reason      text NOT NULL DEFAULT '',
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX provider_events_quarantined ON provider_events (received_at) WHERE state = 'quarantined';

-- +goose Down
DROP TABLE provider_events, cancellations, refunds;
ALTER TABLE charges DROP COLUMN asked_at, DROP COLUMN started_at;
ALTER TABLE orders DROP COLUMN expires_at;
