package outbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	natsbroker "github.com/onceshop/onceshop/internal/outbox/broker/nats"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestEnqueueJoinsTheTransaction(t *testing.T) {
	t.Parallel()
	b := setup(t)
	changedMind := errors.New("changed my mind")
	err := pg.InTx(t.Context(), b.pool, func(tx pgx.Tx) error {
		if err := EnqueueTx(t.Context(), tx, NewEvent{newID(t), "order.placed", newID(t), nil}); err != nil {
			return err
		}
		return changedMind
	})
	if !errors.Is(err, changedMind) {
		t.Fatal(err)
	}
	if n := b.count(t, "SELECT count(*) FROM outbox"); n != 0 {
		t.Errorf("%d events of a transaction that was rolled back", n)
	}
	if n, err := NewRelay(b.pool, b.broker, lease, nil, quiet).RunOnce(t.Context()); n != 0 || err != nil {
		t.Errorf("relayed %d, %v", n, err)
	}
	err = pg.InTx(t.Context(), b.pool, func(tx pgx.Tx) error {
		return EnqueueTx(t.Context(), tx, NewEvent{newID(t), "order.placed", newID(t), make(chan int)})
	})
	if err == nil || !strings.Contains(err.Error(), "order.placed") {
		t.Errorf("data that is not JSON: %v", err)
	}
}

func TestRelayPublishesAndMarks(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.publish(t, "order.placed", 3)
	messages := stored(t, b.js, natsbroker.EventStream)
	if len(messages) != 3 {
		t.Fatalf("%d messages in the stream, want 3", len(messages))
	}
	for _, msg := range messages {
		var event Event
		if err := json.Unmarshal(msg.Data, &event); err != nil {
			t.Fatal(err)
		}
		n := slices.Index(ids, event.ID)
		if n < 0 || event.Type != "order.placed" || msg.Subject != "shop.events.order.placed" ||
			msg.Header.Get(jetstream.MsgIDHeader) != "order.placed."+event.ID.String() {
			t.Errorf("message %s %v: %s", msg.Subject, msg.Header, msg.Data)
		}
		var data struct{ N int }
		if err := json.Unmarshal(event.Data, &data); err != nil || data.N != n ||
			time.Since(event.CreatedAt) > time.Minute {
			t.Errorf("event %+v, data %s, %v", event, event.Data, err)
		}
		const marked = `SELECT count(*) FROM outbox
			WHERE id = $1 AND order_id = $2 AND sent_at IS NOT NULL AND stream_seq = $3`
		if rows := b.count(t, marked, event.ID, event.OrderID, int64(msg.Sequence)); rows != 1 {
			t.Errorf("event %s is not marked as sent with sequence %d", event.ID, msg.Sequence)
		}
	}
	if n, err := NewRelay(b.pool, b.broker, lease, nil, quiet).RunOnce(t.Context()); n != 0 || err != nil {
		t.Errorf("relayed %d again, %v", n, err)
	}
}

// publishUnmarked is a relay that dies after it has published a batch of n events.
func (b *bundle) publishUnmarked(t *testing.T, n int) {
	t.Helper()
	killed := NewRelay(b.pool, b.broker, lease, nil, quiet)
	claimed, err := killed.claim(t.Context())
	if err != nil || len(claimed.rows) != n {
		t.Fatalf("claimed %d events, %v, want %d", len(claimed.rows), err, n)
	}
	if !killed.publish(t.Context(), &claimed) {
		t.Fatal("an event was not acknowledged")
	}
}

