// Package brokertest has the tests that the adapter of every broker must pass.
package brokertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// Names that a harness must know: two consumers of one type of message.
const (
	Paid     = "order.paid"
	Receipts = "receipts"
	Audit    = "audit"
)

// patience bounds every wait, on a busy machine.
const patience = 60 * time.Second

// Harness is an empty broker for one test, and what the test can do to it.
type Harness interface {
	// Connect returns a client of its own, not opened yet. The harness closes it when the test
	// ends.
	Connect(t *testing.T) broker.Broker
	// Crash kills the broker and starts it again with what it has stored.
	Crash(t *testing.T)
	// PassWindow returns when the broker has forgotten what was published before. It does nothing
	// if the broker compares numbers, because a publisher that stays is not forgotten.
	PassWindow(t *testing.T)
	// PassTimeout returns when the broker has given up waiting for deliveries that were not
	// settled.
	PassTimeout(t *testing.T)
	// LoseAnswer has the broker store what is published next and cut the connection instead of
	// answering.
	LoseAnswer(t *testing.T)
	// LosePublish has the broker cut the connection instead of storing what is published next.
	LosePublish(t *testing.T)
}

// Run tests the adapter, with an empty broker for each test.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	run(t, newHarness, map[string]func(t *testing.T, b *bundle){
		"a twin at once is stored once":              testTwinAtOnce,
		"a twin after the window":                    testTwinAfterWindow,
		"a twin with another body is dropped":        testOtherBody,
		"a backlog is delivered whole":               testBacklog,
		"every consumer gets every message":          testTwoConsumers,
		"the nodes of a consumer share its messages": testTwoNodes,
		"an unsettled message comes again":           testRedelivery,
		"a late acknowledgement does no harm":        testLateAck,
		"a retry comes after its pause":              testRetryPause,
		"retries are not counted":                    testManyRetries,
		"a consumer that stops gives back":           testGivesBack,
		"poison becomes a dead letter":               testPoison,
		"a dead letter is retried once":              testRetryLetter,
		"all dead letters are retried":               testRetryAll,
		"dead letters are retried in any order":      testRetryNewestFirst,
		"dead letters have pages":                    testPages,
	})
}

// RunFaults is Run for the tests that crash the broker or cut its connections.
func RunFaults(t *testing.T, newHarness func(t *testing.T) Harness) {
	run(t, newHarness, map[string]func(t *testing.T, b *bundle){
		"a twin after a crash is stored once": testTwinAfterCrash,
		"an unknown outcome can be repeated":  testUnknownOutcome,
		"a lost publish can be repeated":      testLostPublish,
		"what is confirmed survives a crash":  testCrashKeeps,
	})
}

func run(t *testing.T, newHarness func(t *testing.T) Harness, tests map[string]func(t *testing.T, b *bundle)) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			client := h.Connect(t)
			Open(t, client)
			test(t, &bundle{Harness: h, client: client, numbers: map[string]int64{}})
		})
	}
}

// Open opens the client, as a node does: it tries again while the broker is too busy to answer.
func Open(t *testing.T, client broker.Broker) {
	t.Helper()
	shoptest.Eventually(t, patience, "the broker is open", func() bool {
		err := client.Open(within(t))
		if errors.Is(err, broker.ErrForgets) {
			t.Fatal(err)
		}
		if err != nil {
			t.Log(err)
		}
		return err == nil
	})
}

type bundle struct {
	Harness
	client broker.Broker
	ends   int
	// numbers are those of the messages with an id, for a broker that compares them.
	numbers map[string]int64
}

func message(id string) broker.Message {
	return broker.Message{Type: Paid, ID: Paid + "." + id, Data: []byte(`{"n":"` + id + `"}`),
		Traceparent: "00-trace-" + id}
}

// numbered returns the messages as a relay publishes them: if the broker compares numbers, each
// message has the next one, and keeps it.
func (b *bundle) numbered(messages ...broker.Message) []broker.Message {
	if b.client.Memory().Compares != broker.Numbers {
		return messages
	}
	for i, m := range messages {
		if b.numbers[m.ID] == 0 {
			b.numbers[m.ID] = int64(len(b.numbers)) + 1
		}
		messages[i].Number = b.numbers[m.ID]
	}
	return messages
}

