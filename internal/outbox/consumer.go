package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

const (
	// maxTries is how often an event can fail on one node before it becomes a dead letter.
	maxTries = 5
	// ackWait is how long the broker waits for an acknowledgement before it delivers the event
	// again. It must be longer than any handler takes. It is also the delay of a receipt whose
	// sender died, which must be less than the minute within which everything has to recover.
	ackWait = 40 * time.Second
	// handlers is how many events one node handles at a time.
	handlers = 8
	// fetchWait bounds how long RunOnce waits for events.
	fetchWait = 5 * time.Second
	// maxFailing bounds the failure counts in memory. The broker has at most this many events of a
	// consumer unacknowledged.
	maxFailing = 1000
	// consumerRetry is the pause after a failure of the broker.
	consumerRetry = time.Second
)

// RetryError is a temporary failure of a handler: the event is delivered again after the delay,
// however often. Any other error counts towards maxTries. See docs/decisions.md, D33.
type RetryError struct {
	After time.Duration
	Err   error
}

func (e *RetryError) Error() string { return e.Err.Error() }
func (e *RetryError) Unwrap() error { return e.Err }

// Consumer delivers each event of one type to a handler at least once. The handler must guard its
// own effect.
type Consumer struct {
	name     string
	subject  string
	handle   func(context.Context, Event) error
	consumer jetstream.Consumer
	streams  *Streams
	log      *slog.Logger
	retry    func(tries uint64) time.Duration

	mu sync.Mutex
	// failing counts the failures of each event on this node, by the event's sequence number. The
	// broker's own count does not serve: it includes deliveries that were put off or interrupted.
	failing map[uint64]uint64
}

// NewConsumer opens the durable consumer with the name, which all nodes share, for events of the
// type.
func NewConsumer(ctx context.Context, streams *Streams, name, eventType string,
	handle func(context.Context, Event) error, log *slog.Logger) (*Consumer, error) {
	c := &Consumer{name: name, subject: streams.eventSubject + eventType, handle: handle, streams: streams, log: log,
		retry: backoff, failing: map[uint64]uint64{}}
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// open creates or updates the consumer at the broker.
func (c *Consumer) open(ctx context.Context) (err error) {
	c.consumer, err = c.streams.js.CreateOrUpdateConsumer(ctx, c.streams.eventName, jetstream.ConsumerConfig{
		Durable: c.name, FilterSubject: c.subject, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait,
		MaxDeliver: -1, // no limit: the broker would drop the event instead of keeping it as a dead letter
	})
	if err != nil {
		return fmt.Errorf("open consumer %s: %w", c.name, err)
	}
	return nil
}

// lookUp returns an error unless the broker has the consumer.
func (c *Consumer) lookUp(ctx context.Context) error {
	if _, err := c.streams.js.Consumer(ctx, c.streams.eventName, c.name); err != nil {
		return fmt.Errorf("look up consumer %s: %w", c.name, err)
	}
	return nil
}

// Run handles events until ctx ends, and returns when the handlers at work have finished. If the
// broker lost the consumer, Run opens it again, once the relay has created the stream again.
func (c *Consumer) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := c.consume(ctx)
		for err != nil && ctx.Err() == nil {
			c.log.WarnContext(ctx, "consumer failed; trying again", "consumer", c.name, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(consumerRetry):
				err = c.lookUp(ctx)
				if errors.Is(err, jetstream.ErrConsumerNotFound) {
					err = c.open(ctx)
				}
			}
		}
	}
	return nil
}

// consume subscribes and handles events until ctx or the subscription ends. Each handler takes its
// next event when it has finished one, so that a slow event does not hold up the others.
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
			err := c.lookUp(ctx)
			if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
				events.Stop()
				return err
			}
			continue
		case err != nil:
			return fmt.Errorf("next event: %w", err)
		case ctx.Err() != nil:
			_ = msg.Nak() // if it is lost, the event comes again after ackWait
			continue
		}
		if err := c.process(ctx, msg); err != nil {
			c.log.WarnContext(ctx, "an event was not acknowledged and comes again", "consumer", c.name, "error", err)
		}
	}
}

// RunOnce waits up to five seconds for events, handles a batch of them and returns how many.
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
		group.Go(func() error { return c.process(ctx, msg) })
	}
	err = group.Wait()
	if fault := batch.Error(); fault != nil && !isTimeout(fault) {
		err = errors.Join(err, fault)
	}
	return count, err
}

func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, nats.ErrTimeout)
}

// process handles a message and then acknowledges it, puts it off or makes it a dead letter. It
// goes on when ctx has ended. After an error, the message is delivered again after ackWait.
func (c *Consumer) process(ctx context.Context, msg jetstream.Msg) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackWait)
	defer cancel()
	meta, err := msg.Metadata()
	if err != nil {
		return fmt.Errorf("read the message's metadata: %w", err)
	}
	seq := meta.Sequence.Stream
	err = c.call(ctx, msg.Data())
	if err == nil {
		handled.WithLabelValues(c.name, "done").Inc()
		c.forget(seq)
		return msg.DoubleAck(ctx)
	}
	if later, ok := errors.AsType[*RetryError](err); ok {
		handled.WithLabelValues(c.name, "retried").Inc()
		c.log.WarnContext(ctx, "event put off",
			"consumer", c.name, "stream_seq", seq, "after", later.After, "error", err)
		return msg.NakWithDelay(later.After)
	}
	tries := c.countFailure(seq)
	if tries < maxTries {
		handled.WithLabelValues(c.name, "failed").Inc()
		c.log.WarnContext(ctx, "event failed", "consumer", c.name, "stream_seq", seq, "try", tries, "error", err)
		return msg.NakWithDelay(c.retry(tries))
	}
	if fault := c.streams.bury(ctx, c.name, msg, seq, err); fault != nil {
		return errors.Join(fault, msg.NakWithDelay(c.retry(tries)))
	}
	handled.WithLabelValues(c.name, "dead").Inc()
	c.forget(seq)
	c.log.ErrorContext(ctx, "event became a dead letter", "consumer", c.name, "stream_seq", seq, "error", err)
	return msg.TermWithReason("dead letter")
}

// call decodes the event and calls the handler. A panic is an error, so that one event cannot stop
// the others.
func (c *Consumer) call(ctx context.Context, data []byte) (err error) {
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

// countFailure adds a failure of the event and returns how many it has had on this node. See
// docs/decisions.md, D34.
func (c *Consumer) countFailure(seq uint64) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.failing) >= maxFailing {
		clear(c.failing) // most belong to events that other nodes have handled since
	}
	c.failing[seq]++
	return c.failing[seq]
}

func (c *Consumer) forget(seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.failing, seq)
}

// backoff grows from 1 to 30 seconds, with jitter.
func backoff(tries uint64) time.Duration {
	base := min(time.Second<<min(tries, 5), 30*time.Second)
	return base/2 + rand.N(base/2) //nolint:gosec // jitter needs no secrecy
}
