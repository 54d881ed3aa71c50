package faults

import (
	"bytes"
	"cmp"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/check"
	"github.com/onceshop/onceshop/internal/proof/fleet"
	"github.com/onceshop/onceshop/internal/shoptest"
)

var quiet = slog.New(slog.DiscardHandler)

// world is everything around the nodes: servers, the witnesses, and the settings that the next node
// gets.
type world struct {
	*apptest.Shop // its methods ask the witnesses, and its nodes over HTTP
	t             *testing.T
	redis         *shoptest.RedisServer
	broker        broker
	environ       map[string]string
}

// settings of a world that differ from a newcomer's.
type settings struct {
	database string        // its URL; a new database if it is empty
	webhooks bool          // the provider sends its events to the first node
	slow     time.Duration // how long pm_slow takes
	broker   string        // of brokers; NATS if it is empty
	window   time.Duration // in which the broker compares ids; the default if it is zero
}

// setup starts the servers and seeds the shop. No node runs yet.
func setup(t *testing.T, s settings) *world {
	t.Helper()
	shoptest.Long(t)
	if s.database == "" {
		s.database = shoptest.DatabaseURL(t)
	}
	w := &world{t: t, redis: shoptest.StartRedis(t), Shop: &apptest.Shop{}}
	s.window = cmp.Or(s.window, 10*time.Minute)
	w.broker = brokers[cmp.Or(s.broker, overNATS)](t, s.window)
	w.Nodes = []string{"http://" + shoptest.FreeAddr(t)}
	w.environ = map[string]string{"DATABASE_URL": s.database, "REDIS_URL": w.redis.URL(), "BROKER_URL": w.broker.url(),
		"SHOP_DUPLICATE_WINDOW": s.window.String(),
		"SHOP_SECRET":           "a-secret-for-tests-32-bytes-long!", "SHOP_URL": "http://localhost:8080",
		"PSP_WEBHOOK_SECRET":    apptest.WebhookSecret,
		"SHOP_TOKEN_RATE_LIMIT": "0", "SHOP_GUEST_RATE_LIMIT": "0", // crowds come from one address here
		// As short as the windows may be: whoever dies is followed soon.
		"SHOP_PROVIDER_TIMEOUT": "1500ms", "SHOP_CHARGE_LEASE": "7s", "SHOP_RELAY_LEASE": "3s",
		"SHOP_DRAIN_DELAY": "0s"}
	w.Pool = shoptest.Pool(t, s.database)
	w.startWitnesses(s)
	w.environ["PSP_URL"], w.environ["SMTP_URL"] = w.Config.PSPURL, w.Config.SMTPURL
	w.Config = w.config()
	apptest.Seed(t, w.Pool)
	return w
}

func (w *world) config() app.Config {
	w.t.Helper()
	config, err := app.ConfigFrom(w.list())
	if err != nil {
		w.t.Fatal(err)
	}
	return config
}

func (w *world) list() (environ []string) {
	for name, value := range w.environ {
		environ = append(environ, name+"="+value)
	}
	return environ
}

// startWitnesses runs the provider and the mailbox, which must outlive every fault.
func (w *world) startWitnesses(s settings) {
	w.t.Helper()
	w.PSPLog = filepath.Join(w.t.TempDir(), "provider.jsonl")
	options := shoptest.ProviderOptions{Log: w.PSPLog, WebhookSecret: apptest.WebhookSecret, Slow: s.slow}
	if s.webhooks {
		options.WebhookURL = w.Nodes[0] + app.WebhookPath
	}
	w.Config.PSPURL = shoptest.Provider(w.t, options)
	w.Config.SMTPURL, w.Mailbox = shoptest.Mailbox(w.t)
}

// node starts the first node and waits until it is ready. Further settings are of the form
// NAME=value.
func (w *world) node(environ ...string) *fleet.Node {
	w.t.Helper()
	n := w.launch(w.Nodes[0], environ...)
	n.AwaitReady()
	return n
}

// another starts one more node on the same database.
func (w *world) another(environ ...string) *fleet.Node {
	w.t.Helper()
	w.Nodes = append(w.Nodes, "http://"+shoptest.FreeAddr(w.t))
	n := w.launch(w.Nodes[len(w.Nodes)-1], environ...)
	n.AwaitReady()
	return n
}

