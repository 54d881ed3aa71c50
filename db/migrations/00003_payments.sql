-- +goose Up

-- An attempt to collect the money for an order. The row is written before the provider is called:
-- its id is the provider's idempotency key, and after a crash it shows what is left to settle. The
-- id follows from the order and the customer's key: it has the order's time.
-- Promises: one charge per customer and key; one charge that pays or still can per order, whatever
-- the keys; one charge per capture; a key that was answered keeps its answer; refunds and what is
-- reserved for them stay within the capture.
CREATE TABLE charges (
    id              uuid PRIMARY KEY,
    order_id        uuid NOT NULL REFERENCES orders,
    customer_id     uuid NOT NULL REFERENCES customers,
    idempotency_key text NOT NULL CHECK (octet_length(idempotency_key) BETWEEN 1 AND 255),
    fingerprint     bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    payment_method  text NOT NULL,
    status          text NOT NULL CHECK (status IN ('pending', 'unknown', 'requires_action', 'succeeded', 'declined')),
    -- Whether the money pays for the order. Money that came too late does not: it goes back.
    pays            boolean NOT NULL DEFAULT true,
    amount          bigint NOT NULL CHECK (amount > 0),
    currency        text NOT NULL,
    -- What the provider has given back, and what refunds under way may give back.
    amount_refunded bigint NOT NULL DEFAULT 0,
    refund_reserved bigint NOT NULL DEFAULT 0,
    decline_code    text,
    -- Where the buyer has to act while the status is requires_action.
    action_url      text,
    -- Where the latest dispute stands, if there was one.
    dispute         text CHECK (dispute IN ('open', 'won', 'lost')),
    -- The provider with its account and mode, and its id of the capture.
    provider        text NOT NULL,
    provider_id     text,
    -- Fencing token: the worker with the newest number holds the charge until lease_until.
    attempt         integer NOT NULL DEFAULT 1,
    lease_until     timestamptz NOT NULL,
    answer_status   integer,
    answer          bytea,
    -- Why all the money has to go back, if it has. The next try is at return_due. If money is owed
    -- and nothing is due or under way, an operator has to decide.
    owes            text CHECK (owes IN ('canceled', 'late')),
    return_tries    integer NOT NULL DEFAULT 0,
    return_due      timestamptz,
    -- When an operator ended the debt without a refund.
    owed_ended_at   timestamptz,
    created_at      timestamptz NOT NULL,
    -- By the database's clock: the age decides whether the provider still remembers the key.
    started_at      timestamptz NOT NULL DEFAULT now(),
    -- When the provider was last asked for the money.
    asked_at        timestamptz NOT NULL DEFAULT now(),
    -- When the outcome first became unknown.
    unknown_at      timestamptz,
    settled_at      timestamptz,
    CONSTRAINT charges_one_per_key UNIQUE (customer_id, idempotency_key),
    CONSTRAINT charges_one_per_capture UNIQUE (provider, provider_id),
    CONSTRAINT charges_refunds_within_capture CHECK (
        amount_refunded >= 0 AND refund_reserved >= 0 AND amount_refunded + refund_reserved <= amount),
    CONSTRAINT charges_settled CHECK ((status IN ('succeeded', 'declined')) = (settled_at IS NOT NULL)),
    CONSTRAINT charges_answer CHECK (num_nulls(answer, answer_status) <> 1 AND CASE
        WHEN status = 'declined' OR status = 'succeeded' AND pays THEN answer IS NOT NULL
        WHEN status = 'succeeded' THEN true
        ELSE answer IS NULL END),
    CONSTRAINT charges_action CHECK ((status = 'requires_action') = (action_url IS NOT NULL)),
    CONSTRAINT charges_not_paying_owes CHECK (pays OR owes IS NOT NULL)
);
CREATE UNIQUE INDEX charges_one_live_per_order ON charges (order_id) WHERE pays AND status <> 'declined';
CREATE INDEX charges_of_order ON charges (order_id);
CREATE INDEX charges_unsettled ON charges (lease_until) WHERE status IN ('pending', 'unknown', 'requires_action');
CREATE INDEX charges_owing ON charges (return_due)
    WHERE owes IS NOT NULL AND owed_ended_at IS NULL AND amount_refunded < amount;

