-- +goose Up

-- A try to be paid for an order. The row is written before the provider is asked, so that
-- its id can be the provider's idempotency key and a crash leaves a trace to settle.
-- Promises: one charge per customer and key; one live charge per order, whatever the keys;
-- a final charge carries the answer its key is replayed with; refunds stay within the capture.
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
    -- Fencing token: whoever works on the charge holds the newest number until lease_until.
    attempt         integer NOT NULL DEFAULT 1,
    lease_until     timestamptz NOT NULL,
    answer_status   integer,
    answer          bytea,
    created_at      timestamptz NOT NULL,
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

-- +goose Down
DROP TABLE charges;
