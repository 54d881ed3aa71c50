-- +goose Up

-- Mail sent for an order. The row is the claim (attempt and lease), the record (sent_at) and the
-- schedule (due_at) in one: a receipt with a row needs no event any more.
-- Promise: one mail of a kind per order. The worker with the newest attempt may send it until
-- lease_until. It is sent, it is a dead letter, or it is due at a known time.
CREATE TABLE receipts (
    order_id    uuid NOT NULL REFERENCES orders,
    kind        text NOT NULL CHECK (kind IN ('paid')),
    attempt     integer NOT NULL DEFAULT 1,
    lease_until timestamptz NOT NULL,
    -- No try begins before this time. It moves into the future with each failure.
    due_at      timestamptz NOT NULL DEFAULT now(),
    -- Tries that failed because of the message or its recipient, and the last reason.
    failures    integer NOT NULL DEFAULT 0,
    last_error  text,
    paid_at     timestamptz NOT NULL DEFAULT now(),
    created_at  timestamptz NOT NULL DEFAULT now(),
    sent_at     timestamptz,
    -- The receipt is a dead letter since this time: only an operator has it tried again.
    dead_at     timestamptz,
    PRIMARY KEY (order_id, kind),
    CHECK (sent_at IS NULL OR dead_at IS NULL)
);
-- New receipts and those that failed before are two queues.
CREATE INDEX receipts_due ON receipts ((failures > 0), due_at) WHERE sent_at IS NULL AND dead_at IS NULL;
CREATE INDEX receipts_dead ON receipts (order_id) WHERE dead_at IS NOT NULL;

-- +goose Down
DROP TABLE receipts;
