package pulsar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/pulsar-client-go/pulsar"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const (
	// patience bounds every wait, on a busy machine.
	patience = 60 * time.Second

	paid     = "order.paid"
	receipts = "receipts"
	audit    = "audit"

	deduplicates = "brokerDeduplicationEnabled=true\n"
)

var quiet = slog.New(slog.DiscardHandler)

// cells gives each test topics of its own.
var cells atomic.Int64

func newCell() string { return fmt.Sprintf("test%d", cells.Add(1)) }

// connect returns an open client.
func (s *server) connect(t *testing.T, cell string) *Broker {
	t.Helper()
	b, err := Connect("pulsar://"+s.broker, Settings{Cell: cell, Consumers: []string{receipts, audit},
		MaxAge: time.Hour}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if err := b.Open(within60(t)); err != nil {
		t.Fatal(err)
	}
	return b
}

func within60(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	t.Cleanup(cancel)
	return ctx
}

func message(number int64) broker.Message {
	return broker.Message{Type: paid, ID: fmt.Sprint(paid, ".", number), Number: number,
		Data: fmt.Appendf(nil, `{"n":%d}`, number), Traceparent: fmt.Sprint("00-trace-", number)}
}

func messages(numbers ...int64) (list []broker.Message) {
	for _, n := range numbers {
		list = append(list, message(n))
	}
	return list
}

// publish publishes the messages and returns which are new.
func publish(t *testing.T, b *Broker, list ...broker.Message) (stored []int64) {
	t.Helper()
	for i, ack := range b.Publish(within60(t), list) {
		if ack.Err != nil {
			t.Fatalf("publish number %d: %v", list[i].Number, ack.Err)
		}
		if !ack.Duplicate {
			stored = append(stored, list[i].Number)
		}
	}
	return stored
}

// topic returns the bodies of the events that the broker has stored, in order.
func topic(t *testing.T, b *Broker) (bodies []string) {
	t.Helper()
	reader, err := b.client.CreateReader(pulsar.ReaderOptions{Topic: b.events,
		StartMessageID: pulsar.EarliestMessageID()})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	end, err := reader.GetLastMessageID()
	if err != nil {
		t.Fatal(err)
	}
	for last := pulsar.MessageID(nil); before(last, end); {
		m, err := reader.Next(within60(t))
		if err != nil {
			t.Fatal(err)
		}
		if last = m.ID(); m.Properties()[typeProperty] != broker.ProbeType {
			bodies = append(bodies, string(m.Payload()))
		}
	}
	return bodies
}

func bodies(numbers ...int64) (list []string) {
	for _, m := range messages(numbers...) {
		list = append(list, string(m.Data))
	}
	return list
}

func wantTopic(t *testing.T, b *Broker, numbers ...int64) {
	t.Helper()
	if got := topic(t, b); !slices.Equal(got, bodies(numbers...)) {
		t.Errorf("the topic has %q, want %v", got, numbers)
	}
}

// consumer collects what is delivered.
type consumer struct {
	mu   sync.Mutex
	got  []broker.Delivery
	stop func()
}

func ack(ctx context.Context, d broker.Delivery) error { return d.Ack(ctx) }

// consume runs a consumer until the test ends or its stop is called.
func consume(t *testing.T, b *Broker, name string, atOnce int, settle func(context.Context, broker.Delivery) error,
) *consumer {
	t.Helper()
	s, err := b.Subscribe(t.Context(), name, paid)
	if err != nil {
		t.Fatal(err)
	}
	c := &consumer{}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			err := s.Consume(ctx, atOnce, func(ctx context.Context, d broker.Delivery) {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
				defer cancel()
				c.mu.Lock()
				c.got = append(c.got, d)
				c.mu.Unlock()
				if err := settle(ctx, d); err != nil {
					t.Logf("settle %s: %v", d.ID, err)
				}
			})
			if err != nil {
				t.Logf("consume again: %v", err)
			}
		}
	}()
	c.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	t.Cleanup(c.stop)
	return c
}

func (c *consumer) deliveries() []broker.Delivery {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.got)
}

// wait returns the deliveries when there are n at least.
func (c *consumer) wait(t *testing.T, n int) []broker.Delivery {
	t.Helper()
	shoptest.Eventually(t, patience, fmt.Sprintf("%d deliveries", n), func() bool { return len(c.deliveries()) >= n })
	return c.deliveries()
}

// TestPulsar has what can share a server.
func TestPulsar(t *testing.T) {
	t.Parallel()
	s := startServer(t, deduplicates)
	for name, test := range map[string]func(t *testing.T, s *server){
		"numbers":                     testNumbers,
		"another producer's name":     testOtherName,
		"many messages":               testMany,
		"one too large":               testTooLarge,
		"every consumer gets all":     testConsumers,
		"two nodes share":             testTwoNodes,
		"a retry comes after a pause": testRetryPause,
		"many retries":                testManyRetries,
		"a consumer gives back":       testGivesBack,
		"poison":                      testPoison,
		"a letter is retried once":    testRetryLetter,
		"all letters are retried":     testRetryAll,
		"letters have pages":          testPages,
		"partitions are refused":      testPartitions,
		"relays are killed":           testRelaysKilled,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, s)
		})
	}
}