func (w *world) launch(url string, environ ...string) *fleet.Node {
	w.t.Helper()
	ops := shoptest.FreeAddr(w.t)
	own := append(w.list(), "SHOP_ADDR="+strings.TrimPrefix(url, "http://"), "SHOP_OPS_ADDR="+ops)
	return &fleet.Node{Process: startProcess(w.t, "node", append(own, environ...)...), URL: url, Ops: "http://" + ops}
}

// insist sends a request until its answer is final, as a client does after an ambiguous failure:
// the same key, the same body.
func insist(t *testing.T, client *apitest.Client, path, key, body string) (answer apitest.Response) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(fleet.Healed)
	for {
		var err error
		answer, err = client.Try(t.Context(), http.MethodPost, path, key, body)
		if err == nil && final(answer) {
			return answer
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s has no final answer within %s: %v %d %s", path, fleet.Healed, err, answer.Status, answer.Body)
		}
	}
}

func final(answer apitest.Response) bool {
	switch answer.Status {
	case http.StatusAccepted, http.StatusServiceUnavailable:
		return false
	case http.StatusConflict:
		return !bytes.Contains(answer.Body, []byte("in_progress"))
	}
	return true
}

// leasesEnd lets the time pass for which whoever has died still holds things, in the database, in
// Redis and at the broker.
func (w *world) leasesEnd() {
	w.t.Helper()
	w.ownLeasesEnd()
	w.broker.redeliver()
}

// ownLeasesEnd is leasesEnd without the broker. What a living node holds, it loses, too.
func (w *world) ownLeasesEnd() {
	t := w.t
	t.Helper()
	w.Exec(t, `UPDATE charges SET lease_until = now() WHERE settled_at IS NULL`)
	w.Exec(t, `UPDATE charges SET return_due = now() WHERE return_due IS NOT NULL`)
	w.Exec(t, `UPDATE provider_events SET due_at = now() WHERE state = 'received'`)
	w.Exec(t, `UPDATE refunds SET lease_until = now() WHERE status IN ('pending', 'unknown')`)
	w.Exec(t, `UPDATE outbox SET claimed_until = '-infinity' WHERE sent_at IS NULL`)
	w.Exec(t, `UPDATE receipts SET lease_until = now() WHERE sent_at IS NULL`)
	options, err := redis.ParseURL(w.redis.URL())
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	defer client.Close()
	keys, err := client.Keys(t.Context(), "onceshop:receipt:*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if holder, err := client.Get(t.Context(), key).Result(); err == nil && holder != "done" {
			client.Del(t.Context(), key)
		}
	}
}

// settled waits until the shop has nothing left to do.
func (w *world) settled() {
	t := w.t
	t.Helper()
	const open = `SELECT (SELECT count(*) FROM charges WHERE settled_at IS NULL) + (SELECT count(*)
		FROM refunds WHERE status IN ('pending', 'unknown'))
		+ (SELECT count(*) FROM charges WHERE return_due IS NOT NULL)
		+ (SELECT count(*) FROM provider_events WHERE state = 'received')
		+ (SELECT count(*) FROM outbox WHERE sent_at IS NULL)
		+ (SELECT count(*) FROM outbox e WHERE e.type = 'order.paid' AND NOT EXISTS (SELECT FROM receipts r
			WHERE r.order_id = e.order_id AND r.sent_at IS NOT NULL))`
	shoptest.Eventually(t, fleet.Healed, "everything is settled, sent and received", func() bool {
		return w.Count(t, open) == 0
	})
	w.broker.redeliver() // what was handled, and its acknowledgement lost
	shoptest.Eventually(t, fleet.Healed, "every event is acknowledged", func() bool { return w.broker.pending() == 0 })
}

// check runs every invariant. Twins is how many orders may have more than one receipt.
func (w *world) check(twins int64) {
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
		if r.Invariant == "I11" && r.Warnings.Count != twins {
			t.Errorf("%d orders have several receipts, want %d: %+v", r.Warnings.Count, twins, r.Warnings.First)
		}
	}
}