// publish publishes the messages and returns their acks, none of which has an error.
func (b *bundle) publish(t *testing.T, messages ...broker.Message) []broker.Ack {
	t.Helper()
	acks := b.client.Publish(within(t), b.numbered(messages...))
	if len(acks) != len(messages) {
		t.Fatalf("%d acks for %d messages", len(acks), len(messages))
	}
	for i, m := range messages {
		if acks[i].Err != nil {
			t.Fatalf("publish %s: %v", m.ID, acks[i].Err)
		}
	}
	return acks
}

// publishUntilTaken publishes a message again, as a relay does, until there is no error.
func (b *bundle) publishUntilTaken(t *testing.T, m broker.Message) {
	t.Helper()
	shoptest.Eventually(t, patience, "the message is taken", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		return b.client.Publish(ctx, b.numbered(m))[0].Err == nil
	})
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// Consumer collects what is delivered to it.
type Consumer struct {
	// Stop ends it and returns when it has ended.
	Stop func()
	mu   sync.Mutex
	got  []broker.Delivery
}

// Settle ends a delivery, or leaves it alone.
type Settle func(ctx context.Context, d broker.Delivery) error

// Ack is the Settle of a consumer that has no trouble.
func Ack(ctx context.Context, d broker.Delivery) error { return d.Ack(ctx) }

// Consume runs a consumer of the type Paid, one message at a time, until the test ends or its Stop
// is called.
func Consume(t *testing.T, client broker.Broker, name string, settle Settle) *Consumer {
	t.Helper()
	return consume(t, client, name, 1, settle)
}

func consume(t *testing.T, client broker.Broker, name string, atOnce int, settle Settle) *Consumer {
	t.Helper()
	subscription, err := client.Subscribe(t.Context(), name, Paid)
	if err != nil {
		t.Fatal(err)
	}
	c := &Consumer{}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			_ = subscription.Consume(ctx, atOnce, func(ctx context.Context, d broker.Delivery) { // it is called again
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
				defer cancel()
				c.mu.Lock()
				c.got = append(c.got, d)
				c.mu.Unlock()
				_ = settle(ctx, d) // the message comes again
			})
		}
	}()
	c.Stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	t.Cleanup(c.Stop)
	return c
}

// Deliveries returns what it has got.
func (c *Consumer) Deliveries() []broker.Delivery {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.got)
}

// Wait returns the deliveries when there are n at least.
func (c *Consumer) Wait(t *testing.T, n int) []broker.Delivery {
	t.Helper()
	return waitForAll(t, []*Consumer{c}, n)
}

// waitForAll returns the deliveries of all consumers, one consumer after the other, when there are
// at least n.
func waitForAll(t *testing.T, consumers []*Consumer, n int) (all []broker.Delivery) {
	t.Helper()
	shoptest.Eventually(t, patience, fmt.Sprintf("%d deliveries", n), func() bool {
		all = nil
		for _, c := range consumers {
			all = append(all, c.Deliveries()...)
		}
		return len(all) >= n
	})
	return all
}

// stored returns the bodies of the messages that the broker has stored for a consumer. It publishes
// a last one to know the end, which it leaves out.
func (b *bundle) stored(t *testing.T, name string) (bodies []string) {
	t.Helper()
	const end = "end-"
	b.ends++
	last := message(fmt.Sprint(end, b.ends))
	b.publishUntilTaken(t, last)
	c := Consume(t, b.client, name, Ack)
	shoptest.Eventually(t, patience, "the last message", func() bool {
		return slices.ContainsFunc(c.Deliveries(), func(d broker.Delivery) bool { return d.ID == last.ID })
	})
	c.Stop()
	for _, d := range c.Deliveries() {
		if !strings.HasPrefix(d.ID, message(end).ID) {
			bodies = append(bodies, string(d.Data))
		}
	}
	return bodies
}

func (b *bundle) wantStored(t *testing.T, want ...broker.Message) {
	t.Helper()
	var bodies []string
	for _, m := range want {
		bodies = append(bodies, string(m.Data))
	}
	if got := b.stored(t, Receipts); !slices.Equal(got, bodies) {
		t.Errorf("the broker has stored %q, want %q", got, bodies)
	}
}

