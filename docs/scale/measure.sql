-- What a paid order costs Postgres 15 to 17:
--   ORDERS=900 psql "$DATABASE_URL" -f docs/scale/measure.sql
\set QUIET on
CREATE TEMP VIEW counters AS
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') AS wal, w.wal_fpi AS pages, w.wal_sync AS syncs,
       (SELECT count(*) FROM orders WHERE status = 'paid') AS paid,
       (SELECT sum(pg_table_size(relid)) FROM pg_stat_user_tables) AS tables,
       (SELECT sum(pg_indexes_size(relid)) FROM pg_stat_user_tables) AS indexes,
       (SELECT sum(c.reltuples) FROM pg_stat_user_indexes JOIN pg_class c ON c.oid = indexrelid) AS entries,
       (SELECT sum(n_tup_ins) FROM pg_stat_user_tables) AS inserted,
       (SELECT sum(n_tup_upd) FROM pg_stat_user_tables) AS updated,
       (SELECT sum(n_tup_hot_upd) FROM pg_stat_user_tables) AS hot
FROM pg_stat_wal w;
VACUUM ANALYZE;
SELECT pg_sleep(11), pg_stat_clear_snapshot(); -- until every session has reported
CREATE TEMP TABLE before AS SELECT clock_timestamp() AS at, * FROM counters;
\! docs/scale/orders.sh $ORDERS
CREATE TEMP TABLE loaded AS SELECT clock_timestamp() AS at, wal, syncs FROM counters;
SELECT pg_sleep(11), pg_stat_clear_snapshot(); -- until every session has reported
CREATE TEMP TABLE written AS SELECT * FROM counters;
VACUUM ANALYZE;
SELECT pg_sleep(11), pg_stat_clear_snapshot(); -- until every session has reported
\x on
SELECT a.paid - b.paid AS "paid orders",
       round((a.paid - b.paid) / extract(epoch FROM l.at - b.at), 1) AS "a second",
       round((a.tables - b.tables) / (a.paid - b.paid)) AS "table bytes an order",
       round((a.indexes - b.indexes) / (a.paid - b.paid)) AS "index bytes an order",
       round(((a.entries - b.entries) / (a.paid - b.paid))::numeric, 1) AS "index entries an order",
       round((w.wal - b.wal) / (a.paid - b.paid)) AS "WAL bytes an order",
       round((w.pages - b.pages) / (a.paid - b.paid)::numeric, 2) AS "of these, whole pages (8 kB)",
       round((w.syncs - b.syncs) / (a.paid - b.paid)::numeric, 2) AS "WAL flushes an order",
       round((w.inserted - b.inserted) / (a.paid - b.paid)::numeric, 1) AS "rows inserted an order",
       round((w.updated - b.updated) / (a.paid - b.paid)::numeric, 1) AS "rows updated an order",
       round((w.hot - b.hot) / (a.paid - b.paid)::numeric, 1) AS "of these, without an index entry"
FROM before b, loaded l, written w, counters a;
