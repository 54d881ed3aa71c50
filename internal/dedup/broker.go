package dedup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// MaxBatch is how many messages a server takes in one atomic batch.
	MaxBatch = 1000
	// minBatch is from where on an atomic batch is faster: it costs the server a few syncs of its disk, and single messages one each.
	minBatch = 200
)

// Stream publishes into one JetStream stream under message ids, so that a publisher which repeats itself
// within the duplicate window stores nothing new.
type Stream struct {
	js   jetstream.JetStream
	name string
	// atomic says that the server takes batches.
	atomic bool
}

// StreamConfig describes a stream. Its consumers must remember what they did for longer than MaxAge.
type StreamConfig struct {
	Name     string
	Subjects []string
	// Window is how long the server remembers a message id, counted from the first publish.
	Window time.Duration
	MaxAge time.Duration
}

// OpenStream creates the stream or brings it to the configuration. Retention is by limits: work-queue and
// interest streams forget the ids of acknowledged messages when the server restarts.
func OpenStream(ctx context.Context, js jetstream.JetStream, c StreamConfig) (*Stream, error) {
	replicas := 1
	if js.Conn().ConnectedClusterName() != "" {
		replicas = 3
	}
	config := jetstream.StreamConfig{
		Name: c.Name, Subjects: c.Subjects, Duplicates: c.Window, MaxAge: c.MaxAge,
		Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Replicas: replicas,
		AllowAtomicPublish: true,
	}
	stream, err := js.Stream(ctx, c.Name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		// Nodes that start together all create it: to ask for what is there is no error.
		stream, err = js.CreateStream(ctx, config)
	case err == nil && !fits(stream.CachedInfo().Config, config):
		stream, err = js.UpdateStream(ctx, config)
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", c.Name, err)
	}
	return &Stream{js: js, name: c.Name, atomic: stream.CachedInfo().Config.AllowAtomicPublish}, nil
}

// fits says whether a stream is as it should be, so that a start changes nothing under the consumers at work.
func fits(is, should jetstream.StreamConfig) bool {
	return slices.Equal(is.Subjects, should.Subjects) && is.Duplicates == should.Duplicates && is.MaxAge == should.MaxAge &&
		is.Retention == should.Retention && is.Storage == should.Storage && is.Replicas == should.Replicas &&
		is.AllowAtomicPublish == should.AllowAtomicPublish
}

// Message is one publication. ID must be the same whenever the same thing is published again and must
// differ between kinds of things: the server compares ids over the whole stream and ignores the body.
type Message struct {
	Subject string
	ID      string
	Data    []byte
	Header  nats.Header
}

// Ack says what became of a message: stored at Seq, or recognized as a Duplicate of the one at Seq.
type Ack struct {
	Seq       uint64
	Duplicate bool
	Err       error
}

// Publish sends the messages together and waits for all acknowledgements, in order. Many enter the stream all or none, few one by one. A message
// whose Ack has an Err may be stored all the same; publishing it again under its ID is safe inside the window.
func (s *Stream) Publish(ctx context.Context, messages ...Message) []Ack {
	if s.atomic && len(messages) >= minBatch && len(messages) <= MaxBatch {
		if acks, taken := s.publishBatch(ctx, messages); taken {
			return acks
		}
		// One message that the server knows, or will not have, spoils the batch: told one by one, it says which.
	}
	acks := make([]Ack, len(messages))
	futures := make([]jetstream.PubAckFuture, len(messages))
	for i, m := range messages {
		msg := &nats.Msg{Subject: m.Subject, Data: m.Data, Header: m.Header}
		futures[i], acks[i].Err = s.js.PublishMsgAsync(msg, jetstream.WithMsgID(m.ID), jetstream.WithExpectStream(s.name))
	}
	for i, future := range futures {
		if future == nil {
			continue
		}
		select {
		case ack := <-future.Ok():
			acks[i] = Ack{Seq: ack.Sequence, Duplicate: ack.Duplicate}
		case err := <-future.Err():
			acks[i].Err = err
		case <-ctx.Done():
			acks[i].Err = ctx.Err()
		}
	}
	return acks
}

// publishBatch has the server store all messages or none, with one sync for all. They are not taken if one cannot be sent, or the server
// answers anything but that it has stored them all; when no answer comes, nobody knows, and every Ack says so.
func (s *Stream) publishBatch(ctx context.Context, messages []Message) (acks []Ack, taken bool) {
	conn, batch, last := s.js.Conn(), nats.NewInbox(), len(messages)-1
	var answer *nats.Msg
	var err error
	for i, m := range messages {
		msg := &nats.Msg{Subject: m.Subject, Data: m.Data, Header: nats.Header{}}
		maps.Copy(msg.Header, m.Header)
		maps.Copy(msg.Header, nats.Header{jetstream.MsgIDHeader: {m.ID}, jetstream.ExpectedStreamHeader: {s.name},
			"Nats-Batch-Id": {batch}, "Nats-Batch-Sequence": {strconv.Itoa(i + 1)}})
		if i < last {
			err = conn.PublishMsg(msg)
		} else {
			msg.Header.Set("Nats-Batch-Commit", "1")
			answer, err = conn.RequestMsgWithContext(ctx, msg)
		}
		if err != nil && ctx.Err() == nil {
			return nil, false
		}
		if err != nil {
			return slices.Repeat([]Ack{{Err: fmt.Errorf("publish a batch: %w", err)}}, len(messages)), true
		}
	}
	var stored struct {
		Seq   uint64 `json:"seq"` // of the last of them
		Count int    `json:"count"`
	}
	if err := json.Unmarshal(answer.Data, &stored); err != nil || stored.Count != len(messages) {
		return nil, false
	}
	for i := range messages {
		acks = append(acks, Ack{Seq: stored.Seq - uint64(last-i)}) //nolint:gosec // i is not above last
	}
	return acks, true
}
