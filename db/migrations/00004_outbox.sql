-- +goose Up

-- Events, written in the transaction of the change they report and published later by the relay.
-- Promise: one row per event id, which is the message id at the broker. An event exists if and only
-- if its change does: both commit together.
CREATE TABLE outbox (
    id            uuid PRIMARY KEY,
    type          text NOT NULL,
    order_id      uuid NOT NULL,
    payload       jsonb NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    -- A relay has claimed the row until this time. It holds no lock while it publishes.
    claimed_until timestamptz NOT NULL DEFAULT '-infinity',
    sent_at       timestamptz,
    stream_seq    bigint
);
CREATE INDEX outbox_unsent ON outbox (id) WHERE sent_at IS NULL;
CREATE INDEX outbox_of_order ON outbox (order_id);

-- +goose Down
DROP TABLE outbox;
