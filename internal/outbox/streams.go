package outbox

import (
	"context"
	"errors"
	"fmt"
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
	// DeadStream holds events that a consumer gave up on under "shop.dead.<consumer>", until an operator acts.
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
}

// OpenStreams creates what is missing at the broker. The streams' names begin with prefix and their subjects with its lower case: that is Prefix,
// unless they are not the shop's. Window is how long the broker remembers message ids, maxAge how long it keeps events.
func OpenStreams(ctx context.Context, js jetstream.JetStream, prefix string, window, maxAge time.Duration) (*Streams, error) {
	subjects := strings.ToLower(prefix)
	s := &Streams{js: js, eventName: prefix + eventSuffix, deadName: prefix + deadSuffix, eventSubject: subjects + ".events.", deadSubject: subjects + ".dead.",
		window: window, maxAge: maxAge}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Streams) open(ctx context.Context) (err error) {
	s.events, err = dedup.OpenStream(ctx, s.js, dedup.StreamConfig{
		Name: s.eventName, Subjects: []string{s.eventSubject + ">"}, Window: s.window, MaxAge: s.maxAge})
	if err != nil {
		return err
	}
	s.dead, err = dedup.OpenStream(ctx, s.js, dedup.StreamConfig{
		Name: s.deadName, Subjects: []string{s.deadSubject + ">"}, Window: s.window, MaxAge: deadAge})
	return err
}

// held returns the numbers of the oldest and the newest event that the broker holds. A stream that it has lost is made again.
func (s *Streams) held(ctx context.Context) (first, last uint64, err error) {
	stream, err := s.js.Stream(ctx, s.eventName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		again := *s // for its names: others publish through s meanwhile
		if err = again.open(ctx); err == nil {
			stream, err = s.js.Stream(ctx, s.eventName)
		}
	}
	if err != nil {
		return 0, 0, fmt.Errorf("look at stream %s: %w", s.eventName, err)
	}
	state := stream.CachedInfo().State
	return state.FirstSeq, state.LastSeq, nil
}
