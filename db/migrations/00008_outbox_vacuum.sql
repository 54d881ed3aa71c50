-- +goose Up

-- A row is updated twice soon after it was written, and then stays as it is: room on its page keeps
-- the versions together, and claiming touches no index. Vacuum comes by what has changed, not by
-- how large the table is: a fifth of a table that only grows is ever more to clean up at once.
ALTER TABLE outbox SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 10000,
  autovacuum_analyze_scale_factor = 0.02);

-- +goose Down
ALTER TABLE outbox RESET (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold,
  autovacuum_analyze_scale_factor);
