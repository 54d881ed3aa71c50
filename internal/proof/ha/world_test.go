package ha

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/check"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/proof/fleet"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// world is a shop whose servers fail over: nodes of `shop serve`, what they are connected to, and
// two witnesses, the payment provider and the mailbox.
type world struct {
	*apptest.Shop
	t      *testing.T
	nodes  []*node
	crowds int
	// token is a customer's.
	token string
	// environ are the settings of the next node.
	environ map[string]string
}

// node is a process of `shop serve`.
type node struct {
	*fleet.Node
	addr string
}

// setup starts the servers that are not given, by the names of their settings, and fills the shop.
// No node runs yet.
func setup(t *testing.T, given map[string]string) *world {
	t.Helper()
	w := &world{t: t, Shop: &apptest.Shop{}, environ: map[string]string{
		"SHOP_SECRET": "a-secret-for-tests-32-bytes-long!", "SHOP_URL": "http://localhost:8080",
		"PSP_WEBHOOK_SECRET": apptest.WebhookSecret, "SHOP_TOKEN_RATE_LIMIT": "0",
		// Short, so that the work of a node that ends is soon taken over.
		"SHOP_PROVIDER_TIMEOUT": "1500ms", "SHOP_CHARGE_LEASE": "7s", "SHOP_RELAY_LEASE": "3s",
		"SHOP_DRAIN_DELAY": "0s", "SHOP_LOG_LEVEL": "warn"}}
	for name, value := range given {
		w.environ[name] = value
	}
	for name, serve := range map[string]func() string{
		"DATABASE_URL": func() string { return shoptest.DatabaseURL(t) },
		"REDIS_URL":    func() string { return shoptest.Redis(t) },
		"BROKER_URL":   func() string { return shoptest.NATS(t, t.TempDir()).URL() },
	} {
		if w.environ[name] == "" {
			w.environ[name] = serve()
		}
	}
	w.PSPLog = filepath.Join(t.TempDir(), "provider.jsonl")
	w.Config.PSPURL = shoptest.Provider(t,
		shoptest.ProviderOptions{Log: w.PSPLog, WebhookSecret: apptest.WebhookSecret})
	w.environ["PSP_URL"] = w.Config.PSPURL
	w.environ["SMTP_URL"], w.Mailbox = shoptest.Mailbox(t)
	w.fill()
	return w
}

// fill gives the shop its tables, products, more stock than a test sells, and a customer.
func (w *world) fill() {
	t := w.t
	t.Helper()
	w.Pool = shoptest.Pool(t, w.environ["DATABASE_URL"])
	if _, err := pg.Migrate(t.Context(), w.Pool); err != nil {
		t.Fatal(err)
	}
	apptest.Seed(t, w.Pool)
	stock := orders.New(w.Pool, orders.DefaultExpiry, time.Now, apptest.Log(t))
	_, err := stock.Import(t.Context(), strings.NewReader("delivery_id,line,sku,quantity\nplenty,1,TEE-ONCE,1000000\n"),
		"ha", false)
	if err != nil {
		t.Fatal(err)
	}
	if w.token, err = accounts.New(w.Pool, false).IssueToken(t.Context(), buyer, false); err != nil {
		t.Fatal(err)
	}
}

// serve starts one more node and waits until it is ready. Further settings have the form
// NAME=value.
func (w *world) serve(environ ...string) *node {
	w.t.Helper()
	n := w.launch(shoptest.FreeAddr(w.t), environ...)
	n.AwaitReady()
	w.nodes = append(w.nodes, n)
	return n
}

// launch starts a node at an address.
func (w *world) launch(addr string, environ ...string) *node {
	w.t.Helper()
	ops := shoptest.FreeAddr(w.t)
	own := []string{"SHOP_ADDR=" + addr, "SHOP_OPS_ADDR=" + ops}
	for name, value := range w.environ {
		own = append(own, name+"="+value)
	}
	process := fleet.Start(w.t, "a node", exec.Command(shoptest.Program(w.t), "serve"), append(own, environ...)...)
	return &node{&fleet.Node{Process: process, URL: "http://" + addr, Ops: "http://" + ops}, addr}
}

// settled waits until the shop has nothing left to do.
func (w *world) settled() {
	w.t.Helper()
	const open = `SELECT (SELECT count(*) FROM charges WHERE settled_at IS NULL)
		+ (SELECT count(*) FROM outbox WHERE sent_at IS NULL)
		+ (SELECT count(*) FROM outbox e WHERE e.type = 'order.paid' AND NOT EXISTS (SELECT FROM receipts r
			WHERE r.order_id = e.order_id AND r.sent_at IS NOT NULL))`
	shoptest.Eventually(w.t, fleet.Healed, "everything is settled, sent and received", func() bool {
		return w.Count(w.t, open) == 0
	})
}

// check runs every invariant and returns how many orders have two receipts.
func (w *world) check() (twice int64) {
	t := w.t
	t.Helper()
	report, err := check.Run(t.Context(),
		check.Sources{DB: w.Pool, ProviderURL: w.Config.PSPURL, MailboxURL: w.Mailbox})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report {
		if r.Violations.Count > 0 || r.NotChecked != "" {
			t.Errorf("%s by the %s (%s): %+v %s", r.Invariant, r.Source, r.Says, r.Violations.First, r.NotChecked)
		}
		if r.Invariant == "I11" {
			twice += r.Warnings.Count
		}
	}
	return twice
}
