package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// numbers is a broker in memory that compares numbers as Pulsar does: it takes what is above the
// highest so far, and tells of the rest that it is a duplicate. The tests against Pulsar itself are
// in internal/outbox/broker/pulsar.
type numbers struct {
	broker.Broker
	mu      sync.Mutex
	highest int64
	stored  []broker.Message
	forgets bool
	// fail returns the error for a message, before it is stored.
	fail func(broker.Message) error
}

func (n *numbers) Name() string                { return "numbers" }
func (n *numbers) History() broker.History     { return nil }
func (n *numbers) Ready(context.Context) error { return nil }

func (n *numbers) Memory() broker.Memory {
	return broker.Memory{Compares: broker.Numbers, Tells: true, MaxAge: maxAge}
}

func (n *numbers) Publish(_ context.Context, messages []broker.Message) []broker.Ack {
	acks := make([]broker.Ack, len(messages))
	var failure error
	for i, m := range messages {
		if failure == nil && n.fail != nil {
			failure = n.fail(m)
		}
		if acks[i].Err = failure; failure == nil {
			acks[i].Duplicate = n.take(m)
			failure = nil
		} else {
			failure = errors.New("not sent after a failure")
		}
	}
	return acks
}

func (n *numbers) take(m broker.Message) (duplicate bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m.Number <= n.highest && !n.forgets {
		return true
	}
	n.highest = m.Number
	if m.Type != broker.ProbeType {
		n.stored = append(n.stored, m)
	}
	return false
}

// ids returns the ids of the events that the broker has, in order.
func (n *numbers) ids(t *testing.T) (ids []uuid.UUID) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.stored {
		var event Event
		if err := json.Unmarshal(m.Data, &event); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, event.ID)
	}
	return ids
}

// numberedBundle is a database and a broker that compares numbers.
type numberedBundle struct {
	*bundle
	numbers *numbers
}

func setupNumbers(t *testing.T) *numberedBundle {
	t.Helper()
	n := &numbers{}
	return &numberedBundle{bundle: &bundle{pool: shoptest.DB(t), broker: n}, numbers: n}
}

func (b *numberedBundle) relay(t *testing.T, log *slog.Logger) *Relay {
	t.Helper()
	r := NewRelay(b.pool, b.numbers, lease, nil, log)
	t.Cleanup(func() { r.resign(t.Context()) })
	return r
}

