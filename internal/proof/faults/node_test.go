package faults

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/onceshop/onceshop/db/migrations"
	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/proof/fleet"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// hold is a place on the way to a server where requests wait.
type hold struct {
	arrived chan struct{} // closed when the first has come
	release func()
}

// holdRequests puts a proxy before the server that a setting names. What contains the text waits
// there.
func (w *world) holdRequests(setting, text string) *hold {
	w.t.Helper()
	u, err := url.Parse(w.environ[setting])
	if err != nil {
		w.t.Fatal(err)
	}
	proxy := shoptest.StartProxy(w.t, u.Host)
	u.Host = proxy.Addr()
	w.environ[setting] = u.String()
	h := &hold{arrived: make(chan struct{})}
	released := make(chan struct{})
	h.release = sync.OnceFunc(func() { close(released) })
	w.t.Cleanup(h.release)
	arrive := sync.OnceFunc(func() { close(h.arrived) })
	proxy.OnSend(func(sent []byte) shoptest.Fate {
		if strings.Contains(string(sent), text) {
			arrive()
			<-released
		}
		return shoptest.Pass
	})
	return h
}

func (h *hold) await(t *testing.T) {
	t.Helper()
	select {
	case <-h.arrived:
	case <-time.After(fleet.Soon):
		t.Fatal("nothing has come")
	}
}

// A node sleeps in the middle of a charge for longer than its lease, and another takes over. The
// sleeper wakes up with the provider's answer: a decline is refused for its old number, because a
// later try may have succeeded; money that moved is always written down.
func TestNodeSleepsThroughItsLease(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		method         string
		answered, then int
		ends           count
	}{
		"and was declined": {"pm_declined", http.StatusAccepted, http.StatusPaymentRequired,
			count{"orders": 1, "unsettled charges": 0, "mails": 0}},
		"and took the money": {"pm_ok", http.StatusCreated, http.StatusCreated, paid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t, settings{})
			// it must wake up before its own call has timed out
			w.environ["SHOP_PROVIDER_TIMEOUT"], w.environ["SHOP_CHARGE_LEASE"] = "20s", "30s"
			direct := w.environ["PSP_URL"]
			capture := w.holdRequests("PSP_URL", "POST /v1/captures")
			sleeper := w.node()
			placed := w.visit(order, true)[0]
			var made struct{ ID string }
			placed.JSON(t, &made)
			charges, body := "/v1/orders/"+made.ID+"/charges", `{"payment_method":"`+c.method+`"}`
			answered := make(chan apitest.Response, 1)
			go func() { answered <- w.Alice(t).Post(t.Context(), charges, "pay", body) }()
			capture.await(t)
			sleeper.Signal(syscall.SIGSTOP)
			capture.release()
			shoptest.Eventually(t, fleet.Soon, "the provider has answered", func() bool {
				return w.count("captures") == 1
			})

			w.environ["PSP_URL"] = direct
			look := w.holdRequests("PSP_URL", "GET /v1/captures?reference=")
			w.another()
			w.Exec(t, `UPDATE charges SET lease_until = now()`)
			look.await(t) // the other node holds the charge and asks the provider
			sleeper.Signal(syscall.SIGCONT)
			if answer := <-answered; answer.Status != c.answered {
				t.Errorf("the sleeper answered %d %s", answer.Status, answer.Body)
			}
			refused := c.answered == http.StatusAccepted
			const says = "a stale worker was refused"
			if refused {
				shoptest.Eventually(t, fleet.Soon, says, func() bool { return sleeper.Wrote(says) })
			}
			open := w.Count(t, "SELECT count(*) FROM charges WHERE attempt = 2 AND answer IS NULL") == 1
			if open != refused {
				t.Errorf("the charge is open: %t", open)
			}
			look.release()
			if answer := insist(t, w.Client(t, 1, "demo-alice"), charges, "pay", body); answer.Status != c.then {
				t.Errorf("%d %s", answer.Status, answer.Body)
			}
			w.settled()
			w.expect("in the end", c.ends)
			if sleeper.Wrote(says) != refused {
				t.Errorf("%s: %t, want %t", says, !refused, refused)
			}
			w.check(0)
		})
	}
}

