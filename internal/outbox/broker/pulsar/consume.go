package pulsar

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/apache/pulsar-client-go/pulsar"

	"github.com/onceshop/onceshop/internal/outbox/broker"
)

// nackPause is how long the client waits before it gives a message back, at most. The pauses of
// Retry are kept by the adapter, because the client has one for all messages.
const nackPause = 100 * time.Millisecond

// subscription is a subscription that all nodes share.
type subscription struct {
	*Broker
	consumer    string
	messageType string
}

// Subscribe implements broker.Broker.
func (b *Broker) Subscribe(_ context.Context, consumer, messageType string) (broker.Subscription, error) {
	if err := b.createSubscription(b.events, consumer); err != nil {
		return nil, err
	}
	return &subscription{b, consumer, messageType}, nil
}

// Consume implements broker.Subscription. Messages of other types are acknowledged at once.
func (s *subscription) Consume(ctx context.Context, atOnce int, handle func(context.Context, broker.Delivery)) error {
	consumer, err := s.client.Subscribe(pulsar.ConsumerOptions{
		Topic: s.events, SubscriptionName: s.consumer, Type: pulsar.Shared,
		SubscriptionInitialPosition: pulsar.SubscriptionPositionEarliest, ReceiverQueueSize: 2 * atOnce,
		AckWithResponse: true, NackRedeliveryDelay: nackPause,
	})
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	// It gives back what is not settled.
	defer consumer.Close()
	c := &consumption{subscription: s, client: consumer, open: map[*delivery]bool{}}
	defer c.stop()
	receiving, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for {
				message, err := consumer.Receive(receiving)
				if err != nil {
					cancel(fmt.Errorf("receive: %w", err)) // of the first worker only
					return
				}
				c.deliver(ctx, message, handle)
			}
		})
	}
	workers.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(receiving)
}

// consumption is one run of Consume.
type consumption struct {
	*subscription
	client pulsar.Consumer
	mu     sync.Mutex
	// open has the deliveries whose timers run.
	open map[*delivery]bool
}

// stop ends all timers, after which nothing uses the client.
func (c *consumption) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for d := range c.open {
		d.timer.Stop()
	}
	c.open = nil
}

func (c *consumption) deliver(ctx context.Context, message pulsar.Message,
	handle func(context.Context, broker.Delivery)) {
	if message.Properties()[typeProperty] != c.messageType {
		if err := c.client.Ack(message); err != nil {
			c.log.WarnContext(ctx, "a message for others was not acknowledged", "consumer", c.consumer, "error", err)
			c.client.Nack(message)
		}
		return
	}
	d := &delivery{consumption: c, message: message}
	d.giveBackAfter(broker.HandleTimeout)
	handle(ctx, broker.Delivery{Message: decode(message), Settlement: d, Place: placeOf(message),
		Count: int(message.RedeliveryCount()) + 1})
}

// delivery is a message that this node has.
type delivery struct {
	*consumption
	message pulsar.Message
	timer   *time.Timer
}

// giveBackAfter gives the message back to the broker after the pause, in place of any pause before.
func (d *delivery) giveBackAfter(pause time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open == nil {
		return // it is given back anyway
	}
	d.open[d] = true
	if d.timer != nil {
		d.timer.Reset(pause)
		return
	}
	d.timer = time.AfterFunc(pause, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.open[d] {
			delete(d.open, d)
			d.client.Nack(d.message)
		}
	})
}

// Ack implements broker.Settlement.
func (d *delivery) Ack(ctx context.Context) error {
	_, err := within(ctx, func() (any, error) { return nil, d.client.Ack(d.message) })
	if err != nil {
		return fmt.Errorf("acknowledge: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.timer.Stop()
	delete(d.open, d)
	return nil
}

// Retry implements broker.Settlement. The node keeps the message during the pause.
func (d *delivery) Retry(_ context.Context, after time.Duration) error {
	d.giveBackAfter(after)
	return nil
}

// Dead implements broker.Settlement.
func (d *delivery) Dead(ctx context.Context, reason string) error {
	if err := d.letters.add(ctx, d.consumer, d.message, reason); err != nil {
		return err
	}
	return d.Ack(ctx)
}

// entryBits are enough for the entries of a ledger, of which the broker makes a new one after
// 50,000 entries by default.
const entryBits = 20

// placeOf makes one number of the two that Pulsar has.
func placeOf(message pulsar.Message) broker.Place {
	id := message.ID()
	return broker.Place{Seq: id.LedgerID()<<entryBits | id.EntryID(), At: message.PublishTime()}
}

func formatPlace(p broker.Place) string {
	return strconv.FormatInt(p.Seq, 10) + "-" + strconv.FormatInt(p.At.UnixMilli(), 10)
}
