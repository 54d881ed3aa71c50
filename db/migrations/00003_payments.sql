-- +goose Up

-- An attempt to collect the money for an order. The row is written before the provider is called:
-- its id is the provider's idempotency key, and after a crash it shows what is left to settle.
-- Promises: one charge per customer and key; one live charge per order, whatever the keys; one row
-- per capture at the provider; a final charge, and no other, has the answer that its key is
-- replayed with; refunds stay within the capture.
CREATE TABLE charges (
    id              uuid PRIMARY KEY,
    order_id        uuid NOT NULL REFERENCES orders,
    customer_id     uuid NOT NULL REFERENCES customers,
    idempotency_key text NOT NULL CHECK (octet_length(idempotency_key) BETWEEN 1 AND 255),
    fingerprint     bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    payment_method  text NOT NULL,
    status          text NOT NULL CHECK (status IN ('pending', 'unknown', 'succeeded', 'declined')),
    amount          bigint NOT NULL CHECK (amount > 0),
    amount_refunded bigint NOT NULL DEFAULT 0,
    currency        text NOT NULL,
    decline_code    text,
    provider_id     text UNIQUE,
    -- Fencing token: the worker with the newest number holds the charge until lease_until.
    attempt         integer NOT NULL DEFAULT 1,
    lease_until     timestamptz NOT NULL,
    answer_status   integer,
    answer          bytea,
    created_at      timestamptz NOT NULL,
    -- By the database's clock: the age decides whether the provider still remembers the key.
    started_at      timestamptz NOT NULL DEFAULT now(),
    -- The last look-up at the provider: its age decides whether "not found" proves anything.
    asked_at        timestamptz NOT NULL DEFAULT now(),
    -- When the outcome first became unknown.
    unknown_at      timestamptz,
    settled_at      timestamptz,
    CONSTRAINT charges_one_per_key UNIQUE (customer_id, idempotency_key),
    CONSTRAINT charges_refunds_within_capture CHECK (amount_refunded BETWEEN 0 AND amount),
    CONSTRAINT charges_final_has_answer CHECK (
        (status IN ('succeeded', 'declined')) = (num_nulls(answer, answer_status, settled_at) = 0))
);
CREATE UNIQUE INDEX charges_one_live_per_order ON charges (order_id)
    WHERE status IN ('pending', 'unknown', 'succeeded');
CREATE INDEX charges_of_order ON charges (order_id);
CREATE INDEX charges_unsettled ON charges (lease_until) WHERE status IN ('pending', 'unknown');

-- Money on its way back. Inserting the row adds its amount to the charge's amount_refunded before
-- the provider is called, so concurrent refunds cannot exceed the capture. A refund without a
-- customer was started by the shop.
-- Promises: one refund per customer and key; a key has a fingerprint; one row per refund at the
-- provider; a refund that succeeded, and no other, has its provider's id, answer and time.
CREATE TABLE refunds (
    id              uuid PRIMARY KEY,
    charge_id       uuid NOT NULL REFERENCES charges,
    customer_id     uuid REFERENCES customers,
    -- Cleared, with the fingerprint, when the provider rejects the refund for good: the key had no
    -- effect and may be used again.
    idempotency_key text CHECK (octet_length(idempotency_key) BETWEEN 1 AND 255),
    fingerprint     bytea CHECK (octet_length(fingerprint) = 32),
    cause           text NOT NULL CHECK (cause IN ('requested', 'canceled', 'late')),
    reason          text NOT NULL DEFAULT '',
    status          text NOT NULL CHECK (status IN ('pending', 'unknown', 'succeeded', 'failed')),
    amount          bigint NOT NULL CHECK (amount > 0),
    currency        text NOT NULL,
    provider_id     text UNIQUE,
    -- Fencing token and lease, as in charges.
    attempt         integer NOT NULL DEFAULT 1,
    lease_until     timestamptz NOT NULL,
    answer          bytea,
    created_at      timestamptz NOT NULL,
    started_at      timestamptz NOT NULL DEFAULT now(),
    -- When the outcome first became unknown.
    unknown_at      timestamptz,
    settled_at      timestamptz,
    CONSTRAINT refunds_one_per_key UNIQUE (customer_id, idempotency_key),
    CONSTRAINT refunds_key_has_meaning CHECK (num_nulls(idempotency_key, fingerprint) <> 1),
    CONSTRAINT refunds_settled CHECK ((status = 'succeeded') = (num_nulls(provider_id, answer, settled_at) = 0))
);
CREATE INDEX refunds_of_charge ON refunds (charge_id);
CREATE INDEX refunds_unsettled ON refunds (lease_until) WHERE status IN ('pending', 'unknown');

-- Orders that a customer canceled, with the answer to that request.
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

-- The inbox: events of the payment provider, written in the transaction of their effect.
-- Promise: an event takes effect once, however often and in whatever order events arrive. A
-- quarantined event contradicts our records; it changed nothing and waits for an operator.
CREATE TABLE provider_events (
    id          text PRIMARY KEY,
    type        text NOT NULL,
    -- The charge that the event refers to. No foreign key: an event of a charge that does not exist
    -- is quarantined.
    charge_id   uuid,
    payload     jsonb NOT NULL,
    state       text NOT NULL CHECK (state IN ('applied', 'quarantined')),
    reason      text NOT NULL DEFAULT '',
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX provider_events_of_charge ON provider_events (charge_id);
CREATE INDEX provider_events_quarantined ON provider_events (received_at) WHERE state = 'quarantined';

-- +goose Down
DROP TABLE provider_events, cancellations, refunds, charges;