// A client goes away while its request is at work: the work is finished, or nothing of it is there.
// Its repeat tells.
func TestNodeClientGone(t *testing.T) {
	t.Parallel()
	const ok = `{"payment_method":"pm_ok"}`
	for name, c := range map[string]struct {
		visit       visit  // what was before
		setting, at string // where the request is when its client goes
		path, body  string
		token       string
		ends        count
	}{
		"before the order's commit": {setting: "DATABASE_URL", at: "InsertOrders", path: "/v1/orders",
			body: apptest.OrderBody(buyer, "MUG-ONCE", 1), ends: ordered},
		"at the capture": {visit: order, setting: "PSP_URL", at: "POST /v1/captures",
			path: "/v1/orders/ORDER/charges", body: ok, ends: paid},
		"at the refund": {visit: pay, setting: "PSP_URL", at: "POST /v1/refunds",
			path: "/v1/charges/CHARGE/refunds", body: `{}`, token: "demo-admin", ends: refunded},
		"at the cancel's refund": {visit: pay, setting: "PSP_URL", at: "POST /v1/refunds",
			path: "/v1/orders/ORDER/cancel", body: `{}`, ends: refunded},
		"before the charge's commit": {visit: order, setting: "DATABASE_URL", at: "InsertCharge",
			path: "/v1/orders/ORDER/charges", body: ok, ends: paid},
		"before the cancel's commit": {visit: pay, setting: "DATABASE_URL", at: "InsertCancellation",
			path: "/v1/orders/ORDER/cancel", body: `{}`, ends: refunded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t, settings{})
			h := w.holdRequests(c.setting, c.at)
			w.node()
			path := c.path
			if strings.Contains(path, "ORDER") || strings.Contains(path, "CHARGE") {
				answers := w.visit(c.visit, true)
				for i, name := range []string{"ORDER", "CHARGE"}[:len(answers)] {
					var made struct{ ID string }
					answers[i].JSON(t, &made)
					path = strings.ReplaceAll(path, name, made.ID)
				}
			}
			token := c.token
			if token == "" {
				token = "demo-alice"
			}
			client := w.Client(t, 0, token)
			ctx, leave := context.WithCancel(t.Context())
			gone := make(chan error, 1)
			go func() {
				_, err := client.Try(ctx, http.MethodPost, path, "k", c.body)
				gone <- err
			}()
			h.await(t)
			leave()
			if err := <-gone; !errors.Is(err, context.Canceled) {
				t.Fatalf("the client heard %v", err)
			}
			h.release()
			if answer := insist(t, client, path, "k", c.body); answer.Status != http.StatusCreated &&
				answer.Status != http.StatusOK {
				t.Errorf("%d %s", answer.Status, answer.Body)
			}
			w.settled()
			w.expect("in the end", c.ends)
			w.check(0)
		})
	}
}

// A node is told to stop at peak: it drains within its ten seconds, and no answer is cut.
func TestNodeStopsAtPeak(t *testing.T) {
	t.Parallel()
	w := setup(t, settings{slow: time.Second})
	n := w.node()
	deliver(t, w)
	slow := w.visit(order, true)[0]
	var made struct{ ID string }
	slow.JSON(t, &made)
	l := w.load(16)
	l.awaitMore(50)
	answered := make(chan apitest.Response, 1)
	go func() {
		answered <- w.Alice(t).Post(t.Context(), "/v1/orders/"+made.ID+"/charges", "slow",
			`{"payment_method":"pm_slow"}`)
	}()
	shoptest.Eventually(t, fleet.Soon, "the slow charge is at the provider", func() bool {
		return len(w.Captures(t, made.ID)) == 1
	})
	n.Signal(syscall.SIGTERM)
	begin := time.Now()
	if status := n.AwaitExit(); status.ExitStatus() != 0 || time.Since(begin) > 11*time.Second {
		t.Errorf("the node has ended with %d after %s", status, time.Since(begin))
	}
	// On a busy machine the provider takes longer than the node waits for it.
	if answer := <-answered; answer.Status != http.StatusCreated && answer.Status != http.StatusAccepted {
		t.Errorf("the slow charge was answered %d %s", answer.Status, answer.Body)
	}
	l.stop()
	for _, cut := range l.cuts() {
		t.Errorf("the answer for %s was cut: %s", cut.key, cut.err)
	}
	w.node()
	l.verify()
}

