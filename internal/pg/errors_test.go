package pg_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// statement runs one that must fail with the code.
func statement(want, sql string) func(*testing.T, *pgxpool.Pool, string) error {
	return func(t *testing.T, pool *pgxpool.Pool, _ string) error {
		t.Helper()
		_, err := pool.Exec(t.Context(), sql)
		if code(err) != want {
			t.Errorf("%s: got %v, want code %s", sql, err, want)
		}
		return err
	}
}

func TestIsUnavailable(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err  func(t *testing.T, pool *pgxpool.Pool, url string) error
		want bool
	}{
		"no error": {want: false, err: func(*testing.T, *pgxpool.Pool, string) error { return nil }},
		"an error of our own": {want: false, err: func(*testing.T, *pgxpool.Pool, string) error {
			return errors.New("conn closed")
		}},
		"no rows": {want: false, err: func(*testing.T, *pgxpool.Pool, string) error {
			return pgx.ErrNoRows
		}},
		"a unique violation": {want: false, err: statement("23505", `INSERT INTO things VALUES ('a'), ('a')`)},
		"a check violation": {want: false,
			err: statement("23514", `ALTER TABLE things ADD CHECK (false); INSERT INTO things VALUES ('a')`)},
		"a wrong statement": {want: false, err: statement("42601", `SELEC 1`)},
		"a missing table":   {want: false, err: statement("42P01", `SELECT FROM nothing`)},
		"a statement timeout": {want: true,
			err: statement("57014", `SET statement_timeout = 20; SELECT pg_sleep(60)`)},
		"a read-only database": {want: true,
			err: statement("25006", `SET transaction_read_only = on; INSERT INTO things VALUES ('a')`)},
		"a full disk": {want: true,
			err: statement("53100", `DO $$ BEGIN RAISE 'full' USING ERRCODE = '53100'; END $$`)},
		"an admin shutdown":    {want: true, err: statement("57P01", `SELECT pg_terminate_backend(pg_backend_pid())`)},
		"a lock timeout":       {want: true, err: lockTimeout},
		"a killed session":     {want: true, err: killed},
		"a session that idled": {want: true, err: idled},
		"a cut connection":     {want: true, err: cutAnswer(loseAnswer, io.ErrUnexpectedEOF)},
		"a reset connection":   {want: true, err: cutAnswer(reset, syscall.ECONNRESET)},
		"no such database":     {want: true, err: noDatabase},
		"a closed connection":  {want: true, err: closedConnection},
		"a closed pool":        {want: true, err: closedPool},
		"an exhausted pool":    {want: true, err: exhaustedPool},
		"no server":            {want: true, err: noServer},
		"a silent server":      {want: true, err: silentServer},
		"a deadline":           {want: true, err: deadline},
		"a client that left":   {want: false, err: clientLeft},
		"an unknown commit": {want: true, err: func(*testing.T, *pgxpool.Pool, string) error {
			return fmt.Errorf("place: %w", pg.ErrCommitUnknown)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, url := setup(t)
			err := test.err(t, pool, url)
			if got := pg.IsUnavailable(err); got != test.want {
				t.Errorf("IsUnavailable(%v) = %t, want %t", err, got, test.want)
			}
			if err != nil && pg.IsUnavailable(fmt.Errorf("wrapped: %w", err)) != test.want {
				t.Errorf("%v is judged differently when it is wrapped", err)
			}
		})
	}
}

// cutAnswer is a statement in whose middle the connection is lost.
func cutAnswer(by fault, want error) func(*testing.T, *pgxpool.Pool, string) error {
	return func(t *testing.T, _ *pgxpool.Pool, url string) error {
		t.Helper()
		// The name is what the proxy waits for.
		err := shoptest.Pool(t, startProxy(t, url, by)).QueryRow(t.Context(), `SELECT 1 AS commit`).Scan(new(int))
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		return err
	}
}

func noDatabase(t *testing.T, _ *pgxpool.Pool, url string) error {
	t.Helper()
	_, err := shoptest.Pool(t, url+"&dbname=nothing").Exec(t.Context(), `SELECT 1`)
	if code(err) != "3D000" {
		t.Errorf("got %v, want code 3D000", err)
	}
	return err
}

