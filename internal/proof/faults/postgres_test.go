package faults

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/pg/pglocal"
	"github.com/onceshop/onceshop/internal/proof/fleet"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// cluster is a Postgres server of one test that loses nothing, at an address that outlives it.
type cluster struct {
	t       *testing.T
	dir     string
	server  *pglocal.Server
	network *network
	url     string
}

// startCluster keeps its data in dir, or in memory if dir is empty.
func startCluster(t *testing.T, dir string) *cluster {
	t.Helper()
	if dir == "" {
		dir = open(t)
	}
	c := &cluster{t: t, dir: dir}
	c.start()
	c.network, c.url = through(t, c.server.URL())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), fleet.Soon)
		defer cancel()
		if err := c.server.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	pool := shoptest.Pool(t, c.url)
	if _, err := pg.Migrate(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	return c
}

// open makes a folder that the unprivileged user of the server can reach.
func open(t *testing.T) string {
	t.Helper()
	base := ""
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		base = "/dev/shm"
	}
	dir, err := os.MkdirTemp(base, "onceshop-faults-") //nolint:usetesting // in memory, and open to another user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (c *cluster) start() {
	c.t.Helper()
	server, err := pglocal.Start(c.t.Context(),
		pglocal.Config{Dir: c.dir, Settings: []string{"max_connections=60", "min_wal_size=32MB", "max_wal_size=48MB"}})
	if err != nil {
		if strings.Contains(err.Error(), pglocal.ErrNoPostgres.Error()) {
			shoptest.Missing(c.t, err.Error())
		}
		c.t.Fatal(err)
	}
	c.server = server
}

// restart ends the server with the signal and starts it again in its place.
func (c *cluster) restart(s syscall.Signal) {
	c.t.Helper()
	if err := syscall.Kill(c.server.Pid(), s); err != nil {
		c.t.Fatal(err)
	}
	select {
	case <-c.server.Done():
	case <-time.After(fleet.Soon):
		c.t.Fatalf("Postgres does not end by %s", s)
	}
	c.start()
	c.network.redirect(c.server.URL())
}

// Postgres is stopped in the middle of the load, at once or in order, and comes back: the node is
// ready again by itself, and whatever a buyer was told holds.
func TestPostgresRestarts(t *testing.T) {
	t.Parallel()
	c := startCluster(t, "")
	w := setup(t, settings{database: c.url})
	n := w.node()
	deliver(t, w)
	l := w.load(8)
	for name, how := range map[string]syscall.Signal{"immediate": syscall.SIGQUIT, "fast": syscall.SIGINT} {
		l.awaitMore(20)
		c.restart(how)
		back := time.Now()
		shoptest.Eventually(t, 10*time.Second, "the node is ready again", n.Ready)
		t.Logf("%s stop: ready %s after Postgres is back", name, time.Since(back).Round(time.Millisecond))
	}
	l.awaitMore(20)
	if l.seen(0)+l.seen(http.StatusServiceUnavailable) == 0 {
		t.Error("no buyer noticed: Postgres was not away under load")
	}
	l.verify()
}

