package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/outbox/broker"
)

const (
	// readBatch is how many events are read at a time.
	readBatch = 500
	// readWait bounds the wait for events that the stream holds.
	readWait = 5 * time.Second
)

// history is the event stream, which keeps what it has delivered.
type history struct{ *Broker }

// History implements broker.Broker.
func (b *Broker) History() broker.History { return history{b} }

// Held implements broker.History.
func (h history) Held(ctx context.Context) (first, last int64, err error) {
	stream, err := h.stream(ctx, h.eventName)
	if err != nil {
		return 0, 0, err
	}
	state := stream.CachedInfo().State
	return max(number(state.FirstSeq), 1), number(state.LastSeq), nil
}

// Read implements broker.History.
func (h history) Read(ctx context.Context, since time.Time, handle func(broker.Stored) error) error {
	consumer, err := h.js.CreateConsumer(ctx, h.eventName, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since, AckPolicy: jetstream.AckNonePolicy,
		MemoryStorage: true, InactiveThreshold: time.Minute})
	if err != nil {
		return fmt.Errorf("read stream %s: %w", h.eventName, err)
	}
	for left := consumer.CachedInfo().NumPending; left > 0; {
		messages, err := consumer.Fetch(int(min(left, readBatch)), jetstream.FetchMaxWait(readWait))
		if err != nil {
			return fmt.Errorf("read stream %s: %w", h.eventName, err)
		}
		before := left
		for message := range messages.Messages() { // to the end, or the client waits for its reader
			var meta *jetstream.MsgMetadata
			if err == nil {
				meta, err = message.Metadata()
			}
			if err == nil {
				left = meta.NumPending
				err = handle(broker.Stored{Seq: number(meta.Sequence.Stream),
					Message: h.message(message.Subject(), message.Headers(), message.Data())})
			}
		}
		if err = errors.Join(err, messages.Error()); err != nil {
			return fmt.Errorf("read stream %s: %w", h.eventName, err)
		}
		if left == before {
			return fmt.Errorf("stream %s did not deliver %d events within %s", h.eventName, left, readWait)
		}
	}
	return nil
}

// At implements broker.History.
func (h history) At(ctx context.Context, seq int64) (broker.Stored, error) {
	stream, err := h.stream(ctx, h.eventName)
	if err != nil {
		return broker.Stored{}, err
	}
	message, err := stream.GetMsg(ctx, uint64(max(seq, 0)))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return broker.Stored{}, broker.ErrNotHeld
	}
	if err != nil {
		return broker.Stored{}, fmt.Errorf("read event %d: %w", seq, err)
	}
	return broker.Stored{Seq: seq, Message: h.message(message.Subject, message.Header, message.Data)}, nil
}

// Delivered implements broker.History.
func (h history) Delivered(ctx context.Context, consumer string) (int64, error) {
	found, err := h.js.Consumer(ctx, h.eventName, consumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("ask for consumer %s: %w", consumer, err)
	}
	return number(found.CachedInfo().Delivered.Stream), nil
}
