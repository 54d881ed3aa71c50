-- What Latency measures a UNIQUE key with: one row for each decision, deleted after the
-- measurement.
CREATE TABLE IF NOT EXISTS decisions (key text PRIMARY KEY);
