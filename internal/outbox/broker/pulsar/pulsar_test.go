package pulsar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/pulsar-client-go/pulsar"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/broker/brokertest"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const (
	// patience bounds every wait, on a busy machine.
	patience = 60 * time.Second

	paid     = brokertest.Paid
	receipts = brokertest.Receipts
	audit    = brokertest.Audit

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
	brokertest.Open(t, b)
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

// TestPulsar has what can share a server.
func TestPulsar(t *testing.T) {
	t.Parallel()
	s := startServer(t, deduplicates)
	for name, test := range map[string]func(t *testing.T, s *server){
		"numbers":                 testNumbers,
		"another producer's name": testOtherName,
		"many messages":           testMany,
		"one too large":           testTooLarge,
		"a consumer gives back":   testGivesBack,
		"a letter of two nodes":   testLetterOfTwoNodes,
		"partitions are refused":  testPartitions,
		"deduplication is off":    testDeduplicationIsOff,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, s)
		})
	}
	brokertest.Run(t, func(*testing.T) brokertest.Harness { return &harness{server: s, cell: newCell()} })
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

// A consumer that stops gives back what it has put off or not settled, before its time.
func testGivesBack(t *testing.T, s *server) {
	t.Helper()
	b := s.connect(t, newCell())
	first := brokertest.Consume(t, b, receipts, func(ctx context.Context, d broker.Delivery) error {
		if d.ID == message(1).ID {
			return d.Retry(ctx, time.Hour)
		}
		return nil
	})
	publish(t, b, messages(1, 2)...)
	first.Wait(t, 2)
	first.Stop()
	brokertest.Consume(t, b, receipts, brokertest.Ack).Wait(t, 2)
}

// The letter of a delivery is written once, and nodes that retry it at once publish one event,
// which takes no number of the relay's.
func testLetterOfTwoNodes(t *testing.T, s *server) {
	t.Helper()
	cell := newCell()
	b, other := s.connect(t, cell), s.connect(t, cell)
	c := brokertest.Consume(t, b, receipts, func(ctx context.Context, d broker.Delivery) error {
		return errors.Join(d.Dead(ctx, "no"), d.Dead(ctx, "the second letter of a delivery"))
	})
	publish(t, b, message(1))
	letters := func(node *Broker) []broker.Letter {
		list, _, err := node.Letters().List(within60(t), "", 10)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	c.Wait(t, 1)
	c.Stop()
	found := letters(other)
	if len(found) != 1 || found[0].Reason != "no" {
		t.Fatalf("the dead letters are %+v, want one", found)
	}
	errs := shoptest.Race(2, func(i int) error {
		_, err := []*Broker{b, other}[i].Letters().Retry(within60(t), found[0].ID)
		return err
	})
	if !slices.Contains(errs, nil) {
		t.Fatalf("no retry succeeded: %v", errs)
	}
	for _, node := range []*Broker{b, other} {
		if _, err := node.Letters().Retry(within60(t), found[0].ID); !errors.Is(err, broker.ErrNoLetter) {
			t.Errorf("another retry: %v, want ErrNoLetter", err)
		}
	}
	wantTopic(t, b, 1, 1)
	if got := publish(t, b, messages(1, 2)...); !slices.Equal(got, []int64{2}) {
		t.Errorf("after the retry the relay's numbers %v are new, want 2", got)
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
func testDeduplicationIsOff(t *testing.T, s *server) {
	t.Helper()
	s.admin(t, "PUT", "/namespaces/public/off", "")
	s.admin(t, "POST", "/namespaces/public/off/deduplication", "false")
	b, err := Connect("pulsar://"+s.broker+"/public/off", Settings{}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Open(within60(t)); !errors.Is(err, broker.ErrForgets) ||
		!strings.Contains(err.Error(), "brokerDeduplicationEnabled=true") {
		t.Errorf("opened with %v, want ErrForgets and the setting", err)
	}
	s.admin(t, "POST", "/namespaces/public/off/deduplication", "true")
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
