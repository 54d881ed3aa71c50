package servicebus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/onceshop/onceshop/internal/outbox/broker"
)

const (
	// maxHeld is how many messages a consumer of a node holds back for their next try. Beyond it,
	// it receives no new ones until some are done.
	maxHeld = 500
	// moreWait is how long the first of several messages waits for the others. The client's default
	// of 20 ms would delay each lone event. What comes later is for the next call.
	moreWait = time.Millisecond
	// settleTimeout is how long the broker has to confirm a settlement.
	settleTimeout = 2 * time.Second
	// giveBackTimeout bounds the return of a message to the broker, which would otherwise deliver
	// it again when its lock expires.
	giveBackTimeout = 5 * time.Second
	// renewals is how often a lock is renewed in the time that it lasts.
	renewals = 3
	// maxReason is how much of the reason of a dead letter the broker keeps.
	maxReason = 4000
)

// Properties of a dead letter: the time at which the consumer gave up, and the message's number in
// the subscription.
const (
	deadAtProperty = "shop-dead-at"
	seqProperty    = "shop-seq"
)

// Subscribe implements broker.Broker. It does not connect: the subscription exists, or Open has
// failed.
func (b *Broker) Subscribe(_ context.Context, consumer, messageType string) (broker.Subscription, error) {
	return &subscription{b, consumer, messageType}, nil
}

type subscription struct {
	broker      *Broker
	consumer    string
	messageType string
}

// Consume implements broker.Subscription.
//
// Each message is locked, and its lock renewed, until it is settled. Retry keeps the message locked
// during the pause and then hands it out again in this process. Abandon has no delay and brings the
// message nearer to the subscription's limit of deliveries. A scheduled copy would be dropped as a
// duplicate, or under another id reach every consumer.
func (s *subscription) Consume(ctx context.Context, atOnce int,
	handle func(context.Context, broker.Delivery)) error {
	receiver, err := s.broker.receiver(s.consumer, 0)
	if err != nil {
		return err
	}
	settler, err := s.broker.receiver(s.consumer, 0)
	if err != nil {
		return err
	}
	c := &consumption{subscription: s, receiver: receiver, settler: settler, handle: handle,
		stopped: make(chan struct{}),
		fresh:   make(chan struct{}, atOnce), working: make(chan struct{}, atOnce), held: make(chan struct{}, maxHeld)}
	var failure error
	for failure == nil {
		failure = c.receive(ctx)
	}
	s.broker.closeReceiver(ctx, receiver)
	close(c.stopped)
	c.deliveries.Wait()
	s.broker.closeReceiver(ctx, settler)
	if ctx.Err() == nil {
		return fmt.Errorf("receive from subscription %s: %w", s.consumer, failure)
	}
	return nil
}

// consumption is one run of Consume.
type consumption struct {
	*subscription
	// receiver receives, and settler settles what it received: a link that was asked for messages
	// must be closed before a message is given back, or it gets that message.
	receiver, settler *azservicebus.Receiver
	handle            func(context.Context, broker.Delivery)
	stopped           chan struct{}
	deliveries        sync.WaitGroup
	// Semaphores: fresh is for messages that are asked for or were not put off yet, held for those
	// that were put off, and working for calls of handle.
	fresh, held, working chan struct{}
}

