package pg_test

import (
	"context"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/onceshop/onceshop/db/migrations"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

var empties atomic.Int64

// emptyDatabase returns the address of a database without any table.
func emptyDatabase(t *testing.T) string {
	t.Helper()
	address := shoptest.DatabaseURL(t)
	name := fmt.Sprintf("empty_%d", empties.Add(1))
	admin := shoptest.Pool(t, address)
	exec(t, admin, `CREATE DATABASE `+name)
	t.Cleanup(func() {
		if _, err := admin.Exec(context.WithoutCancel(t.Context()), `DROP DATABASE `+name+` WITH (FORCE)`); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

// versions are those of the migrations in the binary, in order.
func versions(t *testing.T) (all []int64) {
	t.Helper()
	files, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil || len(files) == 0 {
		t.Fatalf("no migrations: %v", err)
	}
	for _, file := range files {
		version, err := goose.NumericComponent(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, version)
	}
	return all
}

// wantMigrated fails unless every migration is applied, or none.
func wantMigrated(t *testing.T, pool *pgxpool.Pool, want bool) {
	t.Helper()
	if got, err := pg.IsMigrated(t.Context(), pool); err != nil || got != want {
		t.Errorf("migrated: %t, %v; want %t", got, err, want)
	}
	status, err := pg.MigrationStatus(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	var listed []int64
	for _, m := range status {
		listed = append(listed, m.Version)
		if m.Applied != want || !strings.HasPrefix(m.File, fmt.Sprintf("%05d_", m.Version)) {
			t.Errorf("migration %+v, want applied: %t", m, want)
		}
	}
	if !slices.Equal(listed, versions(t)) {
		t.Errorf("versions %v are listed, want %v", listed, versions(t))
	}
}

func TestMigrateFourAtOnce(t *testing.T) {
	t.Parallel()
	address := emptyDatabase(t)
	nodes := make([]*pgxpool.Pool, 4)
	for i := range nodes {
		nodes[i] = shoptest.Pool(t, address)
	}
	wantMigrated(t, nodes[0], false)
	applied := shoptest.Race(len(nodes), func(i int) []int64 {
		versions, err := pg.Migrate(t.Context(), nodes[i])
		if err != nil {
			t.Errorf("node %d: %v", i, err)
		}
		return versions
	})
	if all := slices.Concat(applied...); !slices.Equal(all, versions(t)) {
		t.Errorf("applied were %v, want each of %v once", applied, versions(t))
	}
	wantMigrated(t, nodes[1], true)
	if again, err := pg.Migrate(t.Context(), nodes[2]); err != nil || len(again) != 0 {
		t.Errorf("migrating again applied %v, %v", again, err)
	}
}

func TestMigrationsGoDownAndUp(t *testing.T) {
	t.Parallel()
	pool := shoptest.DB(t)
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS)
	if err != nil {
		t.Fatal(err)
	}
	fresh := schema(t, pool)
	if len(fresh) == 0 {
		t.Fatal("the migrated database has no schema")
	}
	// One step at a time, each way: a step must undo exactly itself.
	for _, version := range slices.Backward(versions(t)) {
		before := schema(t, pool)
		for _, direction := range []bool{false, true} {
			if _, err := provider.ApplyVersion(t.Context(), version, direction); err != nil {
				t.Fatalf("version %d, up: %t: %v", version, direction, err)
			}
		}
		if after := schema(t, pool); !slices.Equal(after, before) {
			t.Errorf("version %d down and up makes %s, want %s", version, after, before)
		}
		if _, err := provider.ApplyVersion(t.Context(), version, false); err != nil {
			t.Fatal(err)
		}
	}
	if left := schema(t, pool); len(left) != 0 {
		t.Errorf("going down to nothing leaves %s", left)
	}
	if _, err := pg.Migrate(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if again := schema(t, pool); !slices.Equal(again, fresh) {
		t.Errorf("down and up again makes %s, want %s", again, fresh)
	}
}

// schema describes all columns, constraints, indexes, storage settings, functions, triggers and
// types but goose's own.
func schema(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	return query[[]string](t, pool, `
		WITH ours AS (
			SELECT oid, relname, reloptions FROM pg_class
			WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'goose_db_version%'
		), parts AS (
			SELECT format('%s.%s %s %s %s', relname, attname, format_type(atttypid, atttypmod), attnotnull,
				pg_get_expr(adbin, adrelid)) part
			FROM ours JOIN pg_attribute ON attrelid = ours.oid AND attnum > 0 AND NOT attisdropped
			LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
			UNION ALL SELECT format('%s %s', relname, pg_get_constraintdef(c.oid)) FROM ours
				JOIN pg_constraint c ON conrelid = ours.oid
			UNION ALL SELECT format('%s %s', relname, reloptions) FROM ours WHERE reloptions IS NOT NULL
			UNION ALL SELECT indexdef FROM pg_indexes JOIN ours ON tablename = relname WHERE schemaname = 'public'
			UNION ALL SELECT pg_get_triggerdef(g.oid) FROM ours JOIN pg_trigger g ON tgrelid = ours.oid
				AND NOT tgisinternal
			UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
			UNION ALL SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typrelid = 0
				AND typelem = 0
		)
		SELECT coalesce(array_agg(part ORDER BY part), '{}') FROM parts`)
}

// A migration needs a table that a long report reads and that buyers write. The buyers hardly wait,
// the migration ends once the report has, and an index is built beside them without any time-out.
func TestMigrateUnderLoad(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	pool := shoptest.Pool(t, emptyDatabase(t))
	exec(t, pool, `CREATE TABLE big AS SELECT n FROM generate_series(1, 1000000) n`)
	files := fstest.MapFS{
		"00001_column.sql": {Data: []byte("-- +goose Up\nALTER TABLE big ADD COLUMN note text;")},
		"00002_index.sql": {Data: []byte("-- +goose NO TRANSACTION\n-- +goose Up\nSET lock_timeout = 0;\n" +
			"DROP INDEX CONCURRENTLY IF EXISTS big_n;\nCREATE INDEX CONCURRENTLY big_n ON big (n);\n" +
			"RESET lock_timeout;")},
	}
	report := begin(t, pool, `SELECT FROM big LIMIT 1`)
	snapshot := begin(t, pool, `SELECT FROM pg_class LIMIT 1`)
	longest, stop := write(t, pool)

	migrated := make(chan error, 1)
	go func() {
		applied, err := pg.MigrateFiles(t.Context(), pool, files)
		if err == nil && !slices.Equal(applied, []int64{1, 2}) {
			err = fmt.Errorf("applied %v", applied)
		}
		migrated <- err
	}()
	for range 3 { // each try waits for the report and makes room for the buyers
		for _, waits := range []bool{true, false} {
			shoptest.Eventually(t, time.Minute, "the migration tries again", func() bool {
				return waits == query[bool](t, pool, `SELECT EXISTS (SELECT FROM pg_locks
					WHERE relation = 'big'::regclass AND mode = 'AccessExclusiveLock' AND NOT granted)`)
			})
		}
	}
	report()
	shoptest.Eventually(t, time.Minute, "the index waits longer than a lock may be waited for", func() bool {
		return query[bool](t, pool, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%'
			AND wait_event = 'virtualxid' AND query_start < now() - interval '1 second')`)
	})
	snapshot()
	if err := <-migrated; err != nil {
		t.Error(err)
	}
	stop()
	t.Logf("the longest write took %s", *longest)
	if *longest > 2*time.Second {
		t.Errorf("a write waited %s", *longest)
	}
	if !query[bool](t, pool, `SELECT bool_and(indisvalid) FROM pg_index WHERE indrelid = 'big'::regclass`) {
		t.Error("the index is not valid")
	}
}

// begin holds a transaction open that has run the statement, until end is called.
func begin(t *testing.T, pool *pgxpool.Pool, statement string) (end func()) {
	t.Helper()
	tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err == nil {
		_, err = tx.Exec(t.Context(), "SET LOCAL idle_in_transaction_session_timeout = 0")
	}
	if err == nil {
		_, err = tx.Exec(t.Context(), statement)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}
}

// write inserts rows until stop is called. The longest wait may be read afterwards.
func write(t *testing.T, pool *pgxpool.Pool) (longest *time.Duration, stop func()) {
	t.Helper()
	longest = new(time.Duration)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			began := time.Now()
			if _, err := pool.Exec(t.Context(), `INSERT INTO big (n) VALUES (0)`); err != nil {
				t.Errorf("a write failed: %v", err)
			}
			*longest = max(*longest, time.Since(began))
			select {
			case <-end:
				return
			default:
			}
		}
	}()
	return longest, func() {
		close(end)
		<-ended
	}
}

// A fork numbers its own files above those of later releases, which are still applied.
func TestMigrateBelowTheFork(t *testing.T) {
	t.Parallel()
	pool := shoptest.Pool(t, emptyDatabase(t))
	files := fstest.MapFS{"10001_kettle.sql": {Data: []byte("-- +goose Up\nCREATE TABLE kettles ();")}}
	if applied, err := pg.MigrateFiles(t.Context(), pool, files); err != nil || !slices.Equal(applied, []int64{10001}) {
		t.Fatalf("applied %v, %v", applied, err)
	}
	files["00008_release.sql"] = &fstest.MapFile{Data: []byte("-- +goose Up\nCREATE TABLE releases ();")}
	if applied, err := pg.MigrateFiles(t.Context(), pool, files); err != nil || !slices.Equal(applied, []int64{8}) {
		t.Errorf("applied %v after a release, %v", applied, err)
	}
}
