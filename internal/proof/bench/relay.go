package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/outbox"
	natsbroker "github.com/onceshop/onceshop/internal/outbox/broker/nats"
)

const (
	// waiting is how many events wait for the relay each time.
	waiting = 5000
	// relayPrefix begins the names of the streams, which the run deletes.
	relayPrefix = "BENCH"
	naiveStream = relayPrefix + "_NAIVE"
	naiveEvents = "bench-naive.events"
	// eventsStream and deadStream end the names of the shop's streams.
	eventsStream = "_EVENTS"
	deadStream   = "_DEAD"
)

const (
	oweEvents = `INSERT INTO outbox (id, type, order_id, payload)
		SELECT gen_random_uuid(), 'order.placed', gen_random_uuid(), $2 FROM generate_series(1, $1)`
	oweNaive = `INSERT INTO outbox (type, order_id, payload) SELECT 'order.placed', n, $2
		FROM generate_series(1, $1) AS n`
	// owed is an event as large as that of an order of two lines.
	owed = `{"id": "019a0000-0000-7000-8000-000000000000", "status": "placed", ` +
		`"email": "buyer@example.com", "currency": "EUR", "total": 2800, "lines": [
		{"sku": "BENCH-1", "name": "Thing", "quantity": 1, "unit_price": 1400, "amount": 1400}, ` +
		`{"sku": "BENCH-2", "name": "Thing", "quantity": 1, "unit_price": 1400, "amount": 1400}]}`
)

// addRelay adds a backlog of events on its way to the broker, or a note. The naive twin publishes
// one event, marks it, and takes the next.
func (b *bench) addRelay(ctx context.Context, broker *nats.Conn, scenarios []scenario) ([]scenario, []string, error) {
	if broker == nil {
		return scenarios, []string{"There was no broker: the relay is left out."}, nil
	}
	js, err := jetstream.New(broker)
	if err != nil {
		return nil, nil, fmt.Errorf("open JetStream: %w", err)
	}
	// The books of the first schema are held against its orders: what is owed here belongs to none.
	relay, err := b.openRelay(ctx, b.guarded, js, relayPrefix, time.Hour)
	if err != nil {
		return nil, nil, err
	}
	b.stops = append(b.stops, func() { deleteStreams(ctx, js, naiveStream) })
	if _, err := js.CreateOrUpdateStream(ctx,
		jetstream.StreamConfig{Name: naiveStream, Subjects: []string{naiveEvents}, MaxAge: time.Hour}); err != nil {
		return nil, nil, fmt.Errorf("open the naive twin's stream: %w", err)
	}
	return append(scenarios, scenario{"relay in batches", []int{1},
		side{run: naiveRelay(b.naive, js)}, side{run: drained(b.guarded, relay, b.oweEvents)}}), nil, nil
}

// openRelay opens streams of the bench's own, and a relay to them of the pool's events.
func (b *bench) openRelay(ctx context.Context, pool *pgxpool.Pool, js jetstream.JetStream, prefix string,
	maxAge time.Duration) (*outbox.Relay, error) {
	b.stops = append(b.stops, func() { deleteStreams(ctx, js, prefix+eventsStream, prefix+deadStream) })
	quiet := slog.New(slog.DiscardHandler)
	broker := natsbroker.New(js, natsbroker.Settings{Prefix: prefix, Window: time.Minute, MaxAge: maxAge}, quiet)
	if err := broker.Open(ctx); err != nil {
		return nil, err
	}
	return outbox.NewRelay(pool, broker, time.Minute, nil, quiet), nil
}

func deleteStreams(ctx context.Context, js jetstream.JetStream, names ...string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropTimeout)
	defer cancel()
	for _, name := range names {
		_ = js.DeleteStream(ctx, name) // one that is left behind empties itself
	}
}

func (b *bench) oweEvents(ctx context.Context) error {
	if _, err := b.guarded.Exec(ctx, oweEvents, waiting, owed); err != nil {
		return fmt.Errorf("owe events: %w", err)
	}
	return nil
}

// drained has the relay send a backlog, and the next while there is time. What is owed is written
// while the clock stands.
func drained(pool *pgxpool.Pool, relay *outbox.Relay, owe func(context.Context) error) func(context.Context, int,
	time.Duration) (sample, error) {
	return func(ctx context.Context, _ int, length time.Duration) (s sample, err error) {
		var took time.Duration
		for took < length {
			if err := owe(ctx); err != nil {
				return s, err
			}
			var events, left int
			const unsent = "SELECT count(*) FROM outbox WHERE sent_at IS NULL"
			if err := pool.QueryRow(ctx, unsent).Scan(&events); err != nil {
				return s, fmt.Errorf("count the backlog: %w", err)
			}
			begin := time.Now()
			if err := relay.Drain(ctx); err != nil {
				return s, err
			}
			took += time.Since(begin)
			if err := pool.QueryRow(ctx, unsent).Scan(&left); err != nil || left > 0 {
				return s, errors.Join(fmt.Errorf("the relay left %d events", left), err)
			}
			s.calls += events
		}
		s.rate = float64(s.calls) / took.Seconds()
		return s, nil
	}
}

func naiveRelay(pool *pgxpool.Pool, js jetstream.JetStream) func(context.Context, int, time.Duration) (sample, error) {
	return func(ctx context.Context, _ int, length time.Duration) (s sample, err error) {
		if _, err := pool.Exec(ctx, oweNaive, waiting, owed); err != nil {
			return s, fmt.Errorf("owe naive events: %w", err)
		}
		begin := time.Now()
		for time.Since(begin) < length || s.calls == 0 {
			var id int64
			var payload []byte
			err := pool.QueryRow(ctx, "SELECT id, payload FROM outbox WHERE sent_at IS NULL ORDER BY id LIMIT "+
				"1").Scan(&id, &payload)
			if errors.Is(err, pgx.ErrNoRows) {
				break
			}
			if err == nil {
				_, err = js.Publish(ctx, naiveEvents, payload)
			}
			if err == nil {
				_, err = pool.Exec(ctx, "UPDATE outbox SET sent_at = now() WHERE id = $1", id)
			}
			if err != nil {
				return s, fmt.Errorf("relay naively: %w", err)
			}
			s.calls++
		}
		s.rate = float64(s.calls) / time.Since(begin).Seconds()
		return s, nil
	}
}
