package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/dedup"
)

const (
	// maxTries is how often an event may fail on one node before it becomes a dead letter.
	maxTries = 5
	// ackWait is longer than any handler may take; an event that is not acknowledged by then comes again. It is what a receipt waits for
	// when its sender has died, and shorter than the minute in which all must have healed.
	ackWait = 40 * time.Second
	// handlers is how many events one node works on at a time.
	handlers  = 8
	fetchWait = 5 * time.Second
	// maxFailing bounds what a node remembers of failures: the broker hands out no more than this many at a time.
	maxFailing = 1000
)

// RetryError says that a handler failed for a reason that passes: the event comes again after the
// delay, however often. Every other error counts towards the event's dead letter.
type RetryError struct {
	After time.Duration
	Err   error
}

func (e *RetryError) Error() string { return e.Err.Error() }
func (e *RetryError) Unwrap() error { return e.Err }

// Consumer hands each event of one type to a handler, at least once. The handler guards its own effect.
type Consumer struct {
	name     string
	subject  string
	handle   func(context.Context, Event) error
	consumer jetstream.Consumer
	streams  *Streams
	log      *slog.Logger
	retry    func(tries uint64) time.Duration

	mu sync.Mutex
	// failing counts the failures of events by their place in the stream. The broker counts deliveries, and most of those are no failure: an event is
	// put off, or its node stops. Each node counts for itself, from its start.
	failing map[uint64]uint64
}

// NewConsumer opens the durable consumer name for events of the type. All nodes share it.
func NewConsumer(ctx context.Context, streams *Streams, name, eventType string, handle func(context.Context, Event) error, log *slog.Logger) (*Consumer, error) {
	c := &Consumer{name: name, subject: streams.eventSubject + eventType, handle: handle, streams: streams, log: log, retry: backoff,
		failing: map[uint64]uint64{}}
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Consumer) open(ctx context.Context) (err error) {
	c.consumer, err = c.streams.js.CreateOrUpdateConsumer(ctx, c.streams.eventName, jetstream.ConsumerConfig{
		Durable: c.name, FilterSubject: c.subject, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait,
		MaxDeliver: -1, // the dead letter is ours: the server would drop the event without a trace
	})
	if err != nil {
		return fmt.Errorf("open consumer %s: %w", c.name, err)
	}
	return nil
}

// Run consumes until ctx ends, then waits for the handlers at work. A consumer that the broker has lost is made again, once the relay has
// made its stream.
func (c *Consumer) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := c.consume(ctx)
		for err != nil && ctx.Err() == nil {
			c.log.WarnContext(ctx, "consumer failed; trying again", "consumer", c.name, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
				err = c.find(ctx)
				if errors.Is(err, jetstream.ErrConsumerNotFound) {
					err = c.open(ctx)
				}
			}
		}
	}
	return nil
}

// find returns an error unless the broker has the consumer.
func (c *Consumer) find(ctx context.Context) error {
	if _, err := c.streams.js.Consumer(ctx, c.streams.eventName, c.name); err != nil {
		return fmt.Errorf("look for consumer %s: %w", c.name, err)
	}
	return nil
}

// consume has each handler take its next event when it is done with one, so that a slow one holds up nobody. As many events again wait on this
// node. It returns when ctx ends or the subscription does.
func (c *Consumer) consume(ctx context.Context) error {
	events, err := c.consumer.Messages(jetstream.PullMaxMessages(handlers))
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	defer events.Stop()
	defer context.AfterFunc(ctx, events.Drain)()
	var group errgroup.Group
	for range handlers {
		group.Go(func() error { return c.work(ctx, events) })
	}
	return group.Wait()
}

func (c *Consumer) work(ctx context.Context, events jetstream.MessagesContext) error {
	for {
		msg, err := events.Next()
		switch {
		case errors.Is(err, jetstream.ErrNoHeartbeat):
			c.log.WarnContext(ctx, "the broker is silent; still listening", "consumer", c.name)
			if err := c.find(ctx); errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
				events.Stop()
				return err
			}
			continue
		case err != nil:
			return fmt.Errorf("next event: %w", err)
		case ctx.Err() != nil:
			_ = msg.Nak() // goes to another node at once, or when the broker's patience ends
			continue
		}
		if err := c.finish(ctx, msg); err != nil {
			c.log.WarnContext(ctx, "the broker was not told what became of an event: it comes again", "consumer", c.name, "error", err)
		}
	}
}