func lockTimeout(t *testing.T, pool *pgxpool.Pool, _ string) error {
	t.Helper()
	exec(t, pool, insertThing)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // only the lock counts
	if _, err := tx.Exec(t.Context(), `SELECT FROM things FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	return statement("55P03", `SELECT FROM things FOR UPDATE NOWAIT`)(t, pool, "")
}

// acquire takes a connection out of the pool, with the id of its session.
func acquire(t *testing.T, pool *pgxpool.Pool) (*pgxpool.Conn, uint32) {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Release)
	return conn, conn.Conn().PgConn().PID()
}

func awaitEnd(t *testing.T, pool *pgxpool.Pool, session uint32) {
	t.Helper()
	shoptest.Eventually(t, soon, "the session ends", func() bool {
		return query[int](t, pool, `SELECT count(*) FROM pg_stat_activity WHERE pid = $1`, session) == 0
	})
}

func killed(t *testing.T, pool *pgxpool.Pool, _ string) error {
	t.Helper()
	conn, session := acquire(t, pool)
	exec(t, pool, `SELECT pg_terminate_backend($1)`, session)
	awaitEnd(t, pool, session)
	_, err := conn.Exec(t.Context(), `SELECT 1`)
	if err == nil {
		t.Error("a killed session answers")
	}
	return err
}

func idled(t *testing.T, pool *pgxpool.Pool, _ string) error {
	t.Helper()
	conn, session := acquire(t, pool)
	if _, err := conn.Exec(t.Context(), `SET idle_in_transaction_session_timeout = 20; BEGIN`); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, pool, session)
	_, err := conn.Exec(t.Context(), `SELECT 1`)
	if code(err) != "25P03" {
		t.Errorf("got %v, want code 25P03", err)
	}
	return err
}

// closedConnection is what a transaction meets that goes on after its connection was lost.
func closedConnection(t *testing.T, pool *pgxpool.Pool, _ string) error {
	t.Helper()
	conn, _ := acquire(t, pool)
	if _, err := conn.Exec(timeout(t, 20*time.Millisecond), `SELECT pg_sleep(60)`); err == nil {
		t.Error("the statement was not cut")
	}
	_, err := conn.Exec(t.Context(), `SELECT 1`)
	if !errors.Is(err, pgconn.ErrConnClosed) {
		t.Errorf("got %v, want ErrConnClosed", err)
	}
	return err
}

func closedPool(t *testing.T, pool *pgxpool.Pool, _ string) error {
	t.Helper()
	pool.Close()
	_, err := pool.Exec(t.Context(), `SELECT 1`)
	return err
}

func exhaustedPool(t *testing.T, _ *pgxpool.Pool, url string) error {
	t.Helper()
	pool := open(t, url, 1)
	acquire(t, pool)
	_, err := pool.Exec(timeout(t, 20*time.Millisecond), `SELECT 1`)
	return err
}

func noServer(t *testing.T, _ *pgxpool.Pool, _ string) error {
	t.Helper()
	_, err := open(t, "postgres://shop@"+shoptest.FreeAddr(t)+"/shop?sslmode=disable", 1).Exec(t.Context(), `SELECT 1`)
	return err
}

func silentServer(t *testing.T, _ *pgxpool.Pool, _ string) error {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() }) // the kernel accepts connections all the same
	pool := open(t, "postgres://shop@"+listener.Addr().String()+"/shop?sslmode=disable", 1)
	begun := time.Now()
	_, err = pool.Exec(timeout(t, 20*time.Millisecond), `SELECT 1`)
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the deadline of 20ms was heeded after %s", took)
	}
	return err
}

func deadline(t *testing.T, pool *pgxpool.Pool, _ string) error {
	t.Helper()
	_, err := pool.Exec(timeout(t, 20*time.Millisecond), `SELECT pg_sleep(60)`)
	return err
}

func clientLeft(t *testing.T, pool *pgxpool.Pool, _ string) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := pool.Exec(ctx, `SELECT 1`)
	return err
}
