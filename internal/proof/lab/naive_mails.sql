-- An outbox without a claim: what is not marked as sent is published.
CREATE TABLE IF NOT EXISTS paid_events (
    order_id uuid PRIMARY KEY,
    run      text NOT NULL,
    sent_at  timestamptz
);
CREATE INDEX IF NOT EXISTS paid_events_of_run ON paid_events (run);
