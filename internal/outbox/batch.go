package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/dedup"
)

const (
	// maxBatch is the most messages that a server takes in one atomic batch.
	maxBatch = 1000
	// minBatch is the least number of messages for which a batch is faster. The server syncs its
	// disk a few times for a batch, and once for each message outside one. See docs/performance.md,
	// P8.
	minBatch = 200
)

// publish sends events to the stream, many of them as one batch.
func (s *Streams) publish(ctx context.Context, messages []dedup.Message) []dedup.Ack {
	if s.takesBatches && len(messages) >= minBatch && len(messages) <= maxBatch {
		if acks, ok := s.publishBatch(ctx, messages); ok {
			return acks
		}
		// A duplicate, or a message that the server refuses, fails the batch. One by one, the
		// others enter.
	}
	return s.events.Publish(ctx, messages...)
}

// publishBatch publishes the messages as one atomic batch: the server stores all or none. It
// reports false if the server refused the batch. If ctx ends before the reply, every Ack has an
// Err.
func (s *Streams) publishBatch(ctx context.Context, messages []dedup.Message) (acks []dedup.Ack, ok bool) {
	conn, batch, last := s.js.Conn(), nats.NewInbox(), len(messages)-1
	var reply *nats.Msg
	var err error
	for i, m := range messages {
		msg := &nats.Msg{Subject: m.Subject, Data: m.Data, Header: nats.Header{}}
		maps.Copy(msg.Header, m.Header)
		msg.Header.Set(jetstream.MsgIDHeader, m.ID)
		msg.Header.Set(jetstream.ExpectedStreamHeader, s.eventName)
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
