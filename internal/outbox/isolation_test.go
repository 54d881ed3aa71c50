package outbox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	natsbroker "github.com/onceshop/onceshop/internal/outbox/broker/nats"
	"github.com/onceshop/onceshop/internal/outbox/internal/outboxdb"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// runRelay relays until the test ends.
func runRelay(t *testing.T, r *Relay) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// A thousand events that cannot be published, older than all others: the others are sent, and the
// pauses of the thousand grow in their rows until they can be published after all.
func TestRelayGoesRoundWhatCannotBePublished(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	const many = relayBatch
	for name, poison := range map[string]struct{ spoil, repair string }{
		"no subject": {"UPDATE outbox SET type = 'no subject' WHERE payload ? 'poison'",
			"UPDATE outbox SET type = 'order.placed' WHERE type = 'no subject'"},
		"wildcards": {"UPDATE outbox SET type = 'order.>' WHERE payload ? 'poison'",
			"UPDATE outbox SET type = 'order.placed' WHERE type = 'order.>'"},
		"a few too large for the connection": {`UPDATE outbox
			SET payload = jsonb_build_object('poison', repeat('x', 2000000))
				WHERE id IN (SELECT id FROM outbox WHERE payload ? 'poison' ORDER BY id LIMIT 3)`,
			"UPDATE outbox SET payload = '{}' WHERE payload ? 'poison'"},
		"too large for the stream": {"UPDATE outbox SET payload = jsonb_build_object('poison', repeat('x', 5000)) " +
			"WHERE payload ? 'poison'", "UPDATE outbox SET payload = '{}' WHERE payload ? 'poison'"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			stream, err := b.js.Stream(t.Context(), natsbroker.EventStream)
			if err != nil {
				t.Fatal(err)
			}
			config := stream.CachedInfo().Config
			config.MaxMsgSize = 4096
			if name == "a few too large for the connection" {
				config.MaxMsgSize = -1
			}
			if _, err := b.js.UpdateStream(t.Context(), config); err != nil {
				t.Fatal(err)
			}
			b.backlog(t, many)
			b.exec(t, `UPDATE outbox SET payload = '{"poison": 1}'`)
			b.exec(t, poison.spoil)
			runRelay(t, NewRelay(b.pool, b.broker, lease, nil, quiet))
			for range 3 {
				fresh := b.enqueue(t, "order.placed", 20)
				shoptest.Eventually(t, patience, "the others are sent", func() bool {
					sent := "SELECT count(*) FROM outbox WHERE id = ANY($1) AND sent_at IS NOT NULL"
					return b.count(t, sent, fresh) == 20
				})
			}
			shoptest.Eventually(t, patience, "the pauses grow", func() bool {
				return b.count(t, `SELECT count(*) FROM outbox WHERE sent_at IS NULL AND failures >= 2
					AND claimed_until > now() + interval '1 s'`) > 0
			})
			if n := b.count(t, "SELECT count(*) FROM outbox WHERE sent_at IS NULL AND failures > 6"); n != 0 {
				t.Errorf("%d events were tried again and again", n)
			}
			b.exec(t, poison.repair)
			b.exec(t, "UPDATE outbox SET claimed_until = '-infinity' WHERE sent_at IS NULL")
			shoptest.Eventually(t, patience, "all are sent", func() bool { return b.unsent(t) == 0 })
			b.sentOnce(t, many+60)
		})
	}
}

// A relay that another one followed marks nothing: its number may be that of a message that the
// broker has lost since.
func TestRelayMarksOnlyWhatItHolds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.enqueue(t, "order.placed", 3)
	slow, next := NewRelay(b.pool, b.broker, lease, nil, quiet), NewRelay(b.pool, b.broker, lease, nil, quiet)
	claimed, err := slow.claim(t.Context())
	if err != nil || !slow.publish(t.Context(), &claimed) {
		t.Fatal("not published", err)
	}
	b.exec(t, "UPDATE outbox SET claimed_until = '-infinity'") // the lease ends
	taken, err := next.claim(t.Context())
	if err != nil || len(taken.rows) != 3 {
		t.Fatalf("claimed %d events, %v, want 3", len(taken.rows), err)
	}
	if err := slow.mark(t.Context(), claimed); err != nil {
		t.Error(err)
	}
	if err := slow.release(t.Context(), claimed, claimed.rows); err != nil {
		t.Error(err)
	}
	n := b.count(t, "SELECT count(*) FROM outbox WHERE sent_at IS NULL AND claimed_until = $1", taken.claim)
	if n != 3 {
		t.Errorf("the next relay holds %d events, want 3", n)
	}
	if next.publish(t.Context(), &taken); next.mark(t.Context(), taken) != nil {
		t.Error("the next relay cannot mark its events")
	}
	b.sentOnce(t, 3)
}

// onQuery calls a function before a query begins.
type onQuery func(sql string)

