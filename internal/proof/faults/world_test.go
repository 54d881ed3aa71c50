package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"

	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/check"
	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const (
	// soon is how long a busy machine may take for what happens at once.
	soon = 30 * time.Second
	// healed is how long the shop may need to finish everything once the fault is over.
	healed = 60 * time.Second
)

var quiet = slog.New(slog.DiscardHandler)

// world is everything around the nodes: servers, the witnesses, and the settings that the next node
// gets.
type world struct {
	*apptest.Shop // its methods ask the witnesses, and its nodes over HTTP
	t             *testing.T
	redis         *shoptest.RedisServer
	broker        *broker
	environ       map[string]string
}

// node is a running shop.
type node struct {
	*process
	url, ops string
}

// settings of a world that differ from a newcomer's.
type settings struct {
	database string        // its URL; a new database if it is empty
	webhooks bool          // the provider sends its events to the first node
	slow     time.Duration // how long pm_slow takes
}

// setup starts the servers and seeds the shop. No node runs yet.
func setup(t *testing.T, s settings) *world {
	t.Helper()
	if s.database == "" {
		s.database = shoptest.DatabaseURL(t)
	}
	w := &world{t: t, redis: shoptest.StartRedis(t), broker: startBroker(t), Shop: &apptest.Shop{}}
	w.Nodes = []string{"http://" + shoptest.FreeAddr(t)}
	w.environ = map[string]string{"DATABASE_URL": s.database, "REDIS_URL": w.redis.URL(), "NATS_URL": w.broker.url,
		"SHOP_SECRET": "a secret for tests, 32 bytes long", "PSP_WEBHOOK_SECRET": apptest.WebhookSecret,
		"SHOP_TOKEN_RATE_LIMIT": "0", "SHOP_GUEST_RATE_LIMIT": "0", // crowds come from one address here
		// As short as the windows may be: whoever dies is followed soon.
		"SHOP_PROVIDER_TIMEOUT": "1500ms", "SHOP_CHARGE_LEASE": "7s", "SHOP_RELAY_LEASE": "3s"}
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
func (w *world) node(environ ...string) *node {
	w.t.Helper()
	n := w.launch(w.Nodes[0], environ...)
	n.awaitReady()
	return n
}

// another starts one more node on the same database.
func (w *world) another(environ ...string) *node {
	w.t.Helper()
	w.Nodes = append(w.Nodes, "http://"+shoptest.FreeAddr(w.t))
	n := w.launch(w.Nodes[len(w.Nodes)-1], environ...)
	n.awaitReady()
	return n
}

func (w *world) launch(url string, environ ...string) *node {
	w.t.Helper()
	ops := shoptest.FreeAddr(w.t)
	own := append(w.list(), "SHOP_ADDR="+strings.TrimPrefix(url, "http://"), "SHOP_OPS_ADDR="+ops)
	return &node{process: startProcess(w.t, "node", append(own, environ...)...), url: url, ops: "http://" + ops}
}

func (n *node) awaitReady() {
	n.t.Helper()
	shoptest.Eventually(n.t, healed, "the node is ready", func() bool { return n.gone() || n.ready() })
	if n.gone() {
		n.t.Fatalf("the node has ended: %s", n.output)
	}
}

func (n *node) ready() bool {
	status, _, err := get(n.t, n.url+"/readyz")
	return err == nil && status == http.StatusOK
}

// metric returns the sum of a metric over the labels that contain the text.
func (n *node) metric(name, labels string) (sum float64) {
	n.t.Helper()
	_, body, err := get(n.t, n.ops+"/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(body) {
		if !strings.HasPrefix(line, name) || !strings.Contains(line, labels) {
			continue
		}
		var value float64
		if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &value); err == nil {
			sum += value
		}
	}
	return sum
}

func get(t *testing.T, url string) (status int, body string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(content), err
}

// insist sends a request until its answer is final, as a client does after an ambiguous failure:
// the same key, the same body.
func insist(t *testing.T, client *apitest.Client, path, key, body string) (answer apitest.Response) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(healed)
	for {
		var err error
		answer, err = client.Try(t.Context(), http.MethodPost, path, key, body)
		if err == nil && final(answer) {
			return answer
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s has no final answer within %s: %v %d %s", path, healed, err, answer.Status, answer.Body)
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
	w.broker.redeliver()
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
	shoptest.Eventually(t, healed, "everything is settled, sent and received", func() bool {
		return w.Count(t, open) == 0
	})
	w.broker.redeliver() // what was handled, and its acknowledgement lost
	shoptest.Eventually(t, healed, "every event is acknowledged", func() bool { return w.broker.pending() == 0 })
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

// broker is a NATS server as a process of its own, always at the same address.
type broker struct {
	t         *testing.T
	addr, dir string
	url       string
	process   *process
}

func startBroker(t *testing.T) *broker {
	t.Helper()
	addr := shoptest.FreeAddr(t)
	b := &broker{t: t, addr: addr, url: "nats://" + addr, dir: t.TempDir()}
	b.start()
	return b
}

func (b *broker) start() {
	b.t.Helper()
	_, port, err := net.SplitHostPort(b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	b.process = startProcess(b.t, "nats", natsPort+"="+port, natsDir+"="+b.dir)
	shoptest.Eventually(b.t, soon, "NATS answers", func() bool {
		conn, err := nats.Connect(b.url)
		if err != nil {
			return b.process.gone()
		}
		defer conn.Close()
		js, err := jetstream.New(conn)
		if err != nil {
			return false
		}
		_, err = js.AccountInfo(b.t.Context())
		return err == nil
	})
	if b.process.gone() {
		b.t.Fatalf("NATS has ended: %s", b.process.output)
	}
}

// do asks the broker something.
func (b *broker) do(ask func(ctx context.Context, js jetstream.JetStream) error) error {
	b.t.Helper()
	conn, err := nats.Connect(b.url)
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	return ask(b.t.Context(), js)
}

// messages is how many events the stream holds.
func (b *broker) messages() (n int64) {
	b.t.Helper()
	err := b.do(func(ctx context.Context, js jetstream.JetStream) error {
		stream, err := js.Stream(ctx, outbox.EventStream)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		n = int64(stream.CachedInfo().State.Msgs)
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// pending is how many events the receipts' consumer has not acknowledged, -1 while there is no
// consumer.
func (b *broker) pending() int64 {
	info := b.consumer()
	if info == nil {
		return -1
	}
	return int64(info.NumPending) + int64(info.NumAckPending)
}

func (b *broker) consumer() (info *jetstream.ConsumerInfo) {
	_ = b.do(func(ctx context.Context, js jetstream.JetStream) error {
		consumer, err := js.Consumer(ctx, outbox.EventStream, notify.ConsumerName)
		if err == nil {
			info, err = consumer.Info(ctx)
		}
		return err
	})
	return info
}

// redeliver lets the time pass after which unacknowledged events come again, once a living node
// waits for them.
func (b *broker) redeliver() {
	b.t.Helper()
	var info *jetstream.ConsumerInfo
	shoptest.Eventually(b.t, soon, "a node waits for events", func() bool {
		info = b.consumer()
		return info != nil && info.NumWaiting > 0
	})
	err := b.do(func(ctx context.Context, js jetstream.JetStream) error {
		config := info.Config
		config.AckWait = time.Second
		_, err := js.UpdateConsumer(ctx, outbox.EventStream, config)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
}