// What Pulsar does with numbers: all are confirmed, and only those above the highest are stored.
func testNumbers(t *testing.T, s *server) {
	t.Helper()
	b := s.connect(t, newCell())
	for _, step := range []struct {
		send, stored []int64
	}{
		{[]int64{1, 2, 3, 4, 5}, []int64{1, 2, 3, 4, 5}},
		{[]int64{5}, nil},                       // the same number at once
		{[]int64{3, 4, 5, 6, 7}, []int64{6, 7}}, // a relay that begins again
		{[]int64{10, 11}, []int64{10, 11}},      // numbers may be missing
		{[]int64{8, 9}, nil},                    // and then the missing ones are lost, although told
	} {
		if got := publish(t, b, messages(step.send...)...); !slices.Equal(got, step.stored) {
			t.Errorf("sent %v, told that %v are new, want %v", step.send, got, step.stored)
		}
	}
	// The broker cannot tell that a twin is one before the first is stored. It ends the connection,
	// the client sends all again, and hears that all are duplicates.
	publish(t, b, messages(12, 12, 13)...)
	publish(t, b, message(1<<60))
	other := message(5)
	other.Data = []byte(`{"n":"another body"}`)
	if got := publish(t, b, other); len(got) > 0 {
		t.Error("another body under the same number is new")
	}
	wantTopic(t, b, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 1<<60)
}

// The numbers of another producer's name are compared alone. One with the same name cannot connect
// while the first is there, and goes on where it was when it has left.
func testOtherName(t *testing.T, s *server) {
	t.Helper()
	cell := newCell()
	b, other := s.connect(t, cell), s.connect(t, cell)
	publish(t, b, messages(1, 2)...)
	if duplicate, err := b.publishOnce(within60(t), b.events, "another", encode(message(1))); duplicate || err != nil {
		t.Errorf("another name: duplicate %t, %v", duplicate, err)
	}
	if ack := other.Publish(within60(t), messages(3))[0]; ack.Err == nil {
		t.Error("two producers with one name are connected")
	}
	b.publisher.mu.Lock()
	b.publisher.leave()
	b.publisher.mu.Unlock()
	<-b.publisher.closed
	if got := publish(t, other, messages(2, 3)...); !slices.Equal(got, []int64{3}) {
		t.Errorf("the next producer with the name stores %v, want 3", got)
	}
	wantTopic(t, b, 1, 2, 1, 3)
}

func testMany(t *testing.T, s *server) {
	t.Helper()
	b := s.connect(t, newCell())
	const n = 2500
	var numbers []int64
	for i := range int64(n) {
		numbers = append(numbers, i+1)
	}
	begin := time.Now()
	if got := publish(t, b, messages(numbers...)...); len(got) != n {
		t.Errorf("%d of %d are new", len(got), n)
	}
	t.Logf("published %d messages in %s", n, time.Since(begin))
	wantTopic(t, b, numbers...)
}

// The message and those behind it are not stored, and can be sent later.
func testTooLarge(t *testing.T, s *server) {
	t.Helper()
	b := s.connect(t, newCell())
	list := messages(1, 2, 3, 4)
	for _, size := range []int{largest + 1, 2 * largest} {
		list[2].Data = make([]byte, size)
		acks := b.Publish(within60(t), list)
		if acks[0].Err != nil || acks[1].Err != nil || !errors.Is(acks[2].Err, broker.ErrRefused) ||
			!errors.Is(acks[3].Err, errNotSent) {
			t.Errorf("%d bytes: %+v", size, acks)
		}
	}
	list[2].Data = []byte(strings.Repeat("x", largest)) // just not too large
	if got := publish(t, b, list...); !slices.Equal(got, []int64{3, 4}) {
		t.Errorf("told that %v are new", got)
	}
	if got := topic(t, b); len(got) != 4 || len(got[2]) != largest {
		t.Errorf("the topic has %d messages", len(got))
	}
}

func testConsumers(t *testing.T, s *server) {
	t.Helper()
	b := s.connect(t, newCell())
	placed := message(2)
	placed.Type = "order.placed"
	publish(t, b, message(1), placed, message(3))
	for _, name := range []string{receipts, audit} {
		got := consume(t, b, name, 1, ack).wait(t, 2)
		for i, want := range messages(1, 3) {
			if d := got[i]; d.Type != paid || d.ID != want.ID || string(d.Data) != string(want.Data) ||
				d.Traceparent != want.Traceparent || d.Count != 1 || time.Since(d.Place.At).Abs() > patience {
				t.Errorf("%s got %+v, want %+v", name, d, want)
			}
		}
	}
}