func TestRelayKilledBetweenPublishAndMark(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.enqueue(t, "order.paid", 3)
	b.publishUnmarked(t, 3)
	if unsent, messages := b.unsent(t), stored(t, b.js, natsbroker.EventStream); unsent != 3 || len(messages) != 3 {
		t.Fatalf("%d rows are unsent, %d messages stored, want 3 and 3", unsent, len(messages))
	}
	var heard shoptest.Transcript
	next := NewRelay(b.pool, b.broker, lease, nil, heard.Logger())
	if n, err := next.RunOnce(t.Context()); n != 0 || err != nil {
		t.Errorf("while the dead relay's lease runs: relayed %d, %v", n, err)
	}
	b.exec(t, "UPDATE outbox SET claimed_until = '-infinity'") // the lease ends
	if n, err := next.RunOnce(t.Context()); n != 3 || err != nil {
		t.Errorf("after the lease: relayed %d, %v, want 3", n, err)
	}
	if n := heard.Count("broker stopped a duplicate"); n != 3 {
		t.Errorf("the broker answered duplicate %d times, want 3", n)
	}
	messages := stored(t, b.js, natsbroker.EventStream)
	if len(messages) != 3 {
		t.Errorf("%d messages in the stream, want 3", len(messages))
	}
	if n := b.unsent(t); n != 0 {
		t.Errorf("%d rows are unsent", n)
	}
	for _, msg := range messages {
		var event Event
		if err := json.Unmarshal(msg.Data, &event); err != nil {
			t.Fatal(err)
		}
		const marked = "SELECT count(*) FROM outbox WHERE id = $1 AND stream_seq = $2"
		if n := b.count(t, marked, event.ID, int64(msg.Sequence)); n != 1 {
			t.Errorf("event %s is not marked with the sequence of its first publication, %d", event.ID, msg.Sequence)
		}
	}
}

func TestRelaySendsLateCommits(t *testing.T) {
	t.Parallel()
	b := setup(t)
	late, err := b.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer late.Rollback(t.Context()) //nolint:errcheck // after the commit there is nothing to roll back
	lateID := newID(t)
	if err := EnqueueTx(t.Context(), late, NewEvent{lateID, "order.placed", newID(t), nil}); err != nil {
		t.Fatal(err)
	}
	if early := b.publish(t, "order.placed", 2); early[0].String() < lateID.String() {
		t.Fatalf("the late event's id %s is not the smallest", lateID)
	}
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := NewRelay(b.pool, b.broker, lease, nil, quiet).RunOnce(t.Context()); n != 1 || err != nil {
		t.Errorf("relayed %d, %v, want the late one", n, err)
	}
	messages := stored(t, b.js, natsbroker.EventStream)
	if len(messages) != 3 || !strings.Contains(string(messages[2].Data), lateID.String()) {
		t.Errorf("%d messages, want 3 with %s at the end", len(messages), lateID)
	}
}

func TestRelaysShareTheWork(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const events = 4 * relayBatch / 3
	b.exec(t, `INSERT INTO outbox (id, type, order_id, payload)
		SELECT gen_random_uuid(), 'order.placed', gen_random_uuid(), '{}' FROM generate_series(1, $1)`, events)
	var heard shoptest.Transcript
	type result struct {
		claimed int
		err     error
	}
	results := shoptest.Race(4, func(int) (r result) {
		relay := NewRelay(b.pool, b.broker, lease, nil, heard.Logger())
		for {
			n, err := relay.RunOnce(t.Context())
			r.claimed += n
			if r.err = err; n == 0 || err != nil {
				return r
			}
		}
	})
	claimed := 0
	for _, r := range results {
		if r.err != nil {
			t.Error(r.err)
		}
		claimed += r.claimed
	}
	if claimed != events {
		t.Errorf("the relays claimed %d events in all, want each of %d once", claimed, events)
	}
	if n := heard.Count("broker stopped a duplicate"); n != 0 {
		t.Errorf("%d events were published twice", n)
	}
	if n := b.count(t, "SELECT count(DISTINCT stream_seq) FROM outbox WHERE sent_at IS NOT NULL"); n != events {
		t.Errorf("%d events are marked, want %d", n, events)
	}
	stream, err := b.js.Stream(t.Context(), natsbroker.EventStream)
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != events {
		t.Errorf("%d messages in the stream, want %d", n, events)
	}
}