// The schema moves on under the load: the nodes of the release before go on as they are, and a node
// of the new one is ready when the schema is, not before.
func TestNodeTwoVersions(t *testing.T) {
	t.Parallel()
	w := setup(t, settings{})
	old := w.node()
	deliver(t, w)
	l := w.load(8)
	l.awaitMore(30)
	// What the next release may do, by the rules of CONTRIBUTING: add, never take away. A migration
	// that locked several tables would meet, in another order, the locks of buyers.
	rows, err := w.Pool.Query(t.Context(),
		`SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'
			AND table_type = 'BASE TABLE'`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) == 0 {
		t.Fatalf("%d tables: %v", len(tables), err)
	}
	for _, name := range tables {
		w.Exec(t, `ALTER TABLE `+pgx.Identifier{name}.Sanitize()+` ADD COLUMN next_release text,
			ADD COLUMN next_default integer NOT NULL DEFAULT 7`)
	}
	w.Exec(t, `CREATE INDEX next_index ON orders (email)`)
	w.Exec(t, `CREATE TABLE next_table (id bigint PRIMARY KEY)`)
	if !old.Ready() {
		t.Error("the old node is not ready any more")
	}
	l.awaitMore(30)
	l.verify()
	if n := l.seen(http.StatusServiceUnavailable) + l.seen(0); n > 0 {
		t.Errorf("buyers were refused %d times", n)
	}

	next := setup(t, settings{})
	provider, closeDB := next.goose()
	defer closeDB()
	if _, err := provider.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	early := next.launch(next.Nodes[0])
	var body string
	shoptest.Eventually(t, fleet.Soon, "the new node answers", func() bool {
		_, answer, err := fleet.Get(t, early.Ops+"/statusz")
		body = answer
		return err == nil && !early.Ready()
	})
	if !strings.Contains(body, `"schema":"down"`) {
		t.Errorf("it is not ready: %s", body)
	}
	if _, err := pg.Migrate(t.Context(), next.Pool); err != nil {
		t.Fatal(err)
	}
	early.AwaitReady()
	next.buy(0, buyer)
	next.settled()
	next.check(0)
}

func (w *world) goose() (*goose.Provider, func()) {
	w.t.Helper()
	db := stdlib.OpenDBFromPool(w.Pool)
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS)
	if err != nil {
		w.t.Fatal(err)
	}
	return provider, func() { _ = db.Close() }
}

// The mail server takes a receipt and drops the connection before it says so: the receipt is sent
// again, and its twin has the same Message-ID.
func TestMailServerDropsAfterData(t *testing.T) {
	t.Parallel()
	w := setup(t, settings{})
	u, err := url.Parse(w.environ["SMTP_URL"])
	if err != nil {
		t.Fatal(err)
	}
	proxy := shoptest.StartProxy(t, u.Host)
	u.Host = proxy.Addr()
	w.environ["SMTP_URL"] = u.String()
	var once sync.Once
	proxy.OnSend(func(sent []byte) (fate shoptest.Fate) {
		if strings.Contains(string(sent), "\r\n.\r\n") {
			once.Do(func() { fate = shoptest.LoseAnswer })
		}
		return fate
	})
	w.node()
	w.buy(0, buyer)
	w.settled()
	w.expect("in the end", count{"captures": 1, "receipts": 1, "mails": 2, "message ids": 1})
	w.check(1)
}
