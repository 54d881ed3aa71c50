package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/dedup"
)

const (
	// Prefix begins the names of the shop's streams.
	Prefix = "SHOP"
	// EventStream holds every event under the subject "shop.events.<type>".
	EventStream = Prefix + eventSuffix
	// DeadStream holds events that a consumer gave up on under "shop.dead.<consumer>", until an
	// operator retries them.
	DeadStream = Prefix + deadSuffix

	eventSuffix = "_EVENTS"
	deadSuffix  = "_DEAD"
	deadAge     = 90 * 24 * time.Hour
)

// Streams are the broker's side of the outbox.
type Streams struct {
	js                        jetstream.JetStream
	events, dead              *dedup.Stream
	eventName, deadName       string
	eventSubject, deadSubject string
	window, maxAge            time.Duration
	takesBatches              bool
}

// OpenStreams creates or updates the streams whose names begin with prefix, and whose subjects
// begin with its lower case. The shop's prefix is Prefix. The broker remembers message ids for the
// window and keeps events for maxAge.
func OpenStreams(ctx context.Context, js jetstream.JetStream, prefix string,
	window, maxAge time.Duration) (*Streams, error) {
	events, dead, subjects := prefix+eventSuffix, prefix+deadSuffix, strings.ToLower(prefix)
	s := &Streams{
		js: js, events: dedup.NewStream(js, events), dead: dedup.NewStream(js, dead), eventName: events, deadName: dead,
		eventSubject: subjects + ".events.", deadSubject: subjects + ".dead.", window: window, maxAge: maxAge,
	}
	stream, err := s.configure(ctx)
	if err != nil {
		return nil, err
	}
	s.takesBatches = stream.CachedInfo().Config.AllowAtomicPublish // false on a server that is too old
	return s, nil
}

// configure creates the streams or updates their configuration, and returns the event stream.
func (s *Streams) configure(ctx context.Context) (jetstream.Stream, error) {
	dead := jetstream.StreamConfig{Name: s.deadName, Subjects: []string{s.deadSubject + ">"}, MaxAge: deadAge}
	if _, err := s.configureStream(ctx, dead); err != nil {
		return nil, err
	}
	events := jetstream.StreamConfig{Name: s.eventName, Subjects: []string{s.eventSubject + ">"}, MaxAge: s.maxAge}
	return s.configureStream(ctx, events)
}

// configureStream leaves a stream alone that has its configuration, because an update disturbs
// consumers at work.
func (s *Streams) configureStream(ctx context.Context, config jetstream.StreamConfig) (jetstream.Stream, error) {
	config.Retention = jetstream.LimitsPolicy // the others forget message ids; see dedup.Stream
	config.Duplicates = s.window
	config.Storage = jetstream.FileStorage
	config.AllowAtomicPublish = true
	config.Replicas = 1
	if s.js.Conn().ConnectedClusterName() != "" {
		config.Replicas = 3
	}
	stream, err := s.js.Stream(ctx, config.Name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		// Nodes that start together all create the stream, which is no error with equal
		// configurations.
		stream, err = s.js.CreateStream(ctx, config)
	case err == nil && !configured(stream.CachedInfo().Config, config):
		stream, err = s.js.UpdateStream(ctx, config)
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", config.Name, err)
	}
	return stream, nil
}

func configured(is, want jetstream.StreamConfig) bool {
	return slices.Equal(is.Subjects, want.Subjects) && is.Duplicates == want.Duplicates && is.MaxAge == want.MaxAge &&
		is.Retention == want.Retention && is.Storage == want.Storage && is.Replicas == want.Replicas &&
		is.AllowAtomicPublish == want.AllowAtomicPublish
}

// held returns the sequence numbers of the oldest and the newest event that the broker holds. It
// creates the stream again if the broker lost it.
func (s *Streams) held(ctx context.Context) (first, last uint64, err error) {
	stream, err := s.js.Stream(ctx, s.eventName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = s.configure(ctx)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read the state of stream %s: %w", s.eventName, err)
	}
	state := stream.CachedInfo().State
	return state.FirstSeq, state.LastSeq, nil
}
