package faults

import (
	"bytes"
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/orders"
	outboxbroker "github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/broker/servicebus"
	"github.com/onceshop/onceshop/internal/proof/fleet"
	"github.com/onceshop/onceshop/internal/proof/kill"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// broker is a broker as a process of its own, always at the same address.
type broker interface {
	url() string
	// kill ends it like a power failure. It keeps what it has acknowledged.
	kill()
	start()
	// connect returns a client like that of a node.
	connect(t *testing.T) outboxbroker.Broker
	// messages is how many events it has stored. It need not count over a kill.
	messages() int64
	// pending is how many events the receipts' consumer has not acknowledged, -1 while there is no
	// consumer.
	pending() int64
	// redeliver lets the time pass after which unacknowledged events come again.
	redeliver()
}

const overNATS, overServiceBus = "nats", "servicebus"

// brokers start the brokers that a world can have, with the window in which they compare ids. NATS
// gets it from the nodes.
var brokers = map[string]func(t *testing.T, window time.Duration) broker{
	overNATS: startNATS, overServiceBus: startServiceBus,
}

// onEach runs a test in a world of each broker.
func onEach(t *testing.T, s settings, test func(t *testing.T, w *world)) {
	t.Helper()
	for name := range brokers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own := s
			own.broker = name
			test(t, setup(t, own))
		})
	}
}

// serviceBus is the peer of Azure Service Bus.
type serviceBus struct {
	*shoptest.ServiceBus
	window time.Duration
}

func startServiceBus(t *testing.T, window time.Duration) broker {
	t.Helper()
	return serviceBus{shoptest.StartServiceBus(t, shoptest.ServiceBusOptions{Topic: servicebus.TopicOf(""),
		Subscriptions: map[string]string{notify.ConsumerName: orders.EventPaid,
			outboxbroker.ProbeType: outboxbroker.ProbeType},
		Window: window, Lock: outboxbroker.HandleTimeout, MaxDeliveries: 500}), window}
}

func (b serviceBus) url() string    { return b.URL() }
func (b serviceBus) kill()          { b.Kill() }
func (b serviceBus) start()         { b.Start() }
func (b serviceBus) pending() int64 { return int64(b.Counts().Pending) }
func (b serviceBus) redeliver()     { b.Forward(outboxbroker.HandleTimeout) }

func (b serviceBus) messages() int64 {
	counts := b.Counts()
	return int64(counts.Published - counts.Dropped)
}