func testTwoNodes(t *testing.T, s *server) {
	t.Helper()
	cell := newCell()
	b, other := s.connect(t, cell), s.connect(t, cell)
	nodes := []*consumer{consume(t, b, receipts, 4, ack), consume(t, other, receipts, 4, ack)}
	const n = 200
	for i := range int64(n) {
		publish(t, b, message(i+1))
	}
	all := func() (ids []string) {
		for _, node := range nodes {
			for _, d := range node.deliveries() {
				ids = append(ids, d.ID)
			}
		}
		slices.Sort(ids)
		return ids
	}
	shoptest.Eventually(t, patience, "all messages are delivered", func() bool { return len(all()) >= n })
	if unique := slices.Compact(all()); len(unique) != n || len(all()) != n {
		t.Errorf("%d deliveries of %d messages, want %d of each", len(all()), len(unique), n)
	}
}

func testRetryPause(t *testing.T, s *server) {
	t.Helper()
	b := s.connect(t, newCell())
	const pause = time.Second
	var put, came time.Time
	c := consume(t, b, receipts, 1, func(ctx context.Context, d broker.Delivery) error {
		switch {
		case d.ID != message(1).ID:
			return d.Ack(ctx)
		case put.IsZero():
			put = time.Now()
			return d.Retry(ctx, pause)
		}
		came = time.Now()
		return d.Ack(ctx)
	})
	publish(t, b, messages(1, 2, 3)...)
	got := c.wait(t, 4)
	c.stop()
	if late := got[3]; late.ID != message(1).ID || late.Place != got[0].Place || late.Count != 2 {
		t.Errorf("the last delivery is number %d of %s at %v, want the second of the first",
			late.Count, late.ID, late.Place)
	}
	if waited := came.Sub(put); waited < pause*9/10 || waited > 20*pause {
		t.Errorf("it came again after %s, want %s", waited, pause)
	}
}

func testManyRetries(t *testing.T, s *server) {
	t.Helper()
	b := s.connect(t, newCell())
	const tries = 20
	n := 0
	c := consume(t, b, receipts, 1, func(ctx context.Context, d broker.Delivery) error {
		if n++; n < tries {
			return d.Retry(ctx, time.Millisecond)
		}
		return d.Ack(ctx)
	})
	publish(t, b, message(1))
	if last := c.wait(t, tries)[tries-1]; last.Count != tries {
		t.Errorf("the last delivery is number %d, want %d", last.Count, tries)
	}
}

// A consumer that stops gives back what it has put off or not settled, before its time.
func testGivesBack(t *testing.T, s *server) {
	t.Helper()
	b := s.connect(t, newCell())
	first := consume(t, b, receipts, 1, func(ctx context.Context, d broker.Delivery) error {
		if d.ID == message(1).ID {
			return d.Retry(ctx, time.Hour)
		}
		return nil
	})
	publish(t, b, messages(1, 2)...)
	first.wait(t, 2)
	first.stop()
	consume(t, b, receipts, 1, ack).wait(t, 2)
}

// list returns all dead letters, newest first.
func list(t *testing.T, b *Broker) []broker.Letter {
	t.Helper()
	letters, more, err := b.Letters().List(within60(t), "", 1000)
	if err != nil || more {
		t.Fatalf("list the dead letters: more %t, %v", more, err)
	}
	return letters
}

// bury makes dead letters of messages and returns them, newest first.
func bury(t *testing.T, b *Broker, numbers ...int64) []broker.Letter {
	t.Helper()
	c := consume(t, b, receipts, 1, func(ctx context.Context, d broker.Delivery) error {
		return d.Dead(ctx, "no: "+d.ID)
	})
	publish(t, b, messages(numbers...)...)
	shoptest.Eventually(t, patience, "the dead letters", func() bool { return len(list(t, b)) == len(numbers) })
	c.stop()
	return list(t, b)
}

func testPoison(t *testing.T, s *server) {
	t.Helper()
	cell := newCell()
	b := s.connect(t, cell)
	reason := "it is poison: \"ä\"\n"
	c := consume(t, b, receipts, 1, func(ctx context.Context, d broker.Delivery) error {
		if d.ID == message(2).ID {
			return errors.Join(d.Dead(ctx, reason), d.Dead(ctx, "the second letter of a delivery"))
		}
		return d.Ack(ctx)
	})
	publish(t, b, messages(1, 2, 3)...)
	got := c.wait(t, 3)
	c.stop()
	letters := list(t, s.connect(t, cell)) // of another node
	if len(letters) != 1 {
		t.Fatalf("%d dead letters, want 1", len(letters))
	}
	want := message(2)
	if l := letters[0]; l.Consumer != receipts || l.Reason != reason || l.Type != want.Type || l.ID == "" ||
		string(l.Data) != string(want.Data) || l.Traceparent != want.Traceparent || l.Message.ID != want.ID ||
		l.Place.Seq != got[1].Place.Seq || !l.Place.At.Equal(got[1].Place.At) || time.Since(l.At).Abs() > patience {
		t.Errorf("the dead letter is %+v", l)
	}
	if n, known, err := b.Letters().Count(within60(t)); err != nil || !known || n != 1 {
		t.Errorf("%d dead letters, known %t, %v, want 1", n, known, err)
	}
}