func TestRelayDrainsAfterAnOutage(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]func(*shoptest.Proxy){
		"broker gone": takeDown,
		// The broker stores the messages, and its acknowledgements are lost.
		"acknowledgements lost": func(broker *shoptest.Proxy) { broker.Deafen(true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			proxy, through := throughProxy(t, b.server.URL())
			_, second := openBroker(t, connect(t, through))
			relay := NewRelay(b.pool, second, lease, nil, quiet)
			b.enqueue(t, "order.placed", 3)
			outage(proxy)
			for range 2 {
				if n, err := relay.RunOnce(within(t, time.Second)); n != 3 || err == nil {
					t.Errorf("relayed %d, %v, want 3 and an error", n, err)
				}
				if n := b.count(t, "SELECT count(*) FROM outbox WHERE sent_at IS NULL AND claimed_until = "+
					"'-infinity'"); n != 3 {
					t.Errorf("%d rows were released, want 3", n)
				}
			}
			proxy.Cut()
			bringBack(proxy)
			// The client sends its buffered messages on the new connection, and the relay sends
			// them again.
			shoptest.Eventually(t, patience, "the backlog is drained", func() bool {
				_, _ = relay.RunOnce(within(t, time.Second))
				// If the broker is back between the publish and the look at it, the events are put
				// off.
				_ = relay.retryFailed(within(t, time.Second))
				return b.unsent(t) == 0
			})
			if n := len(stored(t, b.js, natsbroker.EventStream)); n != 3 {
				t.Errorf("%d messages in the stream, want 3", n)
			}
		})
	}
}

func TestRelayAfterARestartOfTheBroker(t *testing.T) {
	t.Parallel()
	b := &bundle{pool: shoptest.DB(t)}
	dir := t.TempDir()
	b.server = startNATS(t, dir)
	b.js, b.broker = openBroker(t, connect(t, b.server.URL()))
	b.enqueue(t, "order.placed", 3)
	b.publishUnmarked(t, 3)
	b.server.Stop()
	b.exec(t, "UPDATE outbox SET claimed_until = '-infinity'")
	b.enqueue(t, "order.placed", 2)
	if n, err := NewRelay(b.pool, b.broker, lease, nil, quiet).RunOnce(within(t, time.Second)); n != 5 || err == nil {
		t.Errorf("without a broker: relayed %d, %v, want 5 and an error", n, err)
	}
	b.js, b.broker = openBroker(t, connect(t, startNATS(t, dir).URL()))
	var heard shoptest.Transcript
	if n, err := NewRelay(b.pool, b.broker, lease, nil, heard.Logger()).RunOnce(t.Context()); n != 5 || err != nil {
		t.Errorf("with the broker back: relayed %d, %v, want 5", n, err)
	}
	if n := heard.Count("broker stopped a duplicate"); n != 3 {
		t.Errorf("the broker answered duplicate %d times, want 3: it has forgotten its ids", n)
	}
	if n := len(stored(t, b.js, natsbroker.EventStream)); n != 5 || b.unsent(t) != 0 {
		t.Errorf("%d messages, %d rows unsent, want 5 and 0", n, b.unsent(t))
	}
}

func TestRelayRunsUntilItIsStopped(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- NewRelay(b.pool, b.broker, lease, nil, quiet).Run(ctx) }()
	for range 2 {
		b.enqueue(t, "order.placed", 2)
		shoptest.Eventually(t, patience, "the events are sent", func() bool { return b.unsent(t) == 0 })
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := len(stored(t, b.js, natsbroker.EventStream)); n != 4 {
		t.Errorf("%d messages in the stream, want 4", n)
	}
}