func testTwinAtOnce(t *testing.T, b *bundle) {
	m, other := message("1"), message("2")
	first := b.publish(t, m, other)
	again := b.publish(t, m, m)
	tells := b.client.Memory().Tells
	for i, ack := range slices.Concat(first, again) {
		if want := tells && i >= 2; ack.Duplicate != want {
			t.Errorf("ack %d: duplicate %t, want %t", i, ack.Duplicate, want)
		}
	}
	b.wantStored(t, m, other)
}

func testTwinAfterWindow(t *testing.T, b *bundle) {
	m := message("1")
	stored, remembers := []broker.Message{m, m}, false
	if b.client.Memory().Compares == broker.Numbers {
		stored, remembers = []broker.Message{m}, true
	}
	b.publish(t, m)
	b.PassWindow(t)
	if b.publish(t, m)[0].Duplicate != remembers {
		t.Errorf("the broker remembers the message after the window: %t, want %t", !remembers, remembers)
	}
	b.wantStored(t, stored...)
}

func testTwinAfterCrash(t *testing.T, b *bundle) {
	messages := []broker.Message{message("1"), message("2")}
	b.publish(t, messages...)
	b.Crash(t)
	for _, m := range append(messages, message("3")) {
		b.publishUntilTaken(t, m)
	}
	b.wantStored(t, append(messages, message("3"))...)
}

func testOtherBody(t *testing.T, b *bundle) {
	m, other := message("1"), message("1")
	other.Data = []byte(`{"n":"other"}`)
	b.publish(t, m)
	b.publish(t, other)
	b.wantStored(t, m)
}

func testUnknownOutcome(t *testing.T, b *bundle) {
	b.publish(t, message("0")) // the connection is there
	b.LoseAnswer(t)
	m := message("1")
	b.publishUntilTaken(t, m)
	b.publishUntilTaken(t, m)
	b.wantStored(t, message("0"), m)
}

func testLostPublish(t *testing.T, b *bundle) {
	b.publish(t, message("0"))
	b.LosePublish(t)
	m := message("1")
	b.publishUntilTaken(t, m)
	b.wantStored(t, message("0"), m)
}

func testCrashKeeps(t *testing.T, b *bundle) {
	letters := b.bury(t, message("dead"))
	done := Consume(t, b.client, Receipts, Ack)
	b.publish(t, message("1"))
	done.Wait(t, 1)
	done.Stop()
	b.publish(t, message("2"))
	b.Crash(t)
	b.wantStored(t, message("2"))
	if left := b.letters(t); len(left) != 1 || left[0].ID != letters[0].ID {
		t.Errorf("after the crash there are the dead letters %+v, want %s", left, letters[0].ID)
	}
}

func testBacklog(t *testing.T, b *bundle) {
	var messages []broker.Message
	for i := range 300 {
		m := message(fmt.Sprint(i))
		m.Data = fmt.Appendf(m.Data, "%03000d", i) // more than fits into one batch of some brokers
		messages = append(messages, m)
	}
	b.publish(t, messages...)
	b.wantStored(t, messages...)
}

func testTwoConsumers(t *testing.T, b *bundle) {
	m := message("1")
	b.publish(t, m)
	b.wantStored(t, m)
	if got := b.stored(t, Audit); !slices.Equal(got, []string{string(m.Data)}) {
		t.Errorf("the other consumer got %q", got)
	}
}

func testTwoNodes(t *testing.T, b *bundle) {
	other := b.Connect(t)
	Open(t, other)
	nodes := []*Consumer{Consume(t, b.client, Receipts, Ack), Consume(t, other, Receipts, Ack)}
	const n = 200
	for i := range n {
		b.publish(t, message(fmt.Sprint(i)))
	}
	var all []string
	for _, d := range waitForAll(t, nodes, n) {
		all = append(all, d.ID)
	}
	slices.Sort(all)
	if unique := slices.Compact(slices.Clone(all)); len(unique) != n || len(all) != n {
		t.Errorf("%d deliveries of %d messages, want %d of each", len(all), len(unique), n)
	}
}

func testRedelivery(t *testing.T, b *bundle) {
	m := message("1")
	b.publish(t, m)
	c := Consume(t, b.client, Receipts, func(ctx context.Context, d broker.Delivery) error {
		if d.Count == 1 {
			return nil
		}
		return d.Ack(ctx)
	})
	first := c.Wait(t, 1)[0]
	if first.ID != m.ID || first.Type != m.Type || string(first.Data) != string(m.Data) ||
		first.Traceparent != m.Traceparent || first.Count != 1 {
		t.Errorf("delivered %+v, want %+v for the first time", first, m)
	}
	b.PassTimeout(t)
	again := c.Wait(t, 2)[1]
	if again.Place != first.Place || again.Count != 2 {
		t.Errorf("delivery %d of %+v, want the second of %+v", again.Count, again.Place, first.Place)
	}
}