// receive asks for as many messages as can be handled, waits for the first, and starts the
// deliveries of those that came.
func (c *consumption) receive(ctx context.Context) error {
	select {
	case c.fresh <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	asked := 1
	for tryAcquire(c.fresh) {
		asked++
	}
	messages, err := c.receiver.ReceiveMessages(ctx, asked,
		&azservicebus.ReceiveMessagesOptions{TimeAfterFirstMessage: moreWait})
	for range asked - len(messages) {
		<-c.fresh
	}
	for _, message := range messages {
		d := &delivery{consumption: c, message: message, slot: c.fresh}
		c.deliveries.Go(func() { d.run(ctx) })
	}
	return err
}

func tryAcquire(semaphore chan<- struct{}) bool {
	select {
	case semaphore <- struct{}{}:
		return true
	default:
		return false
	}
}

// delivery is a message that this node has locked.
type delivery struct {
	*consumption
	message *azservicebus.ReceivedMessage
	// slot is the semaphore in which the delivery has a place.
	slot chan struct{}
	// again is the pause until the next try, if the last one ended with Retry.
	again *time.Duration
}

// run hands the message to handle, again after each Retry, until it is settled, left alone or lost.
func (d *delivery) run(ctx context.Context) {
	defer func() { <-d.slot }()
	if d.message.Subject == nil || *d.message.Subject != d.messageType { // the subscription lacks its filter
		if err := d.Ack(ctx); err != nil {
			d.warn(ctx, "an event for others was not acknowledged", err)
		}
		return
	}
	lost, unlock := d.keepLocked(ctx)
	defer unlock()
	for try := 0; ; try++ {
		select {
		case d.working <- struct{}{}:
		case <-lost:
			return
		case <-d.stopped:
			d.giveBack(ctx)
			return
		}
		d.again = nil
		d.handle(ctx, broker.Delivery{Message: decode(d.message), Settlement: d, Place: placeOf(d.message),
			Count: int(d.message.DeliveryCount) + try})
		<-d.working
		if d.again == nil {
			return
		}
		if d.slot != d.held && tryAcquire(d.held) {
			<-d.slot
			d.slot = d.held
		}
		select {
		case <-time.After(*d.again):
		case <-lost:
			return
		case <-d.stopped:
			d.giveBack(ctx)
			return
		}
	}
}

// keepLocked renews the message's lock until unlock is called. It closes lost when another node may
// have the message.
func (d *delivery) keepLocked(ctx context.Context) (lost <-chan struct{}, unlock func()) {
	ctx, unlock = context.WithCancel(context.WithoutCancel(ctx))
	gone := make(chan struct{})
	d.deliveries.Go(func() {
		tick := time.NewTicker(d.broker.settings.Lock / renewals)
		defer tick.Stop()
		renewed := time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			err := d.settler.RenewMessageLock(ctx, d.message, nil)
			switch {
			case ctx.Err() != nil:
				return
			case err == nil:
				renewed = time.Now()
			case isCode(err, azservicebus.CodeLockLost) || time.Since(renewed) > d.broker.settings.Lock:
				d.warn(ctx, "the lock of an event was lost, and the event comes again", err)
				close(gone)
				return
			}
		}
	})
	return gone, unlock
}

func isCode(err error, code azservicebus.Code) bool {
	e, ok := errors.AsType[*azservicebus.Error](err)
	return ok && e.Code == code
}

// giveBack returns a message that is not handled to the broker, for another node.
func (d *delivery) giveBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackTimeout)
	defer cancel()
	if err := d.settler.AbandonMessage(ctx, d.message, nil); err != nil {
		d.warn(ctx, "an event was not given back, and comes again when its lock expires", err)
	}
}

func (d *delivery) warn(ctx context.Context, what string, err error) {
	d.broker.log.WarnContext(ctx, what, "consumer", d.consumer, "message_id", d.message.MessageID, "error", err)
}

// Ack implements broker.Settlement.
func (d *delivery) Ack(ctx context.Context) error {
	return d.settle(ctx, "acknowledge", func(ctx context.Context, message *azservicebus.ReceivedMessage) error {
		return d.settler.CompleteMessage(ctx, message, nil)
	})
}

// Retry implements broker.Settlement. It does not ask the broker: see Consume.
func (d *delivery) Retry(_ context.Context, after time.Duration) error {
	d.again = &after
	return nil
}

// Dead implements broker.Settlement.
func (d *delivery) Dead(ctx context.Context, reason string) error {
	short := strings.ToValidUTF8(reason[:min(len(reason), maxReason)], "")
	options := &azservicebus.DeadLetterOptions{Reason: &gaveUp, ErrorDescription: &short,
		PropertiesToModify: map[string]any{
			deadAtProperty: time.Now().UTC().Format(time.RFC3339Nano),
			seqProperty:    strconv.FormatInt(placeOf(d.message).Seq, 10),
		}}
	return d.settle(ctx, "give up", func(ctx context.Context, message *azservicebus.ReceivedMessage) error {
		return d.settler.DeadLetterMessage(ctx, message, options)
	})
}

// settle settles the message where it came from. If that connection broke, it settles the lock,
// which outlives it, over a new one. The client itself goes on trying the broken connection for
// half a minute.
func (d *delivery) settle(ctx context.Context, what string,
	settle func(context.Context, *azservicebus.ReceivedMessage) error) error {
	first, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	err := settle(first, d.message)
	if err != nil && !isCode(err, azservicebus.CodeLockLost) && ctx.Err() == nil {
		// This connects again, and asks whether the message is still ours.
		if err = d.settler.RenewMessageLock(ctx, d.message, nil); err == nil {
			err = settle(ctx, &azservicebus.ReceivedMessage{LockToken: d.message.LockToken})
		}
	}
	if err != nil {
		return fmt.Errorf("%s message %s: %w", what, d.message.MessageID, err)
	}
	return nil
}

// gaveUp is the reason of a dead letter that its consumer made. The broker has others of its own,
// such as MaxDeliveryCountExceeded.
var gaveUp = "ConsumerGaveUp"

func placeOf(message *azservicebus.ReceivedMessage) (place broker.Place) {
	if message.SequenceNumber != nil {
		place.Seq = *message.SequenceNumber
	}
	if message.EnqueuedTime != nil {
		place.At = *message.EnqueuedTime
	}
	return place
}
