package outbox

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/dedup"
)

const (
	// EventStream holds every event under the subject "shop.events.<type>".
	EventStream  = "SHOP_EVENTS"
	eventSubject = "shop.events."
	// DeadStream holds events that a consumer gave up on under "shop.dead.<consumer>", until an operator acts.
	DeadStream  = "SHOP_DEAD"
	deadSubject = "shop.dead."

	deadAge = 90 * 24 * time.Hour
)

// Streams are the broker's side of the outbox.
type Streams struct {
	js     jetstream.JetStream
	events *dedup.Stream
	dead   *dedup.Stream
}

// OpenStreams creates what is missing at the broker: window is how long it remembers message ids, maxAge how long it keeps events.
func OpenStreams(ctx context.Context, js jetstream.JetStream, window, maxAge time.Duration) (*Streams, error) {
	events, err := dedup.OpenStream(ctx, js, dedup.StreamConfig{
		Name: EventStream, Subjects: []string{eventSubject + ">"}, Window: window, MaxAge: maxAge})
	if err != nil {
		return nil, err
	}
	dead, err := dedup.OpenStream(ctx, js, dedup.StreamConfig{
		Name: DeadStream, Subjects: []string{deadSubject + ">"}, Window: window, MaxAge: deadAge})
	if err != nil {
		return nil, err
	}
	return &Streams{js: js, events: events, dead: dead}, nil
}
