-- +goose Up

-- Requests, events and workers that came a second time and were stopped, by which layer and how
-- often, for an order's timeline. Promise: none. Rows are written in batches, after the fact, and
-- are lost when a node dies, the database is away or more come at once than are kept; nothing is
-- decided by them. They are deleted after 90 days.
CREATE TABLE stopped_twins (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The order, charge, refund or outbox event that there was to be a second one of.
    subject uuid NOT NULL,
    layer   text NOT NULL,
    detail  text NOT NULL,
    times   integer NOT NULL,
    -- By the clock of the node that saw the first of them.
    at      timestamptz NOT NULL
);
CREATE INDEX stopped_twins_of_subject ON stopped_twins (subject);
CREATE INDEX stopped_twins_by_age ON stopped_twins (at);

-- When nobody knew the outcome, for the first time.
ALTER TABLE charges ADD COLUMN unknown_at timestamptz;
ALTER TABLE refunds ADD COLUMN unknown_at timestamptz;

-- The charge that the event says it is about. It need not exist: such an event is quarantined.
ALTER TABLE provider_events ADD COLUMN charge_id uuid;
CREATE INDEX provider_events_of_charge ON provider_events (charge_id);

ALTER TABLE receipts ADD COLUMN created_at timestamptz NOT NULL DEFAULT now();
UPDATE receipts SET created_at = sent_at WHERE sent_at IS NOT NULL;

-- +goose Down
ALTER TABLE receipts DROP COLUMN created_at;
DROP INDEX provider_events_of_charge;
ALTER TABLE provider_events DROP COLUMN charge_id;
ALTER TABLE refunds DROP COLUMN unknown_at;
ALTER TABLE charges DROP COLUMN unknown_at;
DROP TABLE stopped_twins;