func testLateAck(t *testing.T, b *bundle) {
	other := b.Connect(t)
	Open(t, other)
	held := make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	var first atomic.Bool
	var nodes []*Consumer
	for _, client := range []broker.Broker{b.client, other} {
		// Two at once: the broker may give it to the same node again, which is busy with the first.
		nodes = append(nodes, consume(t, client, Receipts, 2, func(ctx context.Context, d broker.Delivery) error {
			if first.CompareAndSwap(false, true) {
				<-held
			}
			return d.Ack(ctx) // some brokers cannot tell that it is late, which does no harm
		}))
	}
	t.Cleanup(release) // before the consumers are stopped
	b.publish(t, message("1"))
	waitForAll(t, nodes, 1)
	b.PassTimeout(t)
	if got := waitForAll(t, nodes, 2); max(got[0].Count, got[1].Count) < 2 {
		t.Errorf("delivered %+v, want one of them for the second time at least", got)
	}
	release()
	for _, node := range nodes {
		node.Stop()
	}
	b.wantStored(t)
}

func testRetryPause(t *testing.T, b *bundle) {
	const pause = 2 * time.Second // the other messages take less, on a busy machine
	var mu sync.Mutex
	var times []time.Time
	c := Consume(t, b.client, Receipts, func(ctx context.Context, d broker.Delivery) error {
		if d.ID != message("late").ID {
			return d.Ack(ctx)
		}
		mu.Lock()
		times = append(times, time.Now())
		first := len(times) == 1
		mu.Unlock()
		if first {
			return d.Retry(ctx, pause)
		}
		return d.Ack(ctx)
	})
	b.publish(t, message("late"), message("1"), message("2"))
	got := c.Wait(t, 4)
	if late := got[len(got)-1]; late.ID != message("late").ID || late.Place != got[0].Place || late.Count < 2 {
		t.Errorf("the last delivery is number %d of %s, want the one that was put off", late.Count, late.ID)
	}
	mu.Lock()
	defer mu.Unlock()
	if waited := times[1].Sub(times[0]); waited < pause*9/10 {
		t.Errorf("it came again after %s, want %s", waited, pause)
	}
}

func testManyRetries(t *testing.T, b *bundle) {
	const tries = 30
	n := 0
	c := Consume(t, b.client, Receipts, func(ctx context.Context, d broker.Delivery) error {
		if n++; n < tries {
			return d.Retry(ctx, time.Millisecond)
		}
		return d.Ack(ctx)
	})
	b.publish(t, message("1"))
	c.Wait(t, tries)
	if letters := b.letters(t); len(letters) > 0 {
		t.Errorf("the retries made a dead letter: %+v", letters)
	}
}

func testGivesBack(t *testing.T, b *bundle) {
	first := Consume(t, b.client, Receipts, func(ctx context.Context, d broker.Delivery) error {
		return d.Retry(ctx, time.Second)
	})
	b.publish(t, message("1"))
	first.Wait(t, 1)
	first.Stop()
	Consume(t, b.client, Receipts, Ack).Wait(t, 1)
}

// letters returns all dead letters, newest first.
func (b *bundle) letters(t *testing.T) []broker.Letter {
	t.Helper()
	letters, more, err := b.client.Letters().List(within(t), "", 1000)
	if err != nil || more {
		t.Fatalf("list the dead letters: more %t, %v", more, err)
	}
	return letters
}

// bury makes dead letters of messages and returns them, newest first.
func (b *bundle) bury(t *testing.T, messages ...broker.Message) []broker.Letter {
	t.Helper()
	c := Consume(t, b.client, Receipts, func(ctx context.Context, d broker.Delivery) error {
		return d.Dead(ctx, "no: "+d.ID)
	})
	b.publish(t, messages...)
	shoptest.Eventually(t, patience, "the dead letters", func() bool { return len(b.letters(t)) == len(messages) })
	c.Stop()
	return b.letters(t)
}

