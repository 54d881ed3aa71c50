package dedup

import (
	"context"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Stream publishes to a JetStream stream under message ids: the server stores an id once, so that a
// publisher which repeats itself adds nothing. That holds within limits:
//
//   - The server remembers an id for the stream's duplicate window, which starts at the first
//     publish and does not slide. A later repeat is stored again.
//   - The stream must have the Limits retention policy. Work-queue and interest streams forget the
//     ids of acknowledged messages when the server restarts.
//   - It stops second copies in the stream, not second deliveries to a consumer. Consumers need a
//     guard of their own, which remembers for longer than the stream keeps its messages.
type Stream struct {
	js   jetstream.JetStream
	name string
}

// NewStream returns a publisher to the named stream. It does not connect.
func NewStream(js jetstream.JetStream, name string) *Stream {
	return &Stream{js: js, name: name}
}

// Message is one message to publish. The ID must be the same each time that the same thing is
// published, and it must begin with the kind of thing: the server compares ids over the whole
// stream, and neither subject nor body makes a difference.
type Message struct {
	Subject string
	ID      string
	Data    []byte
	Header  nats.Header
}

// Ack is the server's answer to a message: it is stored as number Seq, or it is a Duplicate of that
// number. A message whose Ack has an Err may be stored all the same. To publish it again under its
// ID is safe inside the duplicate window.
type Ack struct {
	Seq       uint64
	Duplicate bool
	Err       error
}

// Publish sends the messages without waiting in between and returns their acks in the same order.
// It stops waiting for acks when ctx ends.
func (s *Stream) Publish(ctx context.Context, messages ...Message) []Ack {
	acks := make([]Ack, len(messages))
	futures := make([]jetstream.PubAckFuture, len(messages))
	for i, m := range messages {
		msg := &nats.Msg{Subject: m.Subject, Data: m.Data, Header: m.Header}
		futures[i], acks[i].Err = s.js.PublishMsgAsync(msg, jetstream.WithMsgID(m.ID),
			jetstream.WithExpectStream(s.name))
	}
	for i, future := range futures {
		if acks[i].Err != nil {
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
