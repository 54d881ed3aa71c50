-- What is open about money, for the metrics. Each count steps through a partial index of open rows.

-- name: CountOpen :one
SELECT
    (SELECT count(*) FROM charges
     WHERE status IN ('pending', 'unknown', 'requires_action') AND status = 'unknown') AS unknown_charges,
    (SELECT coalesce(extract(epoch FROM now() - min(unknown_at)), 0)::float8 FROM charges
     WHERE status IN ('pending', 'unknown', 'requires_action') AND status = 'unknown') AS oldest_charge_seconds,
    (SELECT count(*) FROM refunds WHERE status IN ('pending', 'unknown')) AS open_refunds,
    (SELECT coalesce(extract(epoch FROM now() - min(started_at)), 0)::float8 FROM refunds
     WHERE status IN ('pending', 'unknown')) AS oldest_refund_seconds,
    (SELECT count(*) FROM charges
     WHERE owes IS NOT NULL AND owed_ended_at IS NULL AND amount_refunded < amount
       AND dispute IS DISTINCT FROM 'lost') AS owed,
    (SELECT count(*) FROM charges
     WHERE owes IS NOT NULL AND owed_ended_at IS NULL AND amount_refunded < amount
       AND dispute IS DISTINCT FROM 'lost' AND return_due IS NULL
       AND amount_refunded + refund_reserved < amount) AS owed_for_operators,
    (SELECT count(*) FROM provider_events WHERE state = 'received') AS events_waiting,
    (SELECT count(*) FROM provider_events WHERE state = 'quarantined') AS events_quarantined;
