-- +goose Up

-- Mail sent for an order. The row is the claim (attempt and lease) and the record (sent_at).
-- Promise: one mail of a kind per order. The worker with the newest attempt may send it until
-- lease_until.
CREATE TABLE receipts (
    order_id    uuid NOT NULL REFERENCES orders,
    kind        text NOT NULL CHECK (kind IN ('paid')),
    attempt     integer NOT NULL DEFAULT 1,
    lease_until timestamptz NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    sent_at     timestamptz,
    PRIMARY KEY (order_id, kind)
);

-- +goose Down
DROP TABLE receipts;
