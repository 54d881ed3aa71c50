package servicebus_test

import (
	"context"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/broker/brokertest"
	"github.com/onceshop/onceshop/internal/outbox/broker/servicebus"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestMain(m *testing.M) { shoptest.Main(m) }

const (
	// patience bounds every wait, on a busy machine.
	patience = 60 * time.Second

	window        = 10 * time.Minute
	maxDeliveries = 5
)

var quiet = slog.New(slog.DiscardHandler)

type harness struct{ *shoptest.ServiceBus }

func newHarness(t *testing.T) harness {
	t.Helper()
	return newHarnessWithLock(t, broker.HandleTimeout)
}

func newHarnessWithLock(t *testing.T, lock time.Duration) harness {
	t.Helper()
	return harness{shoptest.StartServiceBus(t, shoptest.ServiceBusOptions{
		Topic: servicebus.TopicOf(""), Window: window, Lock: lock, MaxDeliveries: maxDeliveries,
		// One of them has no filter.
		Subscriptions: map[string]string{brokertest.Receipts: brokertest.Paid, brokertest.Audit: "",
			broker.ProbeType: broker.ProbeType},
	})}
}

func (h harness) Connect(t *testing.T) broker.Broker {
	t.Helper()
	return h.connectWith(t, settings())
}

// A shop's address may be what Azure's portal shows.
func TestConnectionString(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	at, err := url.Parse(h.URL())
	if err != nil {
		t.Fatal(err)
	}
	b, err := servicebus.Connect("Endpoint=sb://"+at.Host+"/;SharedAccessKeyName=test;SharedAccessKey=test;"+
		"UseDevelopmentEmulator=true", settings(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if err := b.Ready(within(t, patience)); err != nil {
		t.Error(err)
	}
}

func settings() servicebus.Settings {
	return servicebus.Settings{Topic: servicebus.TopicOf(""), Window: window,
		Consumers: []string{brokertest.Receipts, brokertest.Audit}}
}

func (h harness) connectWith(t *testing.T, s servicebus.Settings) *servicebus.Broker {
	t.Helper()
	b, err := servicebus.Connect(h.URL(), s, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func (h harness) Crash(t *testing.T)       { t.Helper(); h.Restart() }
func (h harness) PassWindow(t *testing.T)  { t.Helper(); h.Forward(window) }
func (h harness) PassTimeout(t *testing.T) { t.Helper(); h.Forward(broker.HandleTimeout) }
func (h harness) LoseAnswer(t *testing.T)  { t.Helper(); h.Fault("lose-answer") }
func (h harness) LosePublish(t *testing.T) { t.Helper(); h.Fault("lose-publish") }

func TestServiceBus(t *testing.T) {
	t.Parallel()
	newHarness := func(t *testing.T) brokertest.Harness { t.Helper(); return newHarness(t) }
	brokertest.Run(t, newHarness)
	brokertest.RunFaults(t, newHarness)
}

func message(eventType, id string) broker.Message {
	return broker.Message{Type: eventType, ID: eventType + "." + id, Data: []byte(id)}
}

// consume hands the deliveries of the receipts' subscription to handle until the test ends.
func consume(t *testing.T, b broker.Broker, consumer string, handle func(context.Context, broker.Delivery)) {
	t.Helper()
	subscription, err := b.Subscribe(t.Context(), consumer, brokertest.Paid)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			if err := subscription.Consume(ctx, 4, handle); err != nil {
				t.Logf("consume again: %v", err)
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func receive[T any](t *testing.T, from <-chan T) (got T) {
	t.Helper()
	select {
	case got = <-from:
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	return got
}

// The broker counts a delivery each time that a lock is lost or a message is given back.
func TestRetryKeepsTheLock(t *testing.T) {
	t.Parallel()
	h := newHarnessWithLock(t, time.Second)
	s := settings()
	s.Lock = time.Second
	b := h.connectWith(t, s)
	done := make(chan broker.Delivery, 1)
	tries := 0
	consume(t, b, brokertest.Receipts, func(ctx context.Context, d broker.Delivery) {
		if tries++; tries == 1 {
			_ = d.Retry(ctx, 3*time.Second)
			return
		}
		if err := d.Ack(ctx); err != nil {
			t.Errorf("acknowledge: %v", err)
		}
		done <- d
	})
	if ack := b.Publish(t.Context(), []broker.Message{message(brokertest.Paid, "1")})[0]; ack.Err != nil {
		t.Fatal(ack.Err)
	}
	if d := receive(t, done); d.Count != 2 {
		t.Errorf("delivery %d, want 2", d.Count)
	}
	if renewed := h.Counts().Renewed; renewed < 5 {
		t.Errorf("the lock was renewed %d times in 3 times its duration, want 5 at least", renewed)
	}
}

// Why Retry schedules no copy: under the message's id it is a duplicate, and under another id every
// subscription gets it.
func TestScheduledCopies(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	b := h.Connect(t)
	address, err := url.Parse(h.URL())
	if err != nil {
		t.Fatal(err)
	}
	client, err := azservicebus.NewClientFromConnectionString("Endpoint=sb://"+address.Host+
		";SharedAccessKeyName=test;SharedAccessKey=test;UseDevelopmentEmulator=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close(context.WithoutCancel(t.Context())) })
	sender, err := client.NewSender(servicebus.TopicOf(""), nil)
	if err != nil {
		t.Fatal(err)
	}
	eventType, other := brokertest.Paid, "another id"
	m := message(eventType, "1")
	b.Publish(t.Context(), []broker.Message{m})
	for _, id := range []string{m.ID, other} {
		_, err := sender.ScheduleMessages(t.Context(), []*azservicebus.Message{{MessageID: &id, Subject: &eventType,
			Body: m.Data}}, time.Now().Add(time.Hour), nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]chan string{brokertest.Receipts: make(chan string, 10), brokertest.Audit: make(chan string, 10)}
	for consumer, ids := range got {
		consume(t, b, consumer, func(ctx context.Context, d broker.Delivery) {
			_ = d.Ack(ctx)
			ids <- d.ID
		})
		if id := receive(t, ids); id != m.ID {
			t.Errorf("consumer %s got %s, want %s", consumer, id, m.ID)
		}
	}
	h.Forward(time.Hour)
	for consumer, ids := range got {
		if id := receive(t, ids); id != other {
			t.Errorf("consumer %s got %s, want the copy under another id", consumer, id)
		}
	}
	if counts := h.Counts(); counts.Published != 3 || counts.Dropped != 1 {
		t.Errorf("%d messages were published and %d dropped, want 3 and 1", counts.Published, counts.Dropped)
	}
}

// Other than Retry, a message that is left alone comes nearer to the broker's limit.
func TestBrokerMakesDeadLetters(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	b := h.Connect(t)
	var counts []int
	got := make(chan int)
	consume(t, b, brokertest.Receipts, func(_ context.Context, d broker.Delivery) { got <- d.Count })
	b.Publish(t.Context(), []broker.Message{message(brokertest.Paid, "1")})
	for range maxDeliveries {
		counts = append(counts, receive(t, got))
		h.Forward(broker.HandleTimeout)
	}
	if want := []int{1, 2, 3, 4, 5}; !slices.Equal(counts, want) {
		t.Errorf("deliveries %v, want %v", counts, want)
	}
	var letters []broker.Letter
	shoptest.Eventually(t, patience, "the dead letter", func() bool {
		letters, _, _ = b.Letters().List(t.Context(), "", 10)
		return len(letters) == 1
	})
	if letters[0].Reason != "MaxDeliveryCountExceeded" || letters[0].Consumer != brokertest.Receipts {
		t.Errorf("the dead letter is %+v", letters[0])
	}
	if _, err := b.Letters().Retry(t.Context(), letters[0].ID); err != nil {
		t.Fatal(err)
	}
	if again := receive(t, got); again != 1 {
		t.Errorf("delivery %d after the retry, want 1", again)
	}
}

func TestOldDeadLetter(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	b := h.Connect(t)
	h.Forward(-broker.DeadAge - time.Hour)
	got := make(chan int)
	consume(t, b, brokertest.Receipts, func(_ context.Context, d broker.Delivery) { got <- d.Count })
	b.Publish(t.Context(), []broker.Message{message(brokertest.Paid, "1")})
	for range maxDeliveries {
		receive(t, got)
		h.Forward(broker.HandleTimeout)
	}
	shoptest.Eventually(t, patience, "the dead letter", func() bool { return h.Counts().Dead == 1 })
	letters, more, err := b.Letters().List(t.Context(), "", 10)
	if len(letters) > 0 || more || err != nil {
		t.Errorf("letters %+v, more %t, %v, want none", letters, more, err)
	}
	if n, more, err := b.Letters().RetryAll(t.Context()); n > 0 || more || err != nil {
		t.Errorf("retried %d, more %t, %v, want none", n, more, err)
	}
}

func TestSubscriptionWithoutFilter(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	b := h.Connect(t)
	got := make(chan string, 10)
	consume(t, b, brokertest.Audit, func(ctx context.Context, d broker.Delivery) {
		_ = d.Ack(ctx)
		got <- d.ID
	})
	b.Publish(t.Context(), []broker.Message{message("order.placed", "1"), message(brokertest.Paid, "2")})
	if id := receive(t, got); id != "order.paid.2" || len(got) > 0 {
		t.Errorf("the consumer got %s first, and %d more", id, len(got))
	}
}

// One message that the broker or the client refuses must not keep the others of its batch out.
func TestRefusedBatch(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	b := h.Connect(t)
	h.Fault("refuse-publish")
	large := message(brokertest.Paid, "large")
	large.Data = make([]byte, 300<<10)
	acks := b.Publish(within(t, patience), []broker.Message{message(brokertest.Paid, "1"),
		message(brokertest.Paid, "2"), large, message(brokertest.Paid, "3")})
	for i, ack := range acks {
		if failed := ack.Err != nil; failed != (i == 2) {
			t.Errorf("message %d: %v", i, ack.Err)
		}
	}
	if counts := h.Counts(); counts.Published != 3 || counts.Dropped != 0 {
		t.Errorf("the broker has taken %d messages and dropped %d, want 3 and none", counts.Published, counts.Dropped)
	}
}

// A message that is acknowledged at the moment when the connection breaks is not delivered again:
// the client connects again and settles the lock that it has.
func TestConnectionBreaksBeforeAck(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	b := h.Connect(t)
	acked := make(chan error, 10)
	consume(t, b, brokertest.Receipts, func(ctx context.Context, d broker.Delivery) { acked <- d.Ack(ctx) })
	h.Fault("lose-settle")
	b.Publish(t.Context(), []broker.Message{message(brokertest.Paid, "1")})
	if err := receive(t, acked); err != nil {
		t.Errorf("acknowledge over a new connection: %v", err)
	}
	b.Publish(t.Context(), []broker.Message{message(brokertest.Paid, "2")})
	if err := receive(t, acked); err != nil || len(acked) > 0 {
		t.Errorf("acknowledge the next message: %v, and %d more came", err, len(acked))
	}
}

// When the answer to an acknowledgement is lost, the consumer sees an error, and the message does
// not come again.
func TestUnknownAck(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	b := h.Connect(t)
	acked := make(chan error, 10)
	consume(t, b, brokertest.Receipts, func(ctx context.Context, d broker.Delivery) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		acked <- d.Ack(ctx)
	})
	h.Fault("swallow-settle")
	b.Publish(t.Context(), []broker.Message{message(brokertest.Paid, "1")})
	if err := receive(t, acked); err == nil {
		t.Error("an acknowledgement without an answer succeeded")
	}
	h.Forward(broker.HandleTimeout)
	b.Publish(t.Context(), []broker.Message{message(brokertest.Paid, "2")})
	if err := receive(t, acked); err != nil || len(acked) > 0 {
		t.Errorf("acknowledge the next message: %v, and %d more came", err, len(acked))
	}
}

func TestMissingEntity(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	for name, s := range map[string]servicebus.Settings{
		"topic nowhere":       {Topic: "nowhere"},
		"subscription nobody": {Topic: servicebus.TopicOf(""), Consumers: []string{"nobody"}},
	} {
		err := h.connectWith(t, s).Open(within(t, patience))
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("open %s: %v, want an error that names it", name, err)
		}
	}
}

func TestNoBroker(t *testing.T) {
	t.Parallel()
	address := "servicebus://test:secret@" + shoptest.FreeAddr(t) + "?emulator=true"
	b, err := servicebus.Connect(address, settings(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if err := b.Ready(within(t, patience)); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("ready without a broker: %v", err)
	}
	acks := b.Publish(within(t, patience), []broker.Message{message(brokertest.Paid, "1"),
		message(brokertest.Paid, "2")})
	if acks[0].Err == nil || acks[1].Err == nil {
		t.Errorf("published without a broker: %v", acks)
	}
}

func TestConnectRefusesAddresses(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"servicebus://host", "servicebus://name@host", "servicebus://name:@host",
		"servicebus://:secret@host", "servicebus://name:secret@", "servicebus://name:secret;x=y@host", "::secret",
		"Endpoint=sb://host/;SharedAccessKey=secret", "Endpoint=sb://secret"} {
		_, err := servicebus.Connect(address, settings(), quiet)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want an error without the key", address, err)
		}
	}
}

// The relay and a consumer, with a broker that crashes three times: every event is handled, none is
// handled twice unless its acknowledgement was lost with the broker.
func TestOutbox(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	b, pool := h.Connect(t), shoptest.DB(t)
	const n = 90
	var handled atomic.Int64
	seen := map[uuid.UUID]*atomic.Int64{}
	ids := make([]uuid.UUID, n)
	for i := range ids {
		ids[i] = uuid.Must(uuid.NewV7())
		seen[ids[i]] = &atomic.Int64{}
	}
	consumer, err := outbox.NewConsumer(t.Context(), pool, b, brokertest.Receipts, brokertest.Paid,
		func(_ context.Context, e outbox.Event) error {
			if seen[e.ID].Add(1) == 1 {
				handled.Add(1)
			}
			return nil
		}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	relay := outbox.NewRelay(pool, b, 30*time.Second, nil, quiet)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- consumer.Run(ctx) }()
	go func() { ended <- relay.Run(ctx) }()
	for part := range 3 {
		err := pg.InTx(t.Context(), pool, func(tx pgx.Tx) error {
			for _, id := range ids[part*n/3 : (part+1)*n/3] {
				if err := outbox.EnqueueTx(t.Context(), tx, outbox.NewEvent{ID: id, Type: brokertest.Paid,
					OrderID: id, Data: part}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		some := int64(part*n/3 + 5)
		shoptest.Eventually(t, patience, "some events are handled", func() bool { return handled.Load() >= some })
		h.Restart()
	}
	shoptest.Eventually(t, patience, "all events are handled", func() bool { return handled.Load() == n })
	var unsent int
	shoptest.Eventually(t, patience, "all events are marked as sent", func() bool {
		err := pool.QueryRow(t.Context(), "SELECT count(*) FROM outbox WHERE sent_at IS NULL").Scan(&unsent)
		return err == nil && unsent == 0
	})
	cancel()
	for range cap(ended) {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
