package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/outbox"
)

// relayLease is how long the event of a relay that died waits for the next one.
const relayLease = 250 * time.Millisecond

// naiveLine is a paid order's way to the mailbox: a relay on either node publishes its event, and a
// consumer on either node sends the receipt.
type naiveLine struct {
	*naivePair
	newID    func(orderID string) string
	consumer jetstream.Consumer
}

func (b *Bench) naiveLine(ctx context.Context, window time.Duration, newID func(string) string) (*naiveLine, error) {
	if err := b.openStreams(ctx, window); err != nil {
		return nil, err
	}
	p, err := b.naivePair(ctx, articleTTL, false)
	if err != nil {
		return nil, err
	}
	if _, err := b.Naive.Exec(ctx, "INSERT INTO paid_events (order_id, run) VALUES ($1, $2)", p.orderID,
		b.Name); err != nil {
		return nil, fmt.Errorf("enqueue the event: %w", err)
	}
	consumer, err := b.JS.CreateOrUpdateConsumer(ctx, b.eventStream(), jetstream.ConsumerConfig{
		Durable: notify.ConsumerName, AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute})
	if err != nil {
		return nil, fmt.Errorf("open the consumer: %w", err)
	}
	return &naiveLine{p, newID, consumer}, nil
}

// relay has the worker publish what is unsent; dying, it ends before it marks what it has
// published.
func (l *naiveLine) relay(ctx context.Context, w *worker, dying bool) error {
	db, err := w.open(ctx, l.bench.Naive, nil)
	if err != nil {
		return err
	}
	if dying {
		w.diesAt("before UPDATE", "dies before it marks the event")
	}
	relay := naiveRelay{db: db, js: publishPen{l.bench.JS, w, ctx}, subject: l.bench.paidSubject(), run: l.bench.Name}
	_, err = w.process(func() error { return relay.publishUnsent(ctx, l.newID) })
	return err
}

// receive has the worker handle one message.
func (l *naiveLine) receive(ctx context.Context, w *worker,
	receiveOne func(context.Context, jetstream.Consumer) error) error {
	_, err := w.process(func() error { return receiveOne(ctx, consumerPen{l.consumer, w, ctx}) })
	return err
}

// receiveAll has the worker handle every message that the stream holds after the first ones.
func (l *naiveLine) receiveAll(ctx context.Context, w *worker, after int) error {
	n, err := l.bench.stored(ctx)
	for ; n > after && err == nil; n-- {
		err = l.receive(ctx, w, l.sender(w).receiveOne)
	}
	return err
}

// windowEnds waits for the end of a short window.
func (l *naiveLine) windowEnds(ctx context.Context, window time.Duration) error {
	if window == longWindow {
		return nil
	}
	return l.bench.windowEnds(ctx, l.newID(l.orderID))
}

// guardedLine is the same way through the shop's own relay, consumer and service.
type guardedLine struct {
	*guardedPair
	window    time.Duration
	consumers map[*worker]*guardedConsumer
	delivered atomic.Int32
}

type guardedConsumer struct {
	*outbox.Consumer
	acked bool
}

func (b *Bench) guardedLine(ctx context.Context, window time.Duration) (*guardedLine, error) {
	if err := b.openStreams(ctx, window); err != nil {
		return nil, err
	}
	p, err := b.guardedPair(ctx, false)
	if err != nil {
		return nil, err
	}
	line := &guardedLine{guardedPair: p, window: window, consumers: map[*worker]*guardedConsumer{}}
	return line, errors.Join(line.subscribe(ctx, p.a), line.subscribe(ctx, p.b))
}

// relay has the worker publish the event as soon as it may claim it; dying, it ends before it marks
// what it has published.
func (l *guardedLine) relay(ctx context.Context, w *worker, dying bool) error {
	// The relay takes whatever is unsent, and other runs share the table. A temporary view is found
	// before it, and shows this run's event only.
	db, err := w.open(ctx, l.bench.Guarded, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "CREATE TEMP VIEW outbox AS SELECT * FROM "+guardedSchema+".outbox WHERE id = "+
			"'"+l.event.ID.String()+"'")
		return err
	})
	if err != nil {
		return err
	}
	broker, err := w.broker(ctx, l.window)
	if err != nil {
		return err
	}
	if dying {
		w.diesAt("before MarkSent", "dies before it marks the event")
	}
	relay := outbox.NewRelay(db, broker, relayLease, nil, slog.New(slog.DiscardHandler))
	return Until(ctx, "the event to be claimed", func(ctx context.Context) (claimed bool, err error) {
		finished, err := w.process(func() error {
			n, err := relay.RunOnce(ctx)
			claimed = n > 0
			return err
		})
		return claimed || !finished, err
	})
}

// subscribe gives the worker the shop's consumer.
func (l *guardedLine) subscribe(ctx context.Context, w *worker) error {
	broker, err := w.broker(ctx, l.window)
	if err != nil {
		return err
	}
	c := &guardedConsumer{}
	c.Consumer, err = outbox.NewConsumer(ctx, l.bench.Guarded, broker, notify.ConsumerName, l.event.Type,
		func(ctx context.Context, event outbox.Event) error {
			l.bench.Says(ctx, Stream, w.actor, "%s, delivery %d", event.Type, l.delivered.Add(1))
			if err := w.receipts.HandlePaid(ctx, event); err != nil {
				return err
			}
			w.reach(ctx, "before ack")
			c.acked = true
			return nil
		}, slog.New(slog.DiscardHandler))
	l.consumers[w] = c
	return err
}

// receive has the worker handle one event.
func (l *guardedLine) receive(ctx context.Context, w *worker) error {
	c := l.consumers[w]
	for found := false; !found; {
		c.acked = false
		_, err := w.process(func() (err error) {
			found, err = c.RunOnce(ctx)
			return err
		})
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
	}
	if c.acked {
		l.bench.Says(ctx, w.actor, Stream, "ack")
	}
	return nil
}

// receiveAll has the worker handle every event that the stream holds after the first ones.
func (l *guardedLine) receiveAll(ctx context.Context, w *worker, after int) error {
	n, err := l.bench.stored(ctx)
	if err == nil && n > 1 {
		l.bench.Does(ctx, Stream, "holds the event %d times", n)
	}
	for ; n > after && err == nil; n-- {
		err = l.receive(ctx, w)
	}
	return err
}

// windowEnds waits for the end of a short window.
func (l *guardedLine) windowEnds(ctx context.Context) error {
	if l.window == longWindow {
		return nil
	}
	return l.bench.windowEnds(ctx, l.messageID())
}

// messageID is the one that the shop's relay publishes the event under.
func (l *guardedLine) messageID() string { return l.event.Type + "." + l.event.ID.String() }
