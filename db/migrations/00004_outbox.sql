-- +goose Up

-- Events, written in the transaction of the change they report and published later by the relay.
-- Promise: one row per event id, which is the message id at the broker. An event exists if and only
-- if its change does: both commit together.
CREATE TABLE outbox (
    id            uuid PRIMARY KEY,
    type          text NOT NULL,
    order_id      uuid NOT NULL,
    payload       jsonb NOT NULL,
    -- The span that made the change, by W3C Trace Context. It is empty if nothing was traced.
    traceparent   text NOT NULL DEFAULT '',
    created_at    timestamptz NOT NULL DEFAULT now(),
    -- A relay has claimed the row until this time, which is also the claim's fencing token. It
    -- holds no lock while it publishes.
    claimed_until timestamptz NOT NULL DEFAULT '-infinity',
    -- Tries that failed because of the event. Each puts claimed_until further off.
    failures      integer NOT NULL DEFAULT 0,
    sent_at       timestamptz,
    stream_seq    bigint,
    -- What a broker compares that compares numbers. It is given by the first claim and stays until
    -- the broker has the event. See outbox_numbering.
    number        bigint
);
CREATE INDEX outbox_unsent ON outbox (id) WHERE sent_at IS NULL;
CREATE INDEX outbox_failed ON outbox (id) WHERE sent_at IS NULL AND failures > 0;
CREATE INDEX outbox_of_order ON outbox (order_id);
CREATE UNIQUE INDEX outbox_numbered ON outbox (number) WHERE sent_at IS NULL AND number IS NOT NULL;

-- The highest number that an event was given, and how often a relay became the publisher. A claim
-- locks the row until it commits, so an event that gets a higher number than another can be seen
-- only when the other can. A sequence does not promise that.
-- Promise: a number is given once, only grows, and is given by the latest publisher.
CREATE TABLE outbox_numbering (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    last      bigint NOT NULL DEFAULT 0,
    publisher bigint NOT NULL DEFAULT 0
);
INSERT INTO outbox_numbering DEFAULT VALUES;

-- A loss of the broker that is being mended: it holds the numbers from first_held to last_held, and
-- each event with another number that was sent until sent_until is lost. Relays look at one slice
-- of the outbox at a time, up to done_to so far.
-- Promise: one mend at a time, which survives the relay that began it.
CREATE TABLE outbox_mend (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    first_held bigint NOT NULL,
    last_held  bigint NOT NULL,
    sent_until timestamptz NOT NULL,
    done_to    uuid NOT NULL,
    resent     bigint NOT NULL DEFAULT 0
);

-- Events that were sent may be deleted when they are old: `shop check` expects those of all orders
-- that were placed since this time, and of the others only those that are there.
-- Promise: the time only grows, and is written before the first deletion up to it.
CREATE TABLE outbox_kept (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    since timestamptz NOT NULL
);

-- How often an event failed in a consumer, by its place in the stream. A stream that was lost
-- begins again at number 1, so the time is part of the place. The row goes when the event is
-- handled or becomes a dead letter.
-- Promise: the count survives nodes and restarts.
CREATE TABLE consumer_failures (
    consumer   text NOT NULL,
    stream_seq bigint NOT NULL,
    stored_at  timestamptz NOT NULL,
    failures   integer NOT NULL DEFAULT 1,
    failed_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, stream_seq, stored_at)
);

-- +goose Down
DROP TABLE consumer_failures;
DROP TABLE outbox_kept;
DROP TABLE outbox_mend;
DROP TABLE outbox_numbering;
DROP TABLE outbox;
