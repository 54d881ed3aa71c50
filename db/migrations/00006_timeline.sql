-- +goose Up

-- Duplicates that were stopped, for an order's timeline: requests, events and workers, with the
-- layer that stopped them and how often.
-- Promise: none, and no decision depends on them. Rows are written in batches after the fact. They
-- are lost when a node dies, when the database is down, or when more arrive at once than a node
-- keeps. They are deleted when they are old.
CREATE TABLE stopped_twins (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The order, charge, refund or outbox event that was duplicated.
    subject    uuid NOT NULL,
    -- A timeline.Kind. The facts that the kind does not have are empty.
    kind       text NOT NULL,
    operation  text NOT NULL,
    event_id   text NOT NULL,
    event_type text NOT NULL,
    attempt    integer NOT NULL,
    times      integer NOT NULL,
    -- By the clock of the node that saw the first of them.
    at         timestamptz NOT NULL
);
CREATE INDEX stopped_twins_of_subject ON stopped_twins (subject);
CREATE INDEX stopped_twins_by_age ON stopped_twins (at);

-- +goose Down
DROP TABLE stopped_twins;
