package pg_test

import (
	"context"
	"crypto/rand"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// Another pool has all connections that the role may have. Nothing fails: it waits until one comes
// free.
func TestRoleHasNoMoreConnections(t *testing.T) {
	t.Parallel()
	pool, address := setup(t)
	role := "few_" + strings.ToLower(rand.Text())
	exec(t, pool, `CREATE ROLE `+role+` LOGIN CONNECTION LIMIT 2; GRANT ALL ON things TO `+role)
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	other, few := open(t, u.String(), 8), open(t, u.String(), 8)
	var held []*pgxpool.Conn
	for range 2 {
		conn, err := other.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	const insert = `INSERT INTO things (name) VALUES ($1)`
	calls := []func() error{
		func() error {
			return pg.InPipe(t.Context(), few, func(tx *pg.Pipe) error {
				_, err := tx.Exec(t.Context(), insert, uuid.NewString())
				return err
			})
		},
		func() error {
			return pg.InTx(t.Context(), few, func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), insert, uuid.NewString())
				return err
			})
		},
		func() error {
			_, err := pg.Patient{Pool: few}.Exec(t.Context(), insert, uuid.NewString())
			return err
		},
		func() error {
			var n int
			return pg.Patient{Pool: few}.QueryRow(t.Context(), `SELECT count(*) FROM things`).Scan(&n)
		},
	}
	results := make(chan error, len(calls))
	for _, call := range calls {
		go func() { results <- call() }()
	}
	shoptest.Eventually(t, soon, "all were refused", func() bool {
		return few.Stat().NewConnsCount() >= int64(2*len(calls))
	})
	for _, conn := range held {
		conn.Release()
	}
	other.Reset()
	for range calls {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	wantThings(t, pool, 3)
}

// A pool that is refused a connection gives back what it has but for two: with none at all, its
// node would wait for as long as the others are busy.
func TestRefusedPoolKeepsTwo(t *testing.T) {
	t.Parallel()
	pool, address := setup(t)
	role := "four_" + strings.ToLower(rand.Text())
	exec(t, pool, `CREATE ROLE `+role+` LOGIN CONNECTION LIMIT 4`)
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	few := open(t, u.String(), 8)
	var held []*pgxpool.Conn
	for range 4 {
		conn, err := few.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	if _, err := few.Exec(t.Context(), "SELECT 1"); !pg.IsUnavailable(err) {
		t.Fatalf("a fifth connection: %v", err)
	}
	for _, conn := range held {
		conn.Release()
	}
	// Each call asks for one connection. The pool opens none as long as it has any.
	for range 8 {
		if _, err := few.Exec(t.Context(), "SELECT 1"); err != nil {
			t.Fatal(err)
		}
	}
	shoptest.Eventually(t, soon, "the others are closed", func() bool { return few.Stat().AcquiredConns() == 0 })
	if n := few.Stat().TotalConns(); n != 2 {
		t.Errorf("the pool has %d connections, want 2", n)
	}
}

// A server without a connection to give is asked for one now and then, however many wait.
func TestFullServerIsNotStormed(t *testing.T) {
	t.Parallel()
	pool, address := setup(t)
	role := "none_" + strings.ToLower(rand.Text())
	exec(t, pool, `CREATE ROLE `+role+` LOGIN CONNECTION LIMIT 0`)
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	var asked atomic.Int64
	through := listen(t, u.String(), func(client net.Conn, server string) {
		asked.Add(1)
		passOn(client, server, func([]byte) bool { return true }, nil)
	})
	const most = 8
	none := pg.Patient{Pool: open(t, through, most)}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var waiting sync.WaitGroup
	for range 20 {
		waiting.Go(func() {
			if _, err := none.Exec(ctx, "SELECT 1"); !pg.IsUnavailable(err) {
				t.Errorf("%v", err)
			}
		})
	}
	waiting.Wait()
	// The pool asks for all that it may have until the first refusal, and then ten times a second.
	if n := asked.Load(); n > 2*most+20 {
		t.Errorf("the server was asked %d times in a second", n)
	}
}