func testRetryLetter(t *testing.T, s *server) {
	t.Helper()
	cell := newCell()
	b, other := s.connect(t, cell), s.connect(t, cell)
	letters := bury(t, b, 1, 2)
	id := letters[1].ID
	errs := shoptest.Race(2, func(i int) error {
		_, err := []*Broker{b, other}[i].Letters().Retry(within60(t), id)
		return err
	})
	if !slices.Contains(errs, nil) {
		t.Fatalf("no retry succeeded: %v", errs)
	}
	for _, node := range []*Broker{b, other} {
		if _, err := node.Letters().Retry(within60(t), id); !errors.Is(err, broker.ErrNoLetter) {
			t.Errorf("another retry: %v, want ErrNoLetter", err)
		}
		if left := list(t, node); len(left) != 1 || left[0].ID != letters[0].ID {
			t.Errorf("left are %+v, want %s", left, letters[0].ID)
		}
	}
	wantTopic(t, b, 1, 2, 1)
	if got := publish(t, b, messages(2, 3)...); !slices.Equal(got, []int64{3}) {
		t.Errorf("after the retry the relay's numbers %v are new, want 3", got)
	}
}

func testRetryAll(t *testing.T, s *server) {
	t.Helper()
	b := s.connect(t, newCell())
	bury(t, b, 1, 2, 3)
	if n, more, err := b.Letters().RetryAll(within60(t)); n != 3 || more || err != nil {
		t.Errorf("retried %d, more %t, %v, want 3", n, more, err)
	}
	if left := list(t, b); len(left) > 0 {
		t.Errorf("left are %+v", left)
	}
	wantTopic(t, b, 1, 2, 3, 1, 2, 3)
}

func testPages(t *testing.T, s *server) {
	t.Helper()
	b := s.connect(t, newCell())
	letters := bury(t, b, 1, 2, 3)
	first, more, err := b.Letters().List(within60(t), "", 2)
	if err != nil || !more || len(first) != 2 {
		t.Fatalf("%d letters, more %t, %v, want 2 of 3", len(first), more, err)
	}
	if _, err := b.Letters().Retry(within60(t), first[1].ID); err != nil { // between the pages
		t.Fatal(err)
	}
	rest, more, err := b.Letters().List(within60(t), first[1].ID, 2)
	if err != nil || more || len(rest) != 1 || rest[0].ID != letters[2].ID {
		t.Fatalf("%d letters, more %t, %v, want the last one", len(rest), more, err)
	}
}

func testPartitions(t *testing.T, s *server) {
	t.Helper()
	cell := newCell()
	s.admin(t, "PUT", "/persistent/public/default/shop-"+cell+"-events/partitions", "3")
	b, err := Connect("pulsar://"+s.broker, Settings{Cell: cell}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Open(within60(t)); err == nil || !strings.Contains(err.Error(), "3 partitions") {
		t.Errorf("opened with %v", err)
	}
}

// Without deduplication, the service must not run.
func TestDeduplicationIsOff(t *testing.T) {
	t.Parallel()
	s := startServer(t, "")
	b, err := Connect("pulsar://"+s.broker, Settings{}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Open(within60(t)); !errors.Is(err, broker.ErrForgets) ||
		!strings.Contains(err.Error(), "brokerDeduplicationEnabled=true") {
		t.Errorf("opened with %v, want ErrForgets and the setting", err)
	}
	s.admin(t, "POST", "/namespaces/public/default/deduplication", "true")
	shoptest.Eventually(t, patience, "the namespace's deduplication is on", func() bool {
		return b.Open(within60(t)) == nil
	})
}

func TestAddress(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"pulsar://", "pulsar://host/tenant", "pulsar://host/a/b/c", "::secret",
		"pulsar://host:6650?x=secret", "pulsar://:secret@host:port"} {
		if _, err := Connect(address, Settings{}, quiet); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want an error without the token", address, err)
		}
	}
	b, err := Connect("pulsar+ssl://:token@a:6651,b:6651/tenant/namespace", Settings{Cell: "north"}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if b.events != "persistent://tenant/namespace/shop-north-events" {
		t.Errorf("the topic is %s", b.events)
	}
}
