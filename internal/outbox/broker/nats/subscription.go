package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/tracing"
)

// maxPending is how many events of a consumer the broker lets wait for their next try. Beyond it,
// it delivers no new events.
const maxPending = 100_000

// heartbeat is how often the broker says that it has nothing to deliver. The client asks again when
// it has heard nothing for twice as long, so a request that was lost delays events by that.
const heartbeat = 5 * time.Second

// recheck is when a subscription to which nothing has come looks again whether it has asked the
// broker. See next.
const recheck = 200 * time.Millisecond

// subscription is a durable consumer of the event stream.
type subscription struct {
	*Broker
	consumer string
	subject  string
	events   jetstream.Consumer
	// failed is set when the broker may have lost the consumer.
	failed bool
}

// Subscribe implements broker.Broker.
func (b *Broker) Subscribe(ctx context.Context, consumer, messageType string) (broker.Subscription, error) {
	s := &subscription{Broker: b, consumer: consumer, subject: b.eventSubject + messageType}
	if err := s.create(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// create creates or updates the consumer at the broker.
func (s *subscription) create(ctx context.Context) (err error) {
	s.events, err = s.js.CreateOrUpdateConsumer(ctx, s.eventName, jetstream.ConsumerConfig{
		Durable: s.consumer, FilterSubject: s.subject, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: broker.HandleTimeout, MaxAckPending: maxPending,
		MaxDeliver: -1, // no limit: the broker would drop the event instead of keeping it as a dead letter
	})
	if err != nil {
		return fmt.Errorf("open consumer %s: %w", s.consumer, err)
	}
	return nil
}

// lookUp returns an error unless the broker has the consumer.
func (s *subscription) lookUp(ctx context.Context) error {
	if _, err := s.js.Consumer(ctx, s.eventName, s.consumer); err != nil {
		return fmt.Errorf("look up consumer %s: %w", s.consumer, err)
	}
	return nil
}

// Consume implements broker.Subscription. If the broker lost the consumer, it creates it again,
// once there is a stream again.
func (s *subscription) Consume(ctx context.Context, atOnce int, handle func(context.Context, broker.Delivery)) error {
	err := s.consume(ctx, atOnce, handle)
	if ctx.Err() != nil {
		err = nil // the subscription was ended
	}
	s.failed = err != nil
	return err
}

func (s *subscription) consume(ctx context.Context, atOnce int, handle func(context.Context, broker.Delivery)) error {
	if s.failed {
		err := s.lookUp(ctx)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			err = s.create(ctx)
		}
		if err != nil {
			return err
		}
	}
	messages, err := s.events.Messages(jetstream.PullMaxMessages(atOnce), jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Drain)()
	var handlers sync.WaitGroup
	defer handlers.Wait()
	slots := make(chan struct{}, atOnce)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			messages.Drain() // before Next asks the broker for more
		}
		msg, err := s.next(ctx, messages)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			_ = msg.Nak() // if it is lost, the event comes again after HandleTimeout
			continue
		}
		d, err := s.delivery(msg)
		if err != nil {
			return err
		}
		handlers.Go(func() {
			defer func() { <-slots }()
			handle(ctx, d)
		})
	}
}

// next waits for a message until the subscription ends. The client does not ask for more while its
// last request is still on its way out, although the broker may have answered it already. It would
// then wait for an answer to nothing, and notice after two heartbeats: so next calls it twice.
func (s *subscription) next(ctx context.Context, messages jetstream.MessagesContext) (jetstream.Msg, error) {
	for {
		msg, err := messages.Next(jetstream.NextMaxWait(recheck))
		if errors.Is(err, nats.ErrTimeout) {
			msg, err = messages.Next()
		}
		if err == nil {
			return msg, nil
		}
		if !errors.Is(err, jetstream.ErrNoHeartbeat) {
			return nil, fmt.Errorf("next event: %w", err)
		}
		s.log.WarnContext(ctx, "the broker is silent; still listening", "consumer", s.consumer)
		err = s.lookUp(ctx)
		if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil, err
		}
	}
}

func (s *subscription) delivery(msg jetstream.Msg) (broker.Delivery, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return broker.Delivery{}, fmt.Errorf("read a message's metadata: %w", err)
	}
	at := place{meta.Sequence.Stream, meta.Timestamp}
	return broker.Delivery{Message: s.message(msg.Subject(), msg.Headers(), msg.Data()),
		Settlement: settlement{msg, s, at}, Place: at.of(),
		Count: int(meta.NumDelivered)}, nil //nolint:gosec // it does not reach 2^63
}

// message is a message as it was published.
func (b *Broker) message(subject string, header nats.Header, data []byte) broker.Message {
	return broker.Message{Type: strings.TrimPrefix(subject, b.eventSubject), ID: header.Get(jetstream.MsgIDHeader),
		Data: data, Traceparent: header.Get(tracing.Header)}
}

// place is where a message is in a stream. A stream that was lost begins again at number 1, so the
// time at which the message was stored is part of it.
type place struct {
	Seq uint64
	At  time.Time
}

func (p place) String() string { return fmt.Sprintf("%d-%d", p.Seq, p.At.UnixNano()) }

func (p place) of() broker.Place { return broker.Place{Seq: number(p.Seq), At: p.At} }

// settlement ends the delivery of a message.
type settlement struct {
	msg   jetstream.Msg
	from  *subscription
	place place
}

func (d settlement) Ack(ctx context.Context) error { return d.msg.DoubleAck(ctx) }

func (d settlement) Retry(_ context.Context, after time.Duration) error {
	return d.msg.NakWithDelay(after)
}

// Headers of a dead letter: the event's subject and number in its stream, and the consumer's last
// error.
const (
	subjectHeader = "Shop-Subject"
	seqHeader     = "Shop-Stream-Seq"
	errorHeader   = "Shop-Error"
)

// Dead publishes the message as a dead letter of the consumer, under an id of its own.
func (d settlement) Dead(ctx context.Context, reason string) error {
	letter := dedup.Message{
		Subject: d.from.deadSubject + d.from.consumer, ID: "dead." + d.from.consumer + "." + d.place.String(),
		Data: d.msg.Data(),
		Header: nats.Header{subjectHeader: {d.msg.Subject()}, seqHeader: {strconv.FormatUint(d.place.Seq, 10)},
			errorHeader: {strconv.Quote(reason)}, tracing.Header: d.msg.Headers()[tracing.Header]},
	}
	if ack := d.from.dead.Publish(ctx, letter)[0]; ack.Err != nil {
		return fmt.Errorf("publish the dead letter: %w", ack.Err)
	}
	return d.msg.TermWithReason("dead letter")
}