func (b *numberedBundle) drain(t *testing.T, r *Relay) {
	t.Helper()
	if err := r.numbered.drain(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// wantOnce checks that the broker has each of the events once, and no event is unsent.
func (b *numberedBundle) wantOnce(t *testing.T, want ...uuid.UUID) {
	t.Helper()
	got := b.numbers.ids(t)
	for _, id := range want {
		if n := len(slices.DeleteFunc(slices.Clone(got), func(is uuid.UUID) bool { return is != id })); n != 1 {
			t.Errorf("the broker has event %s %d times, want once", id, n)
		}
	}
	if len(got) != len(want) {
		t.Errorf("the broker has %d events, want %d", len(got), len(want))
	}
	if n := b.unsent(t); n != 0 {
		t.Errorf("%d events are unsent", n)
	}
}

// die ends a relay's connection that makes it the publisher, which it does not notice at once.
func (b *numberedBundle) die(t *testing.T, r *Relay) {
	t.Helper()
	pid := r.numbered.conn.Conn().PgConn().PID()
	b.exec(t, "SELECT pg_terminate_backend($1)", pid)
	shoptest.Eventually(t, patience, "the lock is free", func() bool {
		return b.count(t, "SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid) == 0
	})
}

func TestNumberedEventsInOrder(t *testing.T) {
	t.Parallel()
	b := setupNumbers(t)
	ids := b.enqueue(t, "order.placed", 2*relayBatch+10)
	b.drain(t, b.relay(t, quiet))
	b.wantOnce(t, ids...)
	if !slices.Equal(b.numbers.ids(t), ids) {
		t.Error("the events are not in the order of their ids")
	}
}

// An event whose transaction commits late has a low id and gets a high number.
func TestNumberOfALateCommit(t *testing.T) {
	t.Parallel()
	b := setupNumbers(t)
	late, err := b.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer late.Rollback(t.Context()) //nolint:errcheck // after the commit there is nothing to roll back
	lateID := newID(t)
	if err := EnqueueTx(t.Context(), late, NewEvent{lateID, "order.placed", newID(t), nil}); err != nil {
		t.Fatal(err)
	}
	relay := b.relay(t, quiet)
	early := b.enqueue(t, "order.placed", 2)
	b.drain(t, relay)
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.drain(t, relay)
	b.wantOnce(t, append(early, lateID)...)
}

// One of the relays dies where a case says, and the next one takes over.
func TestNumberedRelayKilled(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		before     int // how many events the dead relay has published
		duplicates int
	}{
		"between claim and publish": {0, 0},
		"while it publishes":        {2, 2},
		"between publish and mark":  {5, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setupNumbers(t)
			killed := b.relay(t, quiet)
			b.drain(t, killed) // it is the publisher
			ids := b.enqueue(t, "order.paid", 5)
			claimed, err := killed.numbered.claim(t.Context())
			if err != nil || len(claimed.rows) != 5 {
				t.Fatalf("claimed %d events, %v", len(claimed.rows), err)
			}
			// Whatever a relay may have noted with its claim, it says nothing to the next one.
			b.exec(t, "UPDATE outbox SET claimed_until = now() + interval '1 hour' WHERE number IS NOT NULL")
			part := batch{rows: claimed.rows[:test.before], numbers: claimed.numbers[:test.before]}
			killed.publish(t.Context(), &part)
			b.die(t, killed)
			ids = append(ids, b.enqueue(t, "order.paid", 3)...)
			var heard shoptest.Transcript
			b.drain(t, b.relay(t, heard.Logger()))
			b.wantOnce(t, ids...)
			if n := heard.Count("broker stopped a duplicate"); n != test.duplicates {
				t.Errorf("%d duplicates, want %d", n, test.duplicates)
			}
			if !slices.Equal(b.numbers.ids(t), ids) {
				t.Error("the events are not in order")
			}
		})
	}
}

// A relay that does not know yet that another one has taken over repeats what it has claimed, and
// gives no numbers.
func TestNumberedRelayIsOvertaken(t *testing.T) {
	t.Parallel()
	b := setupNumbers(t)
	old := b.relay(t, quiet)
	b.drain(t, old)
	ids := b.enqueue(t, "order.paid", 3)
	claimed, err := old.numbered.claim(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.die(t, old)
	next := b.relay(t, quiet)
	ids = append(ids, b.enqueue(t, "order.paid", 3)...)
	if n, err := next.numbered.runOnce(t.Context()); n != 3 || err != nil {
		t.Fatalf("the next relay published %d events, %v, want those of the old one", n, err)
	}
	if n, err := old.numbered.runOnce(t.Context()); n != 0 || err != nil {
		t.Errorf("the old relay published %d new events, %v, want none", n, err)
	}
	b.drain(t, next)
	old.publish(t.Context(), &claimed)
	if err := old.numbered.mark(t.Context(), claimed); err != nil {
		t.Error(err)
	}
	b.wantOnce(t, ids...)
	if n, err := old.numbered.runOnce(t.Context()); n != 0 || err != nil {
		t.Errorf("the old relay published %d events, %v, and is not the publisher", n, err)
	}
}

// A server that took over from a failed one may not know the last numbers. The transaction that is
// the lock ended with the failed one.
func TestNoNumbersWithoutTheLock(t *testing.T) {
	t.Parallel()
	b := setupNumbers(t)
	relay := b.relay(t, quiet)
	b.drain(t, relay)
	ids := b.enqueue(t, "order.paid", 2)
	b.exec(t, "UPDATE outbox_numbering SET last = 0")
	b.die(t, relay)
	if _, err := relay.numbered.claim(t.Context()); !errors.Is(err, errOvertaken) {
		t.Errorf("claimed with %v, want errOvertaken", err)
	}
	if n := b.count(t, "SELECT count(*) FROM outbox WHERE number IS NOT NULL"); n > 0 {
		t.Errorf("%d events have numbers", n)
	}
	b.drain(t, relay) // it is no publisher any more
	b.drain(t, relay) // it becomes one again, and compares
	b.wantOnce(t, ids...)
}

// While a relay is the publisher, another one neither publishes nor takes over. When the first ends
// in order, the other takes over at once.
func TestOnePublisher(t *testing.T) {
	t.Parallel()
	b := setupNumbers(t)
	first, second := b.relay(t, quiet), b.relay(t, quiet)
	b.drain(t, first)
	ids := b.enqueue(t, "order.paid", 2)
	if n, err := second.numbered.runOnce(t.Context()); n != 0 || err != nil {
		t.Errorf("the second relay published %d, %v", n, err)
	}
	if n, err := first.numbered.runOnce(t.Context()); n != 2 || err != nil {
		t.Errorf("the first relay published %d, %v, want 2", n, err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := first.Run(ended); err != nil {
		t.Error(err)
	}
	ids = append(ids, b.enqueue(t, "order.paid", 2)...)
	b.drain(t, second)
	b.wantOnce(t, ids...)
}

// While a relay's claim is not committed, another one that takes over must not give higher numbers.
func TestClaimsOfNumbersWait(t *testing.T) {
	t.Parallel()
	b := setupNumbers(t)
	slow := b.relay(t, quiet)
	b.drain(t, slow)
	ids := b.enqueue(t, "order.paid", 2)
	tx, err := b.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context()) //nolint:errcheck // after the commit there is nothing to roll back
	const claim = `WITH given AS (UPDATE outbox_numbering SET last = last + 2 RETURNING last)
		UPDATE outbox SET number = CASE id WHEN $1 THEN last - 1 ELSE last END FROM given`
	if _, err := tx.Exec(t.Context(), claim, ids[0]); err != nil {
		t.Fatal(err)
	}
	b.die(t, slow)
	ids = append(ids, b.enqueue(t, "order.paid", 2)...)
	drained := make(chan error, 1)
	next := b.relay(t, quiet)
	go func() { drained <- next.numbered.drain(t.Context()) }()
	shoptest.Eventually(t, patience, "the next relay waits for the claim", func() bool {
		select {
		case err := <-drained:
			t.Fatalf("the next relay did not wait: %v", err)
		default:
		}
		return b.count(t, `SELECT count(*) FROM pg_stat_activity
			WHERE wait_event_type = 'Lock' AND query LIKE '%outbox_numbering%' AND datname = current_database()`) > 0
	})
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	b.wantOnce(t, ids...)
	if !slices.Equal(b.numbers.ids(t), ids) {
		t.Error("the events are not in order")
	}
}

// Four relays that lose the lock all the time: every event is stored once.
func TestNumberedRelaysTakeTurns(t *testing.T) {
	t.Parallel()
	b := setupNumbers(t)
	const relays, rounds, each = 4, 12, 7
	var fails sync.Mutex
	b.numbers.fail = func(broker.Message) error {
		fails.Lock()
		defer fails.Unlock()
		if rand.IntN(20) == 0 {
			return errors.New("the connection broke")
		}
		return nil
	}
	var ids []uuid.UUID
	for range rounds {
		ids = append(ids, b.enqueue(t, "order.paid", each)...)
		shoptest.Race(relays, func(int) error {
			r := NewRelay(b.pool, b.numbers, lease, nil, quiet)
			defer r.resign(t.Context())
			_, err := r.numbered.runOnce(t.Context()) // a failure leaves events for the next round
			if rand.IntN(2) == 0 {
				return r.Drain(t.Context())
			}
			return err
		})
	}
	b.numbers.fail = nil
	b.drain(t, b.relay(t, quiet))
	b.wantOnce(t, ids...)
}

// After a failure the relay begins again with the first event that is not acknowledged.
func TestNumberedPublishFails(t *testing.T) {
	t.Parallel()
	b := setupNumbers(t)
	relay := b.relay(t, quiet)
	b.drain(t, relay)
	ids := b.enqueue(t, "order.paid", 5)
	broken := errors.New("broken")
	tries := 0
	b.numbers.fail = func(m broker.Message) error {
		if tries++; tries == 3 {
			return broken
		}
		return nil
	}
	if n, err := relay.numbered.runOnce(t.Context()); n != 5 || !errors.Is(err, broken) {
		t.Errorf("published %d, %v", n, err)
	}
	if got := b.numbers.ids(t); !slices.Equal(got, ids[:2]) {
		t.Errorf("the broker has %v, want the first two", got)
	}
	if n := b.unsent(t); n != 3 {
		t.Errorf("%d events are unsent, want 3", n)
	}
	b.drain(t, relay)
	b.wantOnce(t, ids...)
}

// An event that the broker refuses holds up no other. It gets a new number when it is due again.
func TestNumberedEventIsRefused(t *testing.T) {
	t.Parallel()
	b := setupNumbers(t)
	relay := b.relay(t, quiet)
	b.drain(t, relay)
	ids := b.enqueue(t, "order.paid", 5)
	b.numbers.fail = func(m broker.Message) error {
		if strings.Contains(m.ID, ids[1].String()) {
			return broker.ErrRefused
		}
		return nil
	}
	b.drain(t, relay)
	want := slices.Delete(slices.Clone(ids), 1, 2)
	if got := b.numbers.ids(t); !slices.Equal(got, want) {
		t.Errorf("the broker has %v, want all but %s", got, ids[1])
	}
	const putOff = "SELECT count(*) FROM outbox WHERE sent_at IS NULL AND failures = 1 AND number IS NULL"
	if n := b.count(t, putOff); n != 1 {
		t.Errorf("%d events are put off, want 1", n)
	}
	b.numbers.fail = nil
	b.exec(t, "UPDATE outbox SET claimed_until = '-infinity'")
	b.drain(t, relay)
	b.wantOnce(t, append(want, ids[1])...)
}

// A database that was restored to an older point gives numbers that the broker has seen. An event
// under such a number would be lost.
func TestNumbersAfterARestore(t *testing.T) {
	t.Parallel()
	for _, lost := range []int{1, 5000} {
		b := setupNumbers(t)
		relay := b.relay(t, quiet)
		ids := b.enqueue(t, "order.paid", 10)
		b.drain(t, relay)
		relay.resign(t.Context())
		b.numbers.highest += int64(lost)
		ids = append(ids, b.enqueue(t, "order.paid", 10)...)
		var heard shoptest.Transcript
		b.drain(t, b.relay(t, heard.Logger()))
		b.wantOnce(t, ids...)
		if heard.Count("restored to an older point") == 0 {
			t.Error("the relay did not warn")
		}
	}
}

func TestRelayRefusesABrokerThatForgets(t *testing.T) {
	t.Parallel()
	b := setupNumbers(t)
	b.numbers.forgets = true
	b.enqueue(t, "order.paid", 1)
	if err := b.relay(t, quiet).Drain(t.Context()); !errors.Is(err, broker.ErrForgets) {
		t.Errorf("drained with %v, want ErrForgets", err)
	}
	if got := b.numbers.ids(t); len(got) > 0 {
		t.Errorf("published %v", got)
	}
}

// An event that is published again after a loss gets a new number.
func TestNumberAfterALoss(t *testing.T) {
	t.Parallel()
	b := setupNumbers(t)
	relay := b.relay(t, quiet)
	ids := b.enqueue(t, "order.paid", 3)
	b.drain(t, relay)
	b.numbers.stored = nil // and it remembers the numbers
	b.exec(t, `INSERT INTO outbox_mend (first_held, last_held, sent_until, done_to)
		VALUES (1, 0, now(), '00000000-0000-0000-0000-000000000000')`)
	for more := true; more; {
		var err error
		if more, err = relay.mendSlice(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	b.drain(t, relay)
	b.wantOnce(t, ids...)
}
