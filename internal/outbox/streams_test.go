package outbox

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/dedup"
)

func TestOpenStreamsUpdatesTheConfiguration(t *testing.T) {
	t.Parallel()
	js, streams := openStreams(t, connect(t, startNATS(t, t.TempDir()).URL()))
	if ack := streams.events.Publish(t.Context(), dedup.Message{Subject: "shop.events.a", ID: "a"})[0]; ack.Err != nil {
		t.Fatal(ack.Err)
	}
	if _, err := OpenStreams(t.Context(), js, Prefix, time.Minute, time.Hour); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{EventStream: time.Hour, DeadStream: deadAge} {
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
