package dedup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Stream publishes into one JetStream stream under message ids, so that a publisher which repeats itself
// within the duplicate window stores nothing new.
type Stream struct {
	js   jetstream.JetStream
	name string
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
	}
	stream, err := js.Stream(ctx, c.Name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		// Nodes that start together all create it: to ask for what is there is no error.
		_, err = js.CreateStream(ctx, config)
	case err == nil && !fits(stream.CachedInfo().Config, config):
		_, err = js.UpdateStream(ctx, config)
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", c.Name, err)
	}
	return &Stream{js: js, name: c.Name}, nil
}

// fits says whether a stream is as it should be, so that a start changes nothing under the consumers at work.
func fits(is, should jetstream.StreamConfig) bool {
	return slices.Equal(is.Subjects, should.Subjects) && is.Duplicates == should.Duplicates && is.MaxAge == should.MaxAge &&
		is.Retention == should.Retention && is.Storage == should.Storage && is.Replicas == should.Replicas
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

// Publish sends the messages together and waits for all acknowledgements, in order. A message
// whose Ack has an Err may be stored all the same; publishing it again under its ID is safe inside the window.
func (s *Stream) Publish(ctx context.Context, messages ...Message) []Ack {
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