func TestBacklog(t *testing.T) {
	t.Parallel()
	b := setup(t)
	registry := prometheus.NewRegistry()
	registry.MustRegister(BacklogMetrics(b.pool))
	gauges := func() map[string]float64 {
		t.Helper()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]float64{}
		for _, family := range families {
			values[family.GetName()] = family.GetMetric()[0].GetGauge().GetValue()
		}
		return values
	}
	want := map[string]float64{"onceshop_outbox_backlog_events": 0, "onceshop_outbox_backlog_seconds": 0}
	if g := gauges(); !maps.Equal(g, want) {
		t.Errorf("nothing waits: %v", g)
	}
	b.enqueue(t, "order.placed", 2)
	b.exec(t, "UPDATE outbox SET created_at = created_at - interval '1 hour'")
	if g := gauges(); g["onceshop_outbox_backlog_events"] != 2 || g["onceshop_outbox_backlog_seconds"] < 3600 {
		t.Errorf("two events wait for an hour: %v", g)
	}
	if _, err := NewRelay(b.pool, b.broker, lease, nil, quiet).RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if g := gauges(); g["onceshop_outbox_backlog_events"] != 0 {
		t.Errorf("all are sent: %v", g)
	}
	b.pool.Close()
	if _, err := registry.Gather(); err == nil {
		t.Error("without a database, the backlog is reported all the same")
	}
}

func TestRelayPublishesInTheOrderOfEvents(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.publish(t, paid, 20)
	for i, msg := range stored(t, b.js, natsbroker.EventStream) {
		if want := paid + "." + ids[i].String(); msg.Header.Get("Nats-Msg-Id") != want {
			t.Errorf("number %d is %s, want %s", i+1, msg.Header.Get("Nats-Msg-Id"), want)
		}
	}
}

// backlog commits n events at once, of a hundred orders.
func (b *bundle) backlog(t *testing.T, n int) {
	t.Helper()
	b.exec(t, `INSERT INTO outbox (id, type, order_id, payload)
		SELECT lpad(to_hex(n), 32, '0')::uuid, 'order.placed', lpad(to_hex(n % 100), 32, '0')::uuid, '{}'
		FROM generate_series(1, $1) n`, n)
}

// sentOnce fails unless the stream has n messages and each of n events is marked with its own
// number.
func (b *bundle) sentOnce(t *testing.T, n int) {
	t.Helper()
	stream, err := b.js.Stream(t.Context(), natsbroker.EventStream)
	if err != nil {
		t.Fatal(err)
	}
	if msgs := stream.CachedInfo().State.Msgs; msgs != uint64(n) {
		t.Errorf("%d messages in the stream, want %d", msgs, n)
	}
	if sent := b.count(t, "SELECT count(DISTINCT stream_seq) FROM outbox WHERE sent_at IS NOT NULL"); sent != n {
		t.Errorf("%d events are marked as sent, want %d", sent, n)
	}
}

// inOrder fails if an event entered the stream before an earlier one of its order.
func (b *bundle) inOrder(t *testing.T) {
	t.Helper()
	if n := b.count(t, `SELECT count(*) FROM (
		SELECT stream_seq < lag(stream_seq) OVER (PARTITION BY order_id ORDER BY id) AS overtook FROM outbox) s
		WHERE overtook`); n != 0 {
		t.Errorf("%d events are in the stream before an earlier one of their order", n)
	}
}

func TestRelayOfABacklogKeepsItsOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const events = 5 * relayBatch / 2
	b.backlog(t, events)
	if err := NewRelay(b.pool, b.broker, lease, nil, quiet).Drain(t.Context()); err != nil {
		t.Error(err)
	}
	b.sentOnce(t, events)
	b.inOrder(t)
}

