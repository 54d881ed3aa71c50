-- +goose Up

-- Mails that an order caused. The row is the claim (attempt and lease) and the record (sent_at).
-- Promise: one mail of a kind per order; whoever holds the newest attempt may send until
-- lease_until.
CREATE TABLE receipts (
    order_id    uuid NOT NULL REFERENCES orders,
    kind        text NOT NULL CHECK (kind IN ('paid')),
    attempt     integer NOT NULL DEFAULT 1,
    lease_until timestamptz NOT NULL,
    sent_at     timestamptz,
    PRIMARY KEY (order_id, kind)
);

-- +goose Down
DROP TABLE receipts;