// Sessions end at random under the load, as by an operator or the out-of-memory killer's milder
// relatives.
func TestPostgresEndsSessions(t *testing.T) {
	t.Parallel()
	w := setup(t, settings{})
	w.node()
	deliver(t, w)
	l := w.load(8)
	for range 15 {
		l.awaitMore(5)
		w.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'onceshop'
				AND random() < 0.4 AND state <> 'idle'`)
	}
	l.verify()
}

// The COMMIT of an order reaches Postgres and its answer does not come back: the node finds out by
// the key.
func TestPostgresCommitAnswerLost(t *testing.T) {
	t.Parallel()
	for name, fate := range map[string]shoptest.Fate{"the answer": shoptest.LoseAnswer,
		"the request": shoptest.LoseRequest} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t, settings{})
			armed, url := shoptest.CutCommits(t, w.environ["DATABASE_URL"], fate)
			w.environ["DATABASE_URL"] = url
			w.node(onlyWeb + "=1") // workers commit, too
			armed.Store(true)
			body := apptest.OrderBody(buyer, "MUG-ONCE", 1)
			first := w.Alice(t).Post(t.Context(), "/v1/orders", "k", body)
			if armed.Load() {
				t.Fatal("no COMMIT was cut")
			}
			if want := map[string]int{"the answer": http.StatusCreated,
				"the request": http.StatusServiceUnavailable}[name]; first.Status != want {
				t.Errorf("answered %d %s, want %d", first.Status, first.Body, want)
			}
			again := insist(t, w.Alice(t), "/v1/orders", "k", body)
			if first.Status == http.StatusCreated && !bytes.Equal(first.Body, again.Body) {
				t.Errorf("answered %s and then %s", first.Body, again.Body)
			}
			w.another()
			w.settled()
			w.expect("in the end", ordered)
			w.check(0)
		})
	}
}

// Postgres takes everything and says nothing: every request ends by its deadline, none stays
// behind.
func TestPostgresBlackHole(t *testing.T) {
	t.Parallel()
	w := setup(t, settings{})
	network, url := through(t, w.environ["DATABASE_URL"])
	w.environ["DATABASE_URL"] = url
	n := w.node()
	made := w.visit(order, true)[0]
	var placed struct{ ID string }
	made.JSON(t, &placed)

	network.swallow()
	alice := w.Alice(t)
	requests := []struct{ method, path, key, body string }{
		{http.MethodPost, "/v1/orders", "black", apptest.OrderBody(buyer, "MUG-ONCE", 1)},
		{http.MethodPost, "/v1/orders/" + placed.ID + "/charges", "black", `{"payment_method":"pm_ok"}`},
		{http.MethodPost, "/v1/orders/" + placed.ID + "/cancel", "black", `{}`},
		{http.MethodGet, "/v1/orders", "", ""},
		{http.MethodGet, "/v1/orders/" + placed.ID, "", ""},
		{http.MethodGet, "/v1/orders/" + placed.ID + "/timeline", "", ""},
		{http.MethodGet, "/v1/products", "", ""},
	}
	shoptest.Race(4*len(requests), func(i int) struct{} {
		r := requests[i%len(requests)]
		var body any
		if r.body != "" {
			body = r.body
		}
		start := time.Now()
		answer, err := alice.Try(t.Context(), r.method, r.path, r.key, body)
		if err != nil || answer.Status != http.StatusServiceUnavailable || time.Since(start) > 20*time.Second {
			t.Errorf("%s %s: %d %s, %v after %s", r.method, r.path, answer.Status, answer.Body, err, time.Since(start))
		}
		return struct{}{}
	})
	if n.Ready() {
		t.Error("the node calls itself ready")
	}
	network.heal()
	shoptest.Eventually(t, fleet.Soon, "the node is ready again", n.Ready)
	shoptest.Eventually(t, fleet.Soon, "no goroutine is left behind", func() bool { return serving(t, n) == 0 })
	w.visit(pay, true)
	w.settled()
	w.check(0)
}

// serving is how many stacks of the node are at work for a request, or for a batch of them.
func serving(t *testing.T, n *fleet.Node) (count int) {
	t.Helper()
	_, profile, err := fleet.Get(t, n.Ops+"/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	for stack := range strings.SplitSeq(profile, "\n\n") {
		if strings.Contains(stack, "echo/v4.(*Echo).ServeHTTP") || strings.Contains(stack, "internal/coalesce.") {
			count++
		}
	}
	return count
}

// The disk under Postgres is full: buyers are told to come again, and everything goes on when there
// is room.
func TestPostgresDiskFull(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t)
	c := startCluster(t, disk)
	w := setup(t, settings{database: c.url})
	w.node()
	deliver(t, w)
	l := w.load(8)
	l.awaitMore(20)
	ballast := filepath.Join(disk, "ballast")
	refused := l.seen(http.StatusServiceUnavailable)
	shoptest.Eventually(t, fleet.Healed, "the shop has no room", func() bool {
		fill(t, ballast)
		// One is enough: buyers whose charge is under way are answered 409, which needs no room.
		return l.seen(http.StatusServiceUnavailable) > refused
	})
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.server.Done(): // Postgres gives up when it cannot even write its log; an operator starts it again
		c.start()
		c.network.redirect(c.server.URL())
	case <-time.After(time.Second):
	}
	l.awaitMore(20)
	l.verify()
}

// smallDisk mounts one in memory.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := open(t)
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("only root on Linux may mount the small disk that this needs")
	}
	if err := mount(dir, "160m"); err != nil {
		t.Skipf("this root may not mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unmount(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill writes until there is no room left.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for size := 1 << 20; size > 0; {
		if _, err := file.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}
