package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/outbox/broker"
	natsbroker "github.com/onceshop/onceshop/internal/outbox/broker/nats"
)

const (
	// longWindow is not over before the experiment is, shortWindow soon.
	longWindow  = 2 * time.Minute
	shortWindow = 300 * time.Millisecond
	// shortAckWait is how long the broker waits for the acknowledgement of a consumer that has
	// died.
	shortAckWait = 200 * time.Millisecond
	// streamAge outlasts a run, and empties a stream that a killed process has left.
	streamAge = 10 * time.Minute
)

func (b *Bench) streamPrefix() string { return "LAB_" + strings.ToUpper(b.Name) }
func (b *Bench) eventStream() string  { return b.streamPrefix() + "_EVENTS" }
func (b *Bench) paidSubject() string {
	return strings.ToLower(b.streamPrefix()) + ".events." + orders.EventPaid
}

// openStreams creates the streams of this run.
func (b *Bench) openStreams(ctx context.Context, window time.Duration) error {
	b.OnEnd(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		for _, stream := range []string{b.eventStream(), b.streamPrefix() + "_DEAD"} {
			_ = b.JS.DeleteStream(ctx, stream) // one that is left behind empties itself
		}
	})
	return b.broker(b.JS, window).Open(ctx)
}

func (b *Bench) broker(js jetstream.JetStream, window time.Duration) broker.Broker {
	return natsbroker.New(js, natsbroker.Settings{Prefix: b.streamPrefix(), Window: window, MaxAge: streamAge},
		slog.New(slog.DiscardHandler))
}

// broker is this run's as the worker sees it.
func (w *worker) broker(ctx context.Context, window time.Duration) (broker.Broker, error) {
	b := w.bench.broker(publishPen{w.bench.JS, w, ctx}, window)
	return b, b.Open(ctx)
}

func (b *Bench) stored(ctx context.Context) (int, error) {
	stream, err := b.JS.Stream(ctx, b.eventStream())
	if err != nil {
		return 0, fmt.Errorf("look at the stream: %w", err)
	}
	return int(stream.CachedInfo().State.Msgs), nil //nolint:gosec // a handful
}

func (b *Bench) countStored() {
	b.Count("messages", "stream", 1, b.stored)
}

// windowEnds waits until the broker has forgotten a message id. It asks with a publication under
// that id, which must follow one that never was: the broker answers that it is a duplicate while it
// remembers the id, and refuses it afterwards.
func (b *Bench) windowEnds(ctx context.Context, id string) error {
	const wrongLastMsgID = 10070
	err := Until(ctx, "the duplicate window to end", func(ctx context.Context) (bool, error) {
		_, err := b.JS.PublishMsg(ctx, &nats.Msg{Subject: b.paidSubject()}, jetstream.WithMsgID(id),
			jetstream.WithExpectLastMsgID("none such"))
		var refused *jetstream.APIError
		if errors.As(err, &refused) && refused.ErrorCode == wrongLastMsgID {
			return true, nil
		}
		return false, err
	})
	if err == nil {
		b.Fails(ctx, Stream, "the window has passed: the id is forgotten")
	}
	return err
}

// comesAgain has the broker deliver again at once what was not answeredFuture.
func (b *Bench) comesAgain(ctx context.Context) error {
	c, err := b.JS.Consumer(ctx, b.eventStream(), notify.ConsumerName)
	if err != nil {
		return fmt.Errorf("find the consumer: %w", err)
	}
	config := c.CachedInfo().Config
	config.AckWait = shortAckWait
	if _, err := b.JS.UpdateConsumer(ctx, b.eventStream(), config); err != nil {
		return fmt.Errorf("shorten the wait for the acknowledgement: %w", err)
	}
	return nil
}

// publishPen draws what a worker publishes and the broker's answer.
type publishPen struct {
	jetstream.JetStream
	*worker
	ctx context.Context // of the drawing: an asynchronous publication has none
}

func (p publishPen) PublishMsg(ctx context.Context, msg *nats.Msg, options ...jetstream.PublishOpt) (*jetstream.PubAck,
	error) {
	ack, err := p.JetStream.PublishMsg(ctx, msg, options...)
	if err == nil {
		p.draw(ctx, msg, ack)
	}
	return ack, err
}

// PublishMsgAsync returns when the acknowledgement is there, so that it is drawn before anything
// that follows from it.
func (p publishPen) PublishMsgAsync(msg *nats.Msg, options ...jetstream.PublishOpt) (jetstream.PubAckFuture, error) {
	future, err := p.JetStream.PublishMsgAsync(msg, options...)
	if err != nil {
		return nil, err
	}
	select {
	case ack := <-future.Ok():
		p.draw(p.ctx, msg, ack)
		answered := make(chan *jetstream.PubAck, 1)
		answered <- ack
		return answeredFuture{future, answered}, nil
	case err := <-future.Err():
		return nil, err
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
}

func (p publishPen) draw(ctx context.Context, msg *nats.Msg, ack *jetstream.PubAck) {
	id := msg.Header.Get(jetstream.MsgIDHeader)
	p.bench.Says(ctx, p.actor, Stream, "publish order.paid, id %s", short(id))
	if ack.Duplicate {
		p.bench.Stops(ctx, Stream, "PubAck: duplicate of seq %d", ack.Sequence)
		return
	}
	p.bench.Says(ctx, Stream, p.actor, "PubAck: stored as seq %d", ack.Sequence)
}

// answeredFuture is a publication whose acknowledgement is there.
type answeredFuture struct {
	jetstream.PubAckFuture
	answered <-chan *jetstream.PubAck
}

func (a answeredFuture) Ok() <-chan *jetstream.PubAck { return a.answered }

// consumerPen draws what a naive worker is delivered and acknowledges.
type consumerPen struct {
	jetstream.Consumer
	*worker
	ctx context.Context // of the drawing: Next has none
}

func (p consumerPen) Next(options ...jetstream.FetchOpt) (jetstream.Msg, error) {
	msg, err := p.Consumer.Next(options...)
	if err != nil {
		return nil, err
	}
	meta, err := msg.Metadata()
	if err != nil {
		return nil, err
	}
	p.bench.Says(p.ctx, Stream, p.actor, "order.paid: seq %d, delivery %d", meta.Sequence.Stream, meta.NumDelivered)
	return messagePen{msg, p.worker}, nil
}

type messagePen struct {
	jetstream.Msg
	*worker
}

func (m messagePen) DoubleAck(ctx context.Context) error {
	m.reach(ctx, "before ack")
	err := m.Msg.DoubleAck(ctx)
	if err == nil {
		m.bench.Says(ctx, m.actor, Stream, "ack")
	}
	return err
}
