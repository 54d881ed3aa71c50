package pg_test

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestOpenBoundsItsSessions(t *testing.T) {
	t.Parallel()
	pool, _ := setup(t)
	for setting, want := range map[string]string{
		"application_name":                    "onceshop",
		"statement_timeout":                   "30s",
		"idle_in_transaction_session_timeout": "15s",
	} {
		if got := query[string](t, pool, `SELECT current_setting($1)`, setting); got != want {
			t.Errorf("%s is %q, want %q", setting, got, want)
		}
	}
}

// What DATABASE_URL says wins over the shop's defaults, in both of its notations.
func TestURLWins(t *testing.T) {
	t.Parallel()
	own, _ := setup(t)
	base := own.Config().ConnString()
	given := "application_name=mine&statement_timeout=7s&idle_in_transaction_session_timeout=8s&lock_timeout=3s" +
		"&pool_max_conns=3&connect_timeout=2&search_path=pg_temp&enable_seqscan=on" +
		"&plan_cache_mode=auto"
	escape, join := strings.NewReplacer(" ", "%20", "=", "%3D"), "?"
	if strings.Contains(base, "?") {
		join = "&"
	}
	for name, url := range map[string]string{
		"parameters": base + join + given,
		"options": base + join + "pool_max_conns=3&connect_timeout=2&options=" + escape.Replace(
			"-c application_name=mine -c statement_timeout=7s -c idle_in_transaction_session_timeout=8s "+
				"-c lock_timeout=3s -c search_path=pg_temp -c enable_seqscan=on -c plan_cache_mode=auto"),
	} {
		pool, err := pg.Open(t.Context(), url, 16)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		for setting, want := range map[string]string{"application_name": "mine", "statement_timeout": "7s",
			"idle_in_transaction_session_timeout": "8s", "lock_timeout": "3s", "search_path": "pg_temp",
			"enable_seqscan": "on", "enable_hashjoin": "off",
			"plan_cache_mode": "auto"} {
			if got := query[string](t, pool, `SELECT current_setting($1)`, setting); got != want {
				t.Errorf("%s: %s is %q, want %q", name, setting, got, want)
			}
		}
		if config := pool.Config(); config.MaxConns != 3 || config.ConnConfig.ConnectTimeout != 2*time.Second {
			t.Errorf("%s: %d connections, %s", name, config.MaxConns, config.ConnConfig.ConnectTimeout)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"postgres://shop:s3cret@h:port/shop",
		"postgres://shop:s3cret@h/shop?sslmode=maybe",
		"host=h user=shop password=s3cret port=none",
		"http://shop:s3cret@h/shop",
		"postgres://shop:s3cret@h/shop?default_query_exec_mode=exec",
		"postgres://shop:s3cret@h/shop?default_query_exec_mode=simple_protocol",
	} {
		pool, err := pg.Open(t.Context(), url, 1)
		if err == nil {
			pool.Close()
			t.Errorf("%s is accepted", url)
			continue
		}
		if !strings.Contains(err.Error(), "DATABASE_URL") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the error is %q, want one that names the setting and gives nothing away", err)
		}
	}
}

// After a fail-over the pool's sessions lead to a server that takes no writes any more. One request
// fails, the others get new sessions.
func TestLeavesAReadOnlyServer(t *testing.T) {
	t.Parallel()
	_, url := setup(t)
	pool := open(t, url, 8)
	var sessions []*pgxpool.Conn
	for range 4 {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), `SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY`); err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, conn)
	}
	for _, conn := range sessions {
		conn.Release()
	}
	write := func() error {
		return pg.InTx(t.Context(), pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `INSERT INTO things (name) VALUES ($1)`, uuid.NewString())
			return err
		})
	}
	if err := write(); !pg.IsUnavailable(err) {
		t.Fatalf("a write on a read-only server: %v", err)
	}
	shoptest.Eventually(t, 10*time.Second, "the broken session is closed", func() bool {
		return pool.Stat().TotalConns() <= 1
	})
	for range 4 {
		if err := write(); err != nil {
			t.Errorf("the next write: %v", err)
		}
	}
}

// A server that freezes costs one request its time: the other sessions are not tried.
func TestLeavesAFrozenServer(t *testing.T) {
	t.Parallel()
	_, direct := setup(t)
	url, freeze, end := startFreezer(t, direct)
	pool := open(t, url, 8)
	var sessions []*pgxpool.Conn
	for range 8 {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, conn)
	}
	for _, conn := range sessions {
		conn.Release()
	}
	freeze()
	t.Cleanup(end)
	if _, err := pool.Exec(timeout(t, 300*time.Millisecond), `SELECT 1`); !pg.IsUnavailable(err) {
		t.Fatalf("a query of a frozen server: %v", err)
	}
	shoptest.Eventually(t, 10*time.Second, "all sessions are closed", func() bool {
		return pool.Stat().IdleConns() == 0
	})
	if _, err := pool.Exec(timeout(t, 10*time.Second), `SELECT 1`); err != nil {
		t.Errorf("the next query: %v", err)
	}
}

// A server that answers nothing at all ends the wait even of a caller without a deadline. One that
// is slow does not.
func TestLeavesASilentServer(t *testing.T) {
	t.Parallel()
	slow, direct := setup(t)
	var frozen atomic.Bool
	ended := make(chan struct{})
	pool := open(t, listen(t, direct, func(client net.Conn, server string) {
		passOn(client, server, func([]byte) bool { return !frozen.Load() }, ended)
	}), 8)
	t.Cleanup(func() { close(ended) }) // before the proxy's own end
	exec(t, pool, `SELECT 1`)
	frozen.Store(true)
	answered := make(chan error)
	go func() {
		_, err := slow.Exec(t.Context(), `SELECT pg_sleep(3)`)
		answered <- err
	}()
	begun := time.Now()
	if _, err := pool.Exec(t.Context(), `SELECT 1`); !pg.IsUnavailable(err) || time.Since(begun) > 10*time.Second {
		t.Errorf("a silent server: %v after %s", err, time.Since(begun))
	}
	if err := <-answered; err != nil {
		t.Errorf("a slow server: %v", err)
	}
}
