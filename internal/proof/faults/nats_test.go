package faults

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// buy places and pays an order, without a fault on the way.
func (w *world) buy(node int, email string) {
	t := w.t
	t.Helper()
	alice := w.Client(t, node, "demo-alice")
	placed := alice.Post(t.Context(), "/v1/orders", "order-"+email, apptest.OrderBody(email, "MUG-ONCE", 1))
	var order struct{ ID string }
	placed.JSON(t, &order)
	charged := alice.Post(t.Context(), "/v1/orders/"+order.ID+"/charges", "pay-"+email, `{"payment_method":"pm_ok"}`)
	if placed.Status != http.StatusCreated || charged.Status != http.StatusCreated {
		t.Errorf("%s: order %d %s, charge %d %s", email, placed.Status, placed.Body, charged.Status, charged.Body)
	}
}

// receipts expects one mail for each buyer.
func (w *world) receipts(emails ...string) {
	t := w.t
	t.Helper()
	for _, email := range emails {
		if mails := w.Mails(t, email); len(mails) != 1 {
			t.Errorf("%s got the receipts %v", email, mails)
		}
	}
}

// NATS is away: checkout goes on, and the backlog drains when it is back.
func TestNATSDown(t *testing.T) {
	t.Parallel()
	w := setup(t, settings{})
	n := w.node()
	w.buy(0, "before@example.com")
	w.settled()
	w.broker.process.kill()
	emails := []string{"before@example.com"}
	for i := range 10 {
		emails = append(emails, fmt.Sprintf("meanwhile-%d@example.com", i))
		w.buy(0, emails[i+1])
	}
	w.receipts(emails[0])
	if waiting := n.metric("onceshop_outbox_backlog_events", ""); waiting != 30 || n.ready() {
		t.Errorf("%g events are said to wait, want 30; ready: %t", waiting, n.ready())
	}
	w.broker.start()
	w.settled() // within healed, which is a minute
	w.receipts(emails...)
	w.check(0)
}

// NATS is killed in the middle of the load, and comes back with its store.
func TestNATSKilled(t *testing.T) {
	t.Parallel()
	w := setup(t, settings{})
	w.node()
	deliver(t, w)
	l := w.load(4)
	for range 3 {
		l.awaitMore(10)
		w.broker.process.kill()
		l.awaitMore(10)
		w.broker.start()
	}
	if broken := l.seen(0) + l.seen(http.StatusServiceUnavailable); broken > 0 {
		t.Errorf("buyers noticed %d times that NATS was away", broken)
	}
	l.verify()
}

// The duplicate window is over when the relay repeats itself: the stream holds twins, and each
// effect happens once.
func TestNATSRepeatAfterTheWindow(t *testing.T) {
	t.Parallel()
	w := setup(t, settings{})
	w.environ["SHOP_RELAY_LEASE"], w.environ["SHOP_DUPLICATE_WINDOW"] = "100ms", "200ms"
	w.node()
	w.buy(0, buyer)
	w.settled()
	held := w.broker.messages()
	shoptest.Eventually(t, soon, "the stream holds twins", func() bool {
		w.Exec(t, "UPDATE outbox SET sent_at = NULL, stream_seq = NULL, claimed_until = '-infinity' WHERE sent_at "+
			"< now() - interval '1 s'")
		return w.broker.messages() >= 2*held
	})
	w.settled()
	w.receipts(buyer)
	w.check(0)
}

// The broker loses what it has acknowledged, events that nobody has consumed among it: they are
// published again, and each effect happens once.
func TestNATSLosesEvents(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, b *broker, old string){
		"store set back": func(t *testing.T, b *broker, old string) {
			b.process.kill()
			b.replaceStore(old)
			b.start()
		},
		"store gone": func(t *testing.T, b *broker, _ string) {
			b.process.kill()
			b.replaceStore("")
			b.start()
		},
		"stream purged": func(t *testing.T, b *broker, _ string) {
			b.admin(func(ctx context.Context, js jetstream.JetStream) error {
				stream, err := js.Stream(ctx, outbox.EventStream)
				if err != nil {
					return err
				}
				return stream.Purge(ctx)
			})
		},
		"stream deleted": func(t *testing.T, b *broker, _ string) {
			b.admin(func(ctx context.Context, js jetstream.JetStream) error {
				return js.DeleteStream(ctx, outbox.EventStream)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t, settings{})
			smtp, url := through(t, w.environ["SMTP_URL"])
			w.environ["SMTP_URL"] = url
			w.node()
			w.buy(0, "first@example.com")
			w.settled()
			old := w.broker.copyStore()

			// While the mail server is away, the events of the second order reach the broker and
			// are not consumed.
			smtp.down()
			w.buy(0, "second@example.com")
			shoptest.Eventually(t, soon, "the broker has the events", func() bool { return w.count("unsent") == 0 })
			lose(t, w.broker, old)
			w.buy(0, "third@example.com")
			smtp.up()
			w.settled()
			w.receipts("first@example.com", "second@example.com", "third@example.com")
			w.check(0)
		})
	}
}

func (b *broker) admin(do func(ctx context.Context, js jetstream.JetStream) error) {
	b.t.Helper()
	if err := b.do(do); err != nil {
		b.t.Fatal(err)
	}
}

// copyStore returns a copy of what the broker holds, made while it does not run.
func (b *broker) copyStore() string {
	b.t.Helper()
	b.process.signal(syscall.SIGTERM)
	b.process.awaitExit(soon)
	dir := b.t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(b.dir)); err != nil {
		b.t.Fatal(err)
	}
	b.start()
	return dir
}

// replaceStore gives the broker another store, or none.
func (b *broker) replaceStore(by string) {
	b.t.Helper()
	b.dir = b.t.TempDir()
	if by == "" {
		return
	}
	if err := os.CopyFS(b.dir, os.DirFS(by)); err != nil {
		b.t.Fatal(err)
	}
}

// An event that no handler can take becomes a dead letter after five tries, the others flow on, and
// a metric tells.
func TestNATSPoison(t *testing.T) {
	t.Parallel()
	w := setup(t, settings{})
	n := w.node()
	w.buy(0, "before@example.com")
	w.settled()
	w.broker.admin(func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.Publish(ctx, "shop.events.order.paid", []byte("no JSON"))
		return err
	})
	w.buy(0, "after@example.com")
	shoptest.Eventually(t, healed, "the other's receipt arrives", func() bool {
		return len(w.Mails(t, "after@example.com")) == 1
	})
	shoptest.Eventually(t, 2*time.Minute, "the poison is a dead letter", func() bool {
		return n.metric("onceshop_consumer_events_total", `result="dead"`) == 1
	})
	if tries := n.metric("onceshop_consumer_events_total", `result="failed"`); tries != 4 {
		t.Errorf("it failed %g times before, want 4", tries)
	}
	w.settled()
	w.receipts("before@example.com", "after@example.com")
	w.check(0)
}