func TestRelayOfABacklogLosesTheBroker(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	b := setup(t)
	const events = 5 * relayBatch / 2
	b.backlog(t, events)
	proxy, through := throughProxy(t, b.server.URL())
	_, second := openBroker(t, connect(t, through))
	relay := NewRelay(b.pool, second, lease, nil, quiet)
	var batches atomic.Int32
	proxy.OnSend(func(sent []byte) shoptest.Fate {
		if bytes.Contains(sent, []byte("Nats-Batch-Sequence: 1\r\n")) && batches.Add(1) == 2 {
			proxy.Refuse(true)
			return shoptest.LoseRequest
		}
		return shoptest.Pass
	})
	// The second batch fails, the third is not published, and no row stays leased.
	err := relay.Drain(within(t, 8*time.Second))
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("publish %d of %[1]d events", relayBatch)) ||
		strings.Contains(err.Error(), fmt.Sprintf("of %d events", relayBatch/2)) {
		t.Errorf("got %v, want the failure of the second batch alone", err)
	}
	const claimable = "SELECT count(*) FROM outbox WHERE sent_at IS NULL AND claimed_until = '-infinity'"
	if n := b.count(t, claimable); n != events-relayBatch {
		t.Errorf("%d events can be claimed, want %d", n, events-relayBatch)
	}
	bringBack(proxy)
	shoptest.Eventually(t, patience, "the backlog is drained", func() bool {
		_ = relay.Drain(within(t, patience))
		return b.unsent(t) == 0
	})
	b.sentOnce(t, events)
}

// A full batch that is published again is recognized event by event.
func TestRelayOfABacklogUnheard(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.backlog(t, relayBatch+1)
	b.publishUnmarked(t, relayBatch)
	if n := b.unsent(t); n != relayBatch+1 {
		t.Errorf("%d events are unsent, want all", n)
	}
	b.exec(t, "UPDATE outbox SET claimed_until = '-infinity'") // the lease ends
	var heard shoptest.Transcript
	if err := NewRelay(b.pool, b.broker, lease, nil, heard.Logger()).Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if n := heard.Count("broker stopped a duplicate"); n != relayBatch {
		t.Errorf("the broker answered duplicate %d times, want %d", n, relayBatch)
	}
	b.sentOnce(t, relayBatch+1)
	b.inOrder(t)
}

func TestRelaysDrainTogether(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const events = 5 * relayBatch / 2
	b.backlog(t, events)
	var heard shoptest.Transcript
	for _, err := range shoptest.Race(2, func(int) error {
		return NewRelay(b.pool, b.broker, lease, nil, heard.Logger()).Drain(t.Context())
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	if n := heard.Count("broker stopped a duplicate"); n != 0 {
		t.Errorf("%d events were published twice", n)
	}
	if n := b.count(t, "SELECT count(DISTINCT stream_seq) FROM outbox WHERE sent_at IS NOT NULL"); n != events {
		t.Errorf("%d events are marked, want %d", n, events)
	}
}

// The relay's queries read only unsent rows, with the planner's statistics and without.
func TestRelayScansNothingThatGrows(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.backlog(t, 10_000)
	plans := func(statistics string) {
		t.Helper()
		for name, query := range map[string]string{
			"claim": `EXPLAIN UPDATE outbox SET claimed_until = now() WHERE id = ANY(ARRAY(
				SELECT o.id FROM outbox o WHERE o.sent_at IS NULL AND o.failures = 0
				AND o.claimed_until < now() ORDER BY o.id LIMIT 1000 FOR UPDATE SKIP LOCKED))`,
			"backlog": `EXPLAIN SELECT
				(SELECT count(*) FROM (SELECT FROM outbox u WHERE u.sent_at IS NULL LIMIT 100) AS c),
				(SELECT created_at FROM outbox o WHERE o.sent_at IS NULL ORDER BY o.id LIMIT 1)`,
		} {
			rows, err := b.pool.Query(t.Context(), query)
			if err != nil {
				t.Fatal(err)
			}
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatal(err)
			}
			plan := strings.Join(lines, "\n")
			if !strings.Contains(plan, "outbox_unsent") || strings.Contains(plan, "Seq Scan") {
				t.Errorf("%s, with %s:\n%s", name, statistics, plan)
			}
		}
	}
	b.exec(t, "ALTER TABLE outbox SET (autovacuum_enabled = off)")
	b.exec(t, "UPDATE outbox SET sent_at = now()")
	plans("no statistics")
	b.exec(t, "VACUUM ANALYZE outbox")
	plans("statistics")
}
