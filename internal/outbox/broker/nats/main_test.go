package nats

import (
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestMain(m *testing.M) { shoptest.Main(m) }

// patience bounds every wait, on a busy machine.
const patience = 60 * time.Second

var quiet = slog.New(slog.DiscardHandler)

func connect(t *testing.T, address string) *nats.Conn {
	t.Helper()
	conn, err := nats.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// open returns the broker of a server of the test's own.
func open(t *testing.T) (jetstream.JetStream, *Broker) {
	t.Helper()
	js, err := jetstream.New(connect(t, shoptest.NATS(t, t.TempDir()).URL()))
	if err != nil {
		t.Fatal(err)
	}
	b := New(js, Settings{Window: 10 * time.Minute, MaxAge: 24 * time.Hour}, quiet)
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return js, b
}