// finish handles an event that is in hand, even when the service is stopping.
func (c *Consumer) finish(ctx context.Context, msg jetstream.Msg) error {
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackWait)
	defer cancel()
	return c.one(work, msg)
}

// RunOnce waits up to five seconds for events, handles a batch, and returns how many it handled.
func (c *Consumer) RunOnce(ctx context.Context) (int, error) {
	fetch, cancel := context.WithTimeout(ctx, fetchWait)
	defer cancel()
	batch, err := c.consumer.Fetch(handlers, jetstream.FetchContext(fetch))
	if err != nil {
		return 0, fmt.Errorf("fetch events: %w", err)
	}
	var group errgroup.Group
	count := 0
	for msg := range batch.Messages() {
		count++
		group.Go(func() error { return c.finish(ctx, msg) })
	}
	err = group.Wait()
	if fault := batch.Error(); fault != nil && !errors.Is(fault, context.DeadlineExceeded) && !errors.Is(fault, context.Canceled) && !errors.Is(fault, nats.ErrTimeout) {
		err = errors.Join(err, fault)
	}
	return count, err
}

// one handles a message and tells the broker what became of it. An error means that the broker could not be
// told; the message then comes again after ackWait.
func (c *Consumer) one(ctx context.Context, msg jetstream.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return fmt.Errorf("read the message's metadata: %w", err)
	}
	err = c.safely(ctx, msg.Data())
	seq := meta.Sequence.Stream
	if err == nil {
		handled.WithLabelValues(c.name, "done").Inc()
		c.forget(seq)
		return msg.DoubleAck(ctx)
	}
	if later := (*RetryError)(nil); errors.As(err, &later) {
		handled.WithLabelValues(c.name, "retried").Inc()
		c.log.WarnContext(ctx, "event put off", "consumer", c.name, "stream_seq", seq, "after", later.After, "error", err)
		return msg.NakWithDelay(later.After)
	}
	failures := c.countFailure(seq)
	if failures >= maxTries {
		return c.bury(ctx, msg, meta, err)
	}
	handled.WithLabelValues(c.name, "failed").Inc()
	c.log.WarnContext(ctx, "event failed", "consumer", c.name, "stream_seq", seq, "try", failures, "error", err)
	return msg.NakWithDelay(c.retry(failures))
}

// countFailure returns how often the event has failed on this node.
func (c *Consumer) countFailure(seq uint64) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.failing) >= maxFailing {
		clear(c.failing) // what other nodes have finished since is never asked for again
	}
	c.failing[seq]++
	return c.failing[seq]
}

func (c *Consumer) forget(seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.failing, seq)
}

// safely decodes and handles; a panic is an error like another, so that one event cannot stop the rest.
func (c *Consumer) safely(ctx context.Context, data []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	var event Event
	if err := json.Unmarshal(data, &event); err != nil {
		return fmt.Errorf("decode the event: %w", err)
	}
	return c.handle(ctx, event)
}

// bury moves the message to the dead letters, under an id of its own so that a repeat is no second letter.
func (c *Consumer) bury(ctx context.Context, msg jetstream.Msg, meta *jetstream.MsgMetadata, cause error) error {
	seq := strconv.FormatUint(meta.Sequence.Stream, 10)
	letter := dedup.Message{
		Subject: c.streams.deadSubject + c.name, ID: "dead." + c.name + "." + seq, Data: msg.Data(),
		Header: nats.Header{"Shop-Subject": {msg.Subject()}, "Shop-Stream-Seq": {seq}, "Shop-Error": {strconv.Quote(cause.Error())}},
	}
	if ack := c.streams.dead.Publish(ctx, letter)[0]; ack.Err != nil {
		return errors.Join(fmt.Errorf("publish the dead letter: %w", ack.Err), msg.NakWithDelay(c.retry(maxTries)))
	}
	handled.WithLabelValues(c.name, "dead").Inc()
	c.forget(meta.Sequence.Stream)
	c.log.ErrorContext(ctx, "event became a dead letter", "consumer", c.name, "stream_seq", meta.Sequence.Stream, "error", cause)
	return msg.TermWithReason("dead letter")
}

func backoff(tries uint64) time.Duration {
	base := min(time.Second<<min(tries, 5), 30*time.Second)
	return base/2 + rand.N(base/2) //nolint:gosec // jitter needs no secrecy
}