-- Money on its way back. Inserting the row reserves its amount of the charge before the provider is
-- called, so concurrent refunds cannot exceed the capture. A refund without a customer was started
-- by the shop, or at the provider without us.
-- Promises: one refund per customer and key; one row per refund at the provider; a key that was
-- answered keeps its answer, also after a failure.
CREATE TABLE refunds (
    id              uuid PRIMARY KEY,
    charge_id       uuid NOT NULL REFERENCES charges,
    customer_id     uuid REFERENCES customers,
    idempotency_key text CHECK (octet_length(idempotency_key) BETWEEN 1 AND 255),
    fingerprint     bytea CHECK (octet_length(fingerprint) = 32),
    cause           text NOT NULL CHECK (cause IN ('requested', 'canceled', 'late', 'outside')),
    reason          text NOT NULL DEFAULT '',
    status          text NOT NULL CHECK (status IN ('pending', 'unknown', 'succeeded', 'failed')),
    amount          bigint NOT NULL CHECK (amount > 0),
    currency        text NOT NULL,
    failure_code    text,
    provider_id     text,
    -- Fencing token and lease, as in charges.
    attempt         integer NOT NULL DEFAULT 1,
    lease_until     timestamptz NOT NULL,
    -- Whether the provider refused a request that was not the first: an earlier one may still act.
    refused         boolean NOT NULL DEFAULT false,
    answer_status   integer,
    answer          bytea,
    created_at      timestamptz NOT NULL,
    started_at      timestamptz NOT NULL DEFAULT now(),
    -- When the provider was last asked for the refund.
    asked_at        timestamptz NOT NULL DEFAULT now(),
    -- When the outcome first became unknown.
    unknown_at      timestamptz,
    settled_at      timestamptz,
    CONSTRAINT refunds_one_per_key UNIQUE (customer_id, idempotency_key),
    CONSTRAINT refunds_one_per_provider_id UNIQUE (provider_id),
    CONSTRAINT refunds_key_has_meaning CHECK (num_nulls(idempotency_key, fingerprint) <> 1),
    CONSTRAINT refunds_settled CHECK ((status IN ('succeeded', 'failed')) = (settled_at IS NOT NULL)),
    CONSTRAINT refunds_answer CHECK (num_nulls(answer, answer_status) <> 1)
);
CREATE INDEX refunds_of_charge ON refunds (charge_id);
CREATE INDEX refunds_by_age ON refunds (started_at);
CREATE INDEX refunds_unsettled ON refunds (lease_until) WHERE status IN ('pending', 'unknown');

-- Objections of buyers at their banks.
-- Promise: one row per dispute at the provider; a closed one stays closed.
CREATE TABLE disputes (
    id         text PRIMARY KEY,
    charge_id  uuid NOT NULL REFERENCES charges,
    status     text NOT NULL CHECK (status IN ('open', 'won', 'lost')),
    amount     bigint NOT NULL,
    currency   text NOT NULL,
    opened_at  timestamptz NOT NULL DEFAULT now(),
    closed_at  timestamptz
);
CREATE INDEX disputes_of_charge ON disputes (charge_id);
CREATE INDEX disputes_open ON disputes (opened_at) WHERE status = 'open';

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

-- The inbox: events of the payment provider, stored before they are applied.
-- Promise: an event takes effect once, however often and in whatever order events arrive. A
-- quarantined event contradicts our records or cannot be understood; it changed nothing and waits
-- for an operator.
CREATE TABLE provider_events (
    id          text PRIMARY KEY,
    type        text NOT NULL,
    -- The charge that the event refers to. No foreign key: an event of a charge that does not exist
    -- is quarantined.
    charge_id   uuid,
    -- The body as it arrived, and what we understood of it, as JSON.
    payload     bytea NOT NULL,
    facts       bytea NOT NULL,
    state       text NOT NULL CHECK (state IN ('received', 'applied', 'quarantined', 'dismissed')),
    reason      text NOT NULL DEFAULT '',
    tries       integer NOT NULL DEFAULT 0,
    due_at      timestamptz NOT NULL DEFAULT now(),
    received_at timestamptz NOT NULL DEFAULT now(),
    applied_at  timestamptz
);
CREATE INDEX provider_events_of_charge ON provider_events (charge_id);
CREATE INDEX provider_events_due ON provider_events (due_at) WHERE state = 'received';
-- What may be deleted when it is old.
CREATE INDEX provider_events_ended ON provider_events (received_at) WHERE state IN ('applied', 'dismissed');
CREATE INDEX provider_events_quarantined ON provider_events (received_at) WHERE state = 'quarantined';

-- What operators decided by hand, with the reason or the evidence. Refunds and cancellations by
-- operators are rows of their own tables.
-- Promises: one action per operator's account and key; the row and the action's effect are in one
-- transaction; no statement changes a row.
CREATE TABLE operator_actions (
    id              uuid PRIMARY KEY,
    customer_id     uuid NOT NULL REFERENCES customers,
    -- The operator's name at that time.
    operator        text NOT NULL CHECK (operator <> ''),
    idempotency_key text NOT NULL CHECK (octet_length(idempotency_key) BETWEEN 1 AND 255),
    fingerprint     bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    action          text NOT NULL,
    -- The id of the charge, refund, dispute or event.
    subject         text NOT NULL,
    -- The order that it belongs to. An event may belong to none.
    order_id        uuid REFERENCES orders,
    reason          text NOT NULL CHECK (reason <> ''),
    answer          bytea NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT operator_actions_one_per_key UNIQUE (customer_id, idempotency_key)
);
CREATE INDEX operator_actions_of_order ON operator_actions (order_id);

-- +goose Down
DROP TABLE operator_actions, provider_events, cancellations, disputes, refunds, charges;
