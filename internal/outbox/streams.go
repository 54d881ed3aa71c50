package outbox

import (
	"context"
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
	eventName                 string
	eventSubject, deadSubject string
}

// OpenStreams creates what is missing at the broker. The streams' names begin with prefix and their subjects with its lower case: that is Prefix,
// unless they are not the shop's. Window is how long the broker remembers message ids, maxAge how long it keeps events.
func OpenStreams(ctx context.Context, js jetstream.JetStream, prefix string, window, maxAge time.Duration) (*Streams, error) {
	subjects := strings.ToLower(prefix)
	s := &Streams{js: js, eventName: prefix + eventSuffix, eventSubject: subjects + ".events.", deadSubject: subjects + ".dead."}
	var err error
	s.events, err = dedup.OpenStream(ctx, js, dedup.StreamConfig{
		Name: s.eventName, Subjects: []string{s.eventSubject + ">"}, Window: window, MaxAge: maxAge})
	if err != nil {
		return nil, err
	}
	s.dead, err = dedup.OpenStream(ctx, js, dedup.StreamConfig{
		Name: prefix + deadSuffix, Subjects: []string{s.deadSubject + ">"}, Window: window, MaxAge: deadAge})
	if err != nil {
		return nil, err
	}
	return s, nil
}