func (f onQuery) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	f(q.SQL)
	return ctx
}

func (onQuery) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Whatever another relay sends while one compares table and broker is not lost.
func TestMendBesideAnotherRelay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.publish(t, "order.placed", 2)
	config := b.pool.Config()
	queries := 0
	config.ConnConfig.Tracer = onQuery(func(sql string) {
		if strings.Contains(sql, "-- name: IsMending") || strings.Contains(sql, "-- name: SentBounds") {
			queries++
			b.publish(t, "order.placed", 1)
		}
	})
	busy, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(busy.Close)
	var heard shoptest.Transcript
	relay := NewRelay(busy, b.broker, lease, nil, heard.Logger())
	for range 3 {
		if more, err := relay.Mend(t.Context()); more || err != nil {
			t.Errorf("a mend of nothing: %v, %v", more, err)
		}
	}
	if queries < 6 {
		t.Errorf("%d queries seen", queries)
	}
	if n := b.unsent(t) + b.count(t, "SELECT count(*) FROM outbox_mend") + heard.Count("lost"); n != 0 {
		t.Errorf("%d events count as lost", n)
	}
}

// mendAll calls Mend until there is no more to do.
func mendAll(t *testing.T, r *Relay) {
	t.Helper()
	for more := true; more; {
		var err error
		if more, err = r.Mend(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// The broker loses its stream. Its events are sent again in slices, while new ones flow and take
// the numbers of the lost ones, and whatever happens to the relay.
func TestMendInSlices(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const many, slice = 3 * relayBatch, 250
	b.backlog(t, many)
	b.exec(t, `UPDATE outbox SET id = (lpad(to_hex(extract(epoch FROM now())::bigint * 1000 - 60000), 12, '0')
		|| '70008000' || right(id::text, 12))::uuid`) // recent ids
	relay := func() *Relay {
		r := NewRelay(b.pool, b.broker, lease, nil, quiet)
		r.slice = slice
		return r
	}
	if err := relay().Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.js.DeleteStream(t.Context(), natsbroker.EventStream); err != nil {
		t.Fatal(err)
	}
	var fresh []uuid.UUID
	steps := 0
	for more := true; more; steps++ {
		r := relay() // the one before died
		var err error
		if more, err = r.Mend(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := b.count(t, "SELECT count(*) FROM outbox WHERE sent_at IS NULL"); n > slice {
			t.Fatalf("%d events are made unsent at once, want %d at most", n, slice)
		}
		fresh = append(fresh, b.enqueue(t, "order.placed", 30)...)
		if err := r.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := b.count(t, "SELECT count(*) FROM outbox WHERE id = ANY($1) AND sent_at IS NULL", fresh); n != 0 {
			t.Fatalf("%d new events wait", n)
		}
	}
	if steps < many/slice {
		t.Errorf("%d steps, want %d or more", steps, many/slice)
	}
	mendAll(t, relay())
	b.sentOnce(t, many+len(fresh))
	if n := b.count(t, "SELECT count(*) FROM outbox_mend"); n != 0 {
		t.Error("the mend does not end")
	}
}

// A loss is seen although a backlog, and events that cannot be published, lie over what was sent.
func TestMendUnderABacklog(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*testing.T, *bundle){
		"stream deleted": func(t *testing.T, b *bundle) {
			if err := b.js.DeleteStream(t.Context(), natsbroker.EventStream); err != nil {
				t.Fatal(err)
			}
		},
		"stream purged": func(t *testing.T, b *bundle) {
			stream, err := b.js.Stream(t.Context(), natsbroker.EventStream)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Purge(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.enqueue(t, "no subject", 3)
			sent := b.enqueue(t, "order.placed", 50)
			relay := NewRelay(b.pool, b.broker, lease, nil, quiet)
			if err := relay.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range 4 {
				b.enqueue(t, "order.placed", relayBatch/2)
			}
			lose(t, b)
			mendAll(t, NewRelay(b.pool, b.broker, lease, nil, quiet))
			n := b.count(t, "SELECT count(*) FROM outbox WHERE id = ANY($1) AND sent_at IS NULL", sent)
			if n != len(sent) {
				t.Errorf("%d of %d lost events are to be sent again", n, len(sent))
			}
		})
	}
}

// A scrape counts a part of a large backlog.
func TestBacklogIsCountedInPart(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.backlog(t, 2000)
	row, err := outboxdb.New(b.pool).Backlog(t.Context(), 100)
	if err != nil || row.Events != 100 || row.OldestSeconds <= 0 {
		t.Errorf("counted %+v, %v, want 100", row, err)
	}
}

// One event in a thousand that cannot be published leaves the others their throughput.
func TestOneEventDoesNotStopTheOthers(t *testing.T) { //nolint:paralleltest // it measures
	shoptest.Long(t)
	b := setup(t)
	round := 0
	shoptest.Isolated(t, 1, func(_ int, poisoned bool) time.Duration {
		b.exec(t, "TRUNCATE outbox")
		b.backlog(t, 4*relayBatch)
		round++
		b.exec(t, "UPDATE outbox SET id = (lpad(to_hex($1::int), 8, '0') || right(id::text, 28))::uuid", round)
		if poisoned {
			b.exec(t, `UPDATE outbox SET type = 'no subject'
				WHERE right(id::text, 12) IN (SELECT lpad(to_hex(n), 12, '0') FROM generate_series(500, 4000, 1000) n)`)
		}
		relay := NewRelay(b.pool, b.broker, lease, nil, quiet)
		begin := time.Now()
		if err := relay.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		took := time.Since(begin)
		if n := b.count(t, "SELECT count(*) FROM outbox WHERE sent_at IS NULL AND type = 'order.placed'"); n != 0 {
			t.Errorf("%d events are not sent", n)
		}
		stream, err := b.js.Stream(t.Context(), natsbroker.EventStream)
		if err == nil {
			err = stream.Purge(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		return took
	})
}

// A thousand poison events and more that wait for their next try do not keep others from delivery,
// and each is buried after five tries, over nodes and restarts.
func TestConsumerBuriesAThousandPoisons(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	b := setup(t)
	const many = 1100
	isPoison := func(event Event) bool { return strings.Contains(string(event.Data), "poison") }
	b.backlog(t, many)
	b.exec(t, `UPDATE outbox SET type = $1, payload = '{"poison": 1}'`, paid)
	if err := NewRelay(b.pool, b.broker, lease, nil, quiet).Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	good := b.publish(t, paid, 20)
	var tries atomic.Int64
	var calls tally
	handle := func(_ context.Context, event Event) error {
		if isPoison(event) {
			tries.Add(1)
			return errBroken
		}
		calls.add(event.ID)
		return nil
	}
	first := newConsumer(t, b.pool, b.broker, handle)
	first.retry = func(uint64) time.Duration { return time.Hour }
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- first.Run(ctx) }()
	shoptest.Eventually(t, patience, "the others are handled beside the poison", func() bool {
		return slices.Equal(calls.of(good...), slices.Repeat([]int{1}, len(good)))
	})
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := b.count(t, "SELECT count(*) FROM consumer_failures WHERE failures = 1"); n != many || tries.Load() != many {
		t.Errorf("%d events have failed once, in %d tries, want %d", n, tries.Load(), many)
	}

	// The pause of an hour is at the broker: let the events come again, on two other nodes.
	if err := b.js.DeleteConsumer(t.Context(), natsbroker.EventStream, consumerName); err != nil {
		t.Fatal(err)
	}
	_, second := openBroker(t, connect(t, b.server.URL()))
	for _, s := range []broker.Broker{b.broker, second} {
		run(t, newConsumer(t, b.pool, s, handle))
	}
	shoptest.Eventually(t, 3*patience, "each is a dead letter", func() bool {
		dead, err := b.js.Stream(t.Context(), natsbroker.DeadStream)
		return err == nil && dead.CachedInfo().State.Msgs == many
	})
	b.settled(t)
	if got := tries.Load(); got != five*many {
		t.Errorf("%d tries, want %d", got, five*many)
	}
	shoptest.Eventually(t, patience, "no count is left", func() bool { // it goes after its letter stands
		return b.count(t, "SELECT count(*) FROM consumer_failures") == 0
	})
}

// Without a database there is no count, and so no dead letter: the event comes again.
func TestConsumerWithoutADatabase(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.publish(t, paid, 1)
	config := b.pool.Config()
	gone, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	var calls tally
	c := newConsumer(t, gone, b.broker, func(_ context.Context, event Event) error {
		calls.add(event.ID)
		return errBroken
	})
	shoptest.Eventually(t, patience, "the event comes again and again", func() bool {
		if _, err := c.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		return calls.of(ids...)[0] > five
	})
	if letters := stored(t, b.js, natsbroker.DeadStream); len(letters) != 0 {
		t.Errorf("%d dead letters", len(letters))
	}
	if info, err := b.js.Consumer(t.Context(), natsbroker.EventStream, consumerName); err != nil ||
		info.CachedInfo().NumAckPending != 1 {
		t.Errorf("the event is gone: %v", err)
	}
}

// Counts of events that the stream has dropped are dropped too.
func TestConsumerForgetsLostFailures(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(t, fmt.Sprintf(`INSERT INTO consumer_failures (consumer, stream_seq, stored_at, failed_at)
		SELECT '%s', n, now(), now() - n * interval '20 hours' FROM generate_series(1, 3) n`, consumerName))
	newConsumer(t, b.pool, b.broker, nil).forgetLost(t.Context())
	if n := b.count(t, "SELECT count(*) FROM consumer_failures"); n != 1 {
		t.Errorf("%d counts are left, want that of the event that the stream may hold", n)
	}
}
