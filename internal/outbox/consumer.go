package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/internal/outboxdb"
	"github.com/onceshop/onceshop/internal/tracing"
)

const (
	// maxTries is how often an event can fail before it becomes a dead letter.
	maxTries = 5
	// handlers is how many events one node handles at a time.
	handlers = 8
	// fetchWait bounds how long RunOnce waits for an event.
	fetchWait = 5 * time.Second
	// settleTimeout bounds the broker's confirmation that a delivery has ended: a broker that dies
	// never answers. What it has not confirmed is delivered again. An adapter may try twice.
	settleTimeout = 10 * time.Second
	// countTimeout bounds the count of an event's failures.
	countTimeout = 5 * time.Second
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
	name      string
	eventType string
	handle    func(context.Context, Event) error
	broker    broker.Broker
	events    broker.Subscription
	log       *slog.Logger
	db        *outboxdb.Queries
	retry     func(tries uint64) time.Duration
}

// NewConsumer opens the durable subscription with the name, which all nodes share, for events of
// the type. The broker must be open. The pool's database counts the failures of each event.
func NewConsumer(ctx context.Context, pool *pgxpool.Pool, b broker.Broker, name, eventType string,
	handle func(context.Context, Event) error, log *slog.Logger) (*Consumer, error) {
	events, err := b.Subscribe(ctx, name, eventType)
	if err != nil {
		return nil, err
	}
	return &Consumer{name: name, eventType: eventType, handle: handle, broker: b, events: events, log: log,
		db: outboxdb.New(pool), retry: backoff}, nil
}

// Run handles events until ctx ends, and returns when the handlers at work have finished.
func (c *Consumer) Run(ctx context.Context) error {
	c.forgetLost(ctx)
	for ctx.Err() == nil {
		err := c.events.Consume(ctx, handlers, func(ctx context.Context, d broker.Delivery) {
			if err := c.process(ctx, d); err != nil {
				c.log.WarnContext(ctx, "an event was not acknowledged and comes again",
					"consumer", c.name, "error", err)
			}
		})
		if err != nil && ctx.Err() == nil {
			c.log.WarnContext(ctx, "consumer failed; trying again", "consumer", c.name, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(consumerRetry):
			}
		}
	}
	return nil
}

// RunOnce waits up to five seconds for an event, handles it, and returns whether there was one.
func (c *Consumer) RunOnce(ctx context.Context) (found bool, err error) {
	wait, enough := context.WithTimeout(ctx, fetchWait)
	defer enough()
	var fault error
	err = c.events.Consume(wait, 1, func(ctx context.Context, d broker.Delivery) {
		enough()
		found = true
		fault = c.process(ctx, d)
	})
	return found, errors.Join(err, fault)
}

// process handles a delivery and then acknowledges it, puts it off or makes it a dead letter. It
// goes on when ctx has ended. After an error, the event is delivered again.
func (c *Consumer) process(ctx context.Context, d broker.Delivery) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), broker.HandleTimeout)
	defer cancel()
	ctx, span := c.startProcessing(ctx, d.Message)
	err := c.call(ctx, d.Data)
	tracing.End(span, err)
	d.Settlement = prompt{d.Settlement}
	if err == nil {
		handled.WithLabelValues(c.name, "done").Inc()
		if d.Count > 1 {
			c.forget(ctx, d.Place)
		}
		return d.Ack(ctx)
	}
	later, ok := errors.AsType[*RetryError](err)
	var tries uint64
	if !ok {
		var fault error
		if tries, fault = c.countFailure(ctx, d.Place); fault != nil { // no count, no try: the database is down
			later, ok = &RetryError{After: consumerRetry, Err: fault}, true
			err = errors.Join(err, fault)
		}
	}
	if ok {
		handled.WithLabelValues(c.name, "retried").Inc()
		c.log.WarnContext(ctx, "event put off",
			"consumer", c.name, "stream_seq", d.Place.Seq, "after", later.After, "error", err)
		return d.Retry(ctx, later.After)
	}
	if tries < maxTries {
		handled.WithLabelValues(c.name, "failed").Inc()
		c.log.WarnContext(ctx, "event failed",
			"consumer", c.name, "stream_seq", d.Place.Seq, "try", tries, "error", err)
		return d.Retry(ctx, c.retry(tries))
	}
	if fault := d.Dead(ctx, err.Error()); fault != nil {
		return errors.Join(fault, d.Retry(ctx, c.retry(tries)))
	}
	handled.WithLabelValues(c.name, "dead").Inc()
	c.forget(ctx, d.Place)
	c.log.ErrorContext(ctx, "event became a dead letter", "consumer", c.name, "stream_seq", d.Place.Seq, "error", err)
	return nil
}

// prompt waits for the broker's confirmation no longer than settleTimeout.
type prompt struct{ broker.Settlement }

func (p prompt) Ack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	return p.Settlement.Ack(ctx)
}

func (p prompt) Dead(ctx context.Context, reason string) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	return p.Settlement.Dead(ctx, reason)
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

// countFailure adds a failure of the event and returns how many it has had. See docs/decisions.md,
// D34.
func (c *Consumer) countFailure(ctx context.Context, at broker.Place) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	n, err := c.db.CountFailure(ctx, outboxdb.CountFailureParams{Consumer: c.name, StreamSeq: at.Seq, StoredAt: at.At})
	if err != nil {
		return 0, fmt.Errorf("count the failure: %w", err)
	}
	return uint64(max(n, 0)), nil
}

// forget drops the count of an event that has ended. A count that is left does no harm.
func (c *Consumer) forget(ctx context.Context, at broker.Place) {
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	err := c.db.ForgetFailures(ctx, outboxdb.ForgetFailuresParams{Consumer: c.name, StreamSeq: at.Seq, StoredAt: at.At})
	if err != nil {
		c.log.WarnContext(ctx, "a count of failures stays until its event is too old", "consumer", c.name, "error", err)
	}
}

// forgetLost drops the counts of events that the broker has dropped.
func (c *Consumer) forgetLost(ctx context.Context) {
	err := c.db.ForgetLostFailures(ctx, outboxdb.ForgetLostFailuresParams{Consumer: c.name,
		Age: c.broker.Memory().MaxAge})
	if err != nil {
		c.log.WarnContext(ctx, "old counts of failures were not deleted", "consumer", c.name, "error", err)
	}
}

// backoff grows from 1 to 30 seconds, with jitter.
func backoff(tries uint64) time.Duration {
	base := min(time.Second<<min(tries, 5), 30*time.Second)
	return base/2 + rand.N(base/2) //nolint:gosec // jitter needs no secrecy
}
