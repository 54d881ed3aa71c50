package nats

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/outbox/broker"
)

func TestOpenUpdatesTheConfiguration(t *testing.T) {
	t.Parallel()
	js, b := open(t)
	if ack := b.Publish(t.Context(), []broker.Message{{Type: "a", ID: "a"}})[0]; ack.Err != nil {
		t.Fatal(ack.Err)
	}
	if err := New(js, Settings{Window: time.Minute, MaxAge: time.Hour}, quiet).Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{EventStream: time.Hour, DeadStream: broker.DeadAge} {
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		config := stream.CachedInfo().Config
		if config.Duplicates != time.Minute || config.MaxAge != age || config.Retention != jetstream.LimitsPolicy ||
			config.Storage != jetstream.FileStorage || !config.AllowAtomicPublish {
			t.Errorf("%s is configured as %+v", name, config)
		}
	}
	stream, err := js.Stream(t.Context(), EventStream)
	if err != nil || stream.CachedInfo().State.Msgs != 1 {
		t.Errorf("the event is lost: %+v, %v", stream, err)
	}
}