func testPoison(t *testing.T, b *bundle) {
	poison := message("poison")
	c := Consume(t, b.client, Receipts, func(ctx context.Context, d broker.Delivery) error {
		if d.ID == poison.ID {
			return d.Dead(ctx, "it is poison: \"ä\"\n")
		}
		return d.Ack(ctx)
	})
	b.publish(t, message("1"), poison, message("2"))
	got := c.Wait(t, 3)
	shoptest.Eventually(t, patience, "the dead letter", func() bool { return len(b.letters(t)) == 1 })
	letter := b.letters(t)[0]
	if letter.Consumer != Receipts || letter.Reason != "it is poison: \"ä\"\n" || letter.Type != Paid ||
		string(letter.Data) != string(poison.Data) || letter.Traceparent != poison.Traceparent ||
		letter.Place.Seq != got[1].Place.Seq || time.Since(letter.At).Abs() > patience {
		t.Errorf("the dead letter is %+v", letter)
	}
	if n, known, err := b.client.Letters().Count(within(t)); err != nil || known && n != 1 {
		t.Errorf("%d dead letters, %v, want 1", n, err)
	}
	c.Stop()
	b.wantStored(t) // it does not come again by itself
}

func testRetryLetter(t *testing.T, b *bundle) {
	m := message("1")
	letters := b.bury(t, m, message("2"))
	if got := b.stored(t, Audit); len(got) != 2 {
		t.Errorf("the other consumer got %q, want both messages", got)
	}
	id := letters[1].ID
	errs := shoptest.Race(2, func(int) error {
		_, err := b.client.Letters().Retry(within(t), id)
		return err
	})
	if !slices.Contains(errs, nil) {
		t.Fatalf("no retry succeeded: %v", errs)
	}
	if _, err := b.client.Letters().Retry(within(t), id); !errors.Is(err, broker.ErrNoLetter) {
		t.Errorf("another retry: %v, want ErrNoLetter", err)
	}
	if left := b.letters(t); len(left) != 1 || left[0].ID != letters[0].ID {
		t.Errorf("left are %+v, want %s", left, letters[0].ID)
	}
	for _, name := range []string{Receipts, Audit} {
		if got := b.stored(t, name); !slices.Contains(got, string(m.Data)) || len(got) > 1 {
			t.Errorf("consumer %s got %q, want the message that was retried", name, got)
		}
	}
}

func testRetryNewestFirst(t *testing.T, b *bundle) {
	messages := []broker.Message{message("1"), message("2"), message("3")}
	letters := b.bury(t, messages...)
	slices.Reverse(messages)
	for i, letter := range letters {
		again, err := b.client.Letters().Retry(within(t), letter.ID)
		if err != nil || string(again.Data) != string(messages[i].Data) {
			t.Errorf("retry letter %s: %+v, %v", letter.ID, again, err)
		}
	}
	b.wantStored(t, messages...)
}

func testRetryAll(t *testing.T, b *bundle) {
	messages := []broker.Message{message("1"), message("2"), message("3")}
	b.bury(t, messages...)
	if n, more, err := b.client.Letters().RetryAll(within(t)); n != len(messages) || more || err != nil {
		t.Errorf("retried %d, more %t, %v, want %d", n, more, err, len(messages))
	}
	if left := b.letters(t); len(left) > 0 {
		t.Errorf("left are %+v", left)
	}
	b.wantStored(t, messages...)
}

func testPages(t *testing.T, b *bundle) {
	letters := b.bury(t, message("1"), message("2"), message("3"))
	first, more, err := b.client.Letters().List(within(t), "", 2)
	if err != nil || !more || len(first) != 2 {
		t.Fatalf("%d letters, more %t, %v, want 2 of 3", len(first), more, err)
	}
	if _, err := b.client.Letters().Retry(within(t), first[1].ID); err != nil { // between the pages
		t.Fatal(err)
	}
	rest, more, err := b.client.Letters().List(within(t), first[1].ID, 2)
	if err != nil || more || len(rest) != 1 {
		t.Fatalf("%d letters, more %t, %v, want the last one", len(rest), more, err)
	}
	for i, letter := range append(first, rest...) {
		if letter.ID != letters[i].ID {
			t.Errorf("letter %d is %s, want %s", i, letter.ID, letters[i].ID)
		}
	}
}
