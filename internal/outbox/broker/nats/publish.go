package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/tracing"
)

const (
	// maxBatch is the most messages that a server takes in one atomic batch.
	maxBatch = 1000
	// minBatch is the least number of messages for which a batch is faster. The server syncs its
	// disk a few times for a batch, and once for each message outside one. See docs/performance.md,
	// P8.
	minBatch = 200
)

// errUnpublishable reports a message that no broker takes.
var errUnpublishable = errors.New("the subject is not one, or the message is too large")

// Publish implements broker.Broker. It keeps messages apart that would fail the others' batch.
func (b *Broker) Publish(ctx context.Context, messages []broker.Message) []broker.Ack {
	acks := make([]broker.Ack, len(messages))
	good, at := make([]dedup.Message, 0, len(messages)), make([]int, 0, len(messages))
	for i, m := range messages {
		message := dedup.Message{Subject: b.eventSubject + m.Type, ID: m.ID, Data: m.Data}
		if m.Traceparent != "" {
			message.Header = nats.Header{tracing.Header: {m.Traceparent}}
		}
		if !b.publishable(message) {
			acks[i].Err = errUnpublishable
			continue
		}
		good, at = append(good, message), append(at, i)
	}
	for i, ack := range b.publishGood(ctx, good) {
		acks[at[i]] = broker.Ack{Seq: number(ack.Seq), Duplicate: ack.Duplicate, Err: ack.Err}
	}
	return acks
}

// headerRoom is more than the headers of a message take, beside its id.
const headerRoom = 512

func (b *Broker) publishable(m dedup.Message) bool {
	if int64(len(m.Data)+len(m.ID)+headerRoom) > b.js.Conn().MaxPayload() && b.js.Conn().IsConnected() {
		return false
	}
	return !strings.ContainsAny(m.Subject, " \t\r\n\x00*>") && !strings.Contains("."+m.Subject+".", "..")
}

// publishGood sends many messages as one batch.
func (b *Broker) publishGood(ctx context.Context, messages []dedup.Message) []dedup.Ack {
	if b.takesBatches.Load() && len(messages) >= minBatch && len(messages) <= maxBatch {
		if acks, ok := b.publishBatch(ctx, messages); ok {
			return acks
		}
		// A duplicate, or a message that the server refuses, fails the batch. One by one, the
		// others enter.
	}
	return b.events.Publish(ctx, messages...)
}

// publishBatch publishes the messages as one atomic batch: the server stores all or none. It
// reports false if the server refused the batch. If ctx ends before the reply, every Ack has an
// Err.
func (b *Broker) publishBatch(ctx context.Context, messages []dedup.Message) (acks []dedup.Ack, ok bool) {
	conn, batch, last := b.js.Conn(), nats.NewInbox(), len(messages)-1
	var reply *nats.Msg
	var err error
	for i, m := range messages {
		msg := &nats.Msg{Subject: m.Subject, Data: m.Data, Header: nats.Header{}}
		maps.Copy(msg.Header, m.Header)
		msg.Header.Set(jetstream.MsgIDHeader, m.ID)
		msg.Header.Set(jetstream.ExpectedStreamHeader, b.eventName)
		msg.Header.Set("Nats-Batch-Id", batch)
		msg.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
		if i < last {
			err = conn.PublishMsg(msg)
		} else {
			msg.Header.Set("Nats-Batch-Commit", "1")
			reply, err = conn.RequestMsgWithContext(ctx, msg)
		}
		if err != nil && ctx.Err() == nil {
			return nil, false
		}
		if err != nil {
			return slices.Repeat([]dedup.Ack{{Err: fmt.Errorf("publish a batch: %w", err)}}, len(messages)), true
		}
	}
	var stored struct {
		LastSeq uint64 `json:"seq"`
		Count   int    `json:"count"`
	}
	if err := json.Unmarshal(reply.Data, &stored); err != nil || stored.Count != len(messages) {
		return nil, false
	}
	for i := range messages {
		acks = append(acks, dedup.Ack{Seq: stored.LastSeq - uint64(last-i)}) //nolint:gosec // i is not above last
	}
	return acks, true
}