func (b serviceBus) connect(t *testing.T) outboxbroker.Broker {
	t.Helper()
	connected, err := servicebus.Connect(b.URL(), servicebus.Settings{Topic: servicebus.TopicOf(""),
		Consumers: []string{notify.ConsumerName}, Window: b.window}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(connected.Close)
	return connected
}

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

// The broker is away: checkout goes on, and the backlog drains when it is back.
func TestBrokerDown(t *testing.T) {
	t.Parallel()
	onEach(t, settings{}, func(t *testing.T, w *world) {
		n := w.node()
		w.buy(0, "before@example.com")
		w.settled()
		w.broker.kill()
		emails := []string{"before@example.com"}
		for i := range 10 {
			emails = append(emails, fmt.Sprintf("meanwhile-%d@example.com", i))
			w.buy(0, emails[i+1])
		}
		w.receipts(emails[0])
		if waiting := n.Metric("onceshop_outbox_backlog_events", ""); waiting != 30 || !n.Ready() {
			t.Errorf("%g events are said to wait, want 30; ready: %t", waiting, n.Ready())
		}
		w.broker.start()
		w.settled() // within fleet.Healed, which is a minute
		w.receipts(emails...)
		w.check(0)
	})
}

// The broker is killed in the middle of the load, and comes back with its store.
func TestBrokerKilled(t *testing.T) {
	t.Parallel()
	onEach(t, settings{}, func(t *testing.T, w *world) {
		w.node()
		deliver(t, w)
		l := w.load(4)
		for range 3 {
			l.awaitMore(10)
			w.broker.kill()
			l.awaitMore(10)
			w.broker.start()
		}
		if broken := l.seen(0) + l.seen(http.StatusServiceUnavailable); broken > 0 {
			t.Errorf("buyers noticed %d times that the broker was away", broken)
		}
		l.verify()
	})
}

// The duplicate window is over when the relay repeats itself: the broker holds twins, and each
// effect happens once.
func TestBrokerRepeatAfterTheWindow(t *testing.T) {
	t.Parallel()
	onEach(t, settings{window: 200 * time.Millisecond}, func(t *testing.T, w *world) {
		w.environ["SHOP_RELAY_LEASE"] = "100ms"
		w.node()
		w.buy(0, buyer)
		w.settled()
		held := w.broker.messages()
		shoptest.Eventually(t, fleet.Soon, "the broker holds twins", func() bool {
			w.Exec(t, "UPDATE outbox SET sent_at = NULL, stream_seq = NULL, claimed_until = '-infinity' WHERE sent_at "+
				"< now() - interval '1 s'")
			return w.broker.messages() >= 2*held
		})
		w.settled()
		w.receipts(buyer)
		w.check(0)
	})
}

// An event that no handler can take becomes a dead letter after five tries, the others flow on, and
// a metric tells.
func TestBrokerPoison(t *testing.T) {
	t.Parallel()
	onEach(t, settings{}, func(t *testing.T, w *world) {
		n := w.node()
		w.buy(0, "before@example.com")
		w.settled()
		ack := w.broker.connect(t).Publish(t.Context(), []outboxbroker.Message{{Type: orders.EventPaid, ID: "poison",
			Data: []byte("no JSON")}})[0]
		if ack.Err != nil {
			t.Fatal(ack.Err)
		}
		w.buy(0, "after@example.com")
		shoptest.Eventually(t, fleet.Healed, "the other's receipt arrives", func() bool {
			return len(w.Mails(t, "after@example.com")) == 1
		})
		shoptest.Eventually(t, 2*time.Minute, "the poison is a dead letter", func() bool {
			return n.Metric("onceshop_consumer_events_total", `result="dead"`) == 1
		})
		if tries := n.Metric("onceshop_consumer_events_total", `result="failed"`); tries != 4 {
			t.Errorf("it failed %g times before, want 4", tries)
		}
		w.settled()
		w.receipts("before@example.com", "after@example.com")
		w.check(0)
	})
}

// A consumer is slower than the broker's patience: the event comes again while its first delivery
// is still handled, and each effect happens once.
func TestBrokerLosesPatience(t *testing.T) {
	t.Parallel()
	onEach(t, settings{}, func(t *testing.T, w *world) {
		t.Helper()
		n := w.node()
		lock, err := w.Pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = lock.Rollback(t.Context()) }()
		if _, err := lock.Exec(t.Context(), "LOCK TABLE receipts IN EXCLUSIVE MODE"); err != nil {
			t.Fatal(err)
		}
		handlers := func() int64 { // the sweeper waits for the lock, too
			return w.Count(t, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
				AND wait_event_type = 'Lock' AND query LIKE '%INSERT INTO receipts%' AND pid <> pg_backend_pid()`)
		}
		w.buy(0, buyer)
		shoptest.Eventually(t, fleet.Soon, "the event is being handled", func() bool { return handlers() == 1 })
		w.broker.redeliver()
		shoptest.Eventually(t, fleet.Soon, "it is handled twice at once", func() bool { return handlers() == 2 })
		if err := lock.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.settled()
		if done := n.Metric("onceshop_consumer_events_total", `result="done"`); done < 2 {
			t.Errorf("the event was handled %g times, want 2 at least", done)
		}
		w.receipts(buyer)
		w.check(0)
	})
}

// A relay dies between its claim and the broker, or between the broker and its mark. See TestCrash
// for NATS.
func TestBrokerRelayDies(t *testing.T) {
	t.Parallel()
	for _, point := range []crash.Point{crash.RelayClaimed, crash.RelayPublished} {
		t.Run(string(point), func(t *testing.T) {
			t.Parallel()
			die(t, point, deaths[point], overServiceBus)
		})
	}
}

const (
	// stormTwins are sent at once of each request.
	stormTwins = 10
	// stormRounds have two relays each, which both die.
	stormRounds = 5
	stormOrders = 200
)

// Two hundred orders and their charges come in storms of twins. Meanwhile ten relays die, two at a
// time, and the broker is killed three times. Each order gets one receipt.
func TestBrokerInAStorm(t *testing.T) {
	t.Parallel()
	onEach(t, settings{}, func(t *testing.T, w *world) {
		t.Helper()
		// A relay that dies takes the sender of receipts with it, which may leave a twin of a mail:
		// no mail is sent before the relays have died.
		smtp, url := through(t, w.environ["SMTP_URL"])
		w.environ["SMTP_URL"] = url
		smtp.down()
		w.node(onlyWeb + "=1")
		deliver(t, w)
		var emails []string
		buy := func() {
			emails = append(emails, fmt.Sprintf("buyer-%d@example.com", len(emails)))
			w.storm(emails[len(emails)-1])
		}
		for round := range stormRounds {
			if round%2 == 0 {
				w.broker.kill()
				buy()
				w.broker.start()
			}
			relays := []*fleet.Node{w.relay(crash.RelayClaimed), w.relay(crash.RelayPublished)}
			for len(emails) < stormOrders*(round+1)/stormRounds || !relays[0].Gone() || !relays[1].Gone() {
				buy()
			}
			for _, relay := range relays {
				if status := relay.AwaitExit(); status.Signal() != syscall.SIGKILL {
					t.Fatalf("a relay has ended with %d", status)
				}
			}
		}
		w.ownLeasesEnd()
		w.Exec(t, "UPDATE receipts SET due_at = now() WHERE sent_at IS NULL")
		smtp.up()
		w.another()
		w.broker.redeliver() // what the dead had in hand
		w.settled()
		w.receipts(emails...)
		w.check(0)
		t.Logf("%d orders", len(emails))
	})
}

// relay starts a node that dies at the point.
func (w *world) relay(point crash.Point) *fleet.Node {
	w.t.Helper()
	return w.launch("http://"+shoptest.FreeAddr(w.t), kill.Env+"="+string(point))
}

// storm places and pays an order, each by many twins at once.
func (w *world) storm(email string) {
	t := w.t
	t.Helper()
	var order struct{ ID string }
	w.twins("/v1/orders", "order-"+email, apptest.OrderBody(email, "MUG-ONCE", 1)).JSON(t, &order)
	w.twins("/v1/orders/"+order.ID+"/charges", "pay-"+email, `{"payment_method":"pm_ok"}`)
}

// twins sends a request many times at once. All get the same answer.
func (w *world) twins(path, key, body string) apitest.Response {
	t := w.t
	t.Helper()
	client := w.Alice(t)
	answers := shoptest.Race(stormTwins, func(int) apitest.Response {
		for {
			answer, err := client.Try(t.Context(), http.MethodPost, path, key, body)
			if err != nil || final(answer) {
				return answer
			}
		}
	})
	for _, answer := range answers {
		if answer.Status != http.StatusCreated || !bytes.Equal(answer.Body, answers[0].Body) {
			t.Fatalf("%s was answered %d %s, and %d %s", path, answers[0].Status, answers[0].Body, answer.Status,
				answer.Body)
		}
	}
	return answers[0]
}
