package orders_test

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// commitCutter stands between a pool and Postgres and, once armed, cuts the next connection that commits: before
// Postgres hears of it, or after Postgres has answered but before the client hears that.
type commitCutter struct {
	server        string
	before, after atomic.Bool
}

// cutCommits returns the cutter and the database's URL through it.
func cutCommits(t *testing.T, databaseURL string) (*commitCutter, string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cutter := &commitCutter{server: u.Host}
	u.Host = l.Addr().String()
	var open sync.WaitGroup
	open.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() { cutter.serve(client) })
		}
	})
	t.Cleanup(func() { l.Close(); open.Wait() })
	return cutter, u.String()
}

func (c *commitCutter) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", c.server)
	if err != nil {
		return
	}
	defer server.Close()
	var muted atomic.Bool
	var up sync.WaitGroup
	up.Go(func() {
		defer server.Close()
		pipe(server, client, func(sent []byte) bool {
			commits := bytes.Contains(sent, []byte("commit\x00"))
			if commits && c.before.CompareAndSwap(true, false) {
				return false
			}
			if commits && c.after.CompareAndSwap(true, false) {
				muted.Store(true)
			}
			return true
		})
	})
	pipe(client, server, func([]byte) bool { return !muted.Load() })
	client.Close()
	up.Wait()
}

// pipe copies as long as pass agrees.
func pipe(to io.Writer, from io.Reader, pass func([]byte) bool) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !pass(buffer[:n]) {
			return
		}
		if _, fault := to.Write(buffer[:n]); err != nil || fault != nil {
			return
		}
	}
}

func TestPlaceCommitWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 10))
	cutter, through := cutCommits(t, b.url)
	shop := orders.New(shoptest.Pool(t, through), orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
	wish := b.order("k", line("CUP", 4))
	cutter.after.Store(true)
	answer, err := shop.Place(t.Context(), wish)
	if err != nil {
		t.Fatal(err)
	}
	if cutter.after.Load() {
		t.Fatal("no commit was cut")
	}
	if answer.Status != 201 || !bytes.Equal(answer.Body, b.place(t, wish).Body) {
		t.Errorf("the answer %d %s is not the stored one", answer.Status, answer.Body)
	}
	if n, left := b.count(t, "SELECT count(*) FROM orders"), b.available(t, "CUP"); n != 1 || left != 6 {
		t.Errorf("%d orders, %d cups left, want 1 and 6", n, left)
	}
}

func TestPlaceCommitThatNeverArrives(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 10))
	cutter, through := cutCommits(t, b.url)
	shop := orders.New(shoptest.Pool(t, through), orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
	wish := b.order("k", line("CUP", 4))
	before := b.snapshot(t)
	cutter.before.Store(true)
	if answer, err := shop.Place(t.Context(), wish); !pg.IsUnavailable(err) {
		t.Fatalf("%s, %v, want an error that says the database is unavailable", answer.Body, err)
	}
	b.unchanged(t, before)
	answer, err := shop.Place(t.Context(), wish)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Replayed || b.available(t, "CUP") != 6 {
		t.Errorf("the retry: %+v, %d cups left, want a first answer and 6", answer, b.available(t, "CUP"))
	}
}
