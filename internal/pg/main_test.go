package pg_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// soon bounds what must happen, on any machine.
const soon = 20 * time.Second

func TestMain(m *testing.M) { shoptest.Main(m) }

// setup returns a pool on a database with the table things, and its address.
func setup(t *testing.T) (*pgxpool.Pool, string) {
	t.Helper()
	url := shoptest.DatabaseURL(t)
	pool := shoptest.Pool(t, url)
	exec(t, pool, `CREATE TABLE things (name text PRIMARY KEY, value int NOT NULL DEFAULT 0)`)
	return pool, url
}

// open returns a pool of at most so many connections.
func open(t *testing.T, url string, maxConns int32) *pgxpool.Pool {
	t.Helper()
	pool, err := pg.Open(t.Context(), url, maxConns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func exec(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// query returns the one value that the statement selects.
func query[T any](t *testing.T, pool *pgxpool.Pool, sql string, args ...any) (value T) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func wantThings(t *testing.T, pool *pgxpool.Pool, want int) {
	t.Helper()
	if got := query[int](t, pool, `SELECT count(*) FROM things`); got != want {
		t.Errorf("%d things are stored, want %d", got, want)
	}
}

func timeout(t *testing.T, after time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), after)
	t.Cleanup(cancel)
	return ctx
}
