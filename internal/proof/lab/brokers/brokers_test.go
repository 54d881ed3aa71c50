package brokers

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/broker/nats"
	"github.com/onceshop/onceshop/internal/outbox/broker/servicebus"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestMain(m *testing.M) { shoptest.Main(m) }

var update = flag.Bool("update", false, "record what the brokers answer now")

// window is longer than a restart takes.
const window = 10 * time.Second

func TestNATS(t *testing.T) {
	t.Parallel()
	dir, addr := t.TempDir(), shoptest.FreeAddr(t)
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	var running *shoptest.NATSServer
	start := func() {
		running = shoptest.StartNATS(t, &server.Options{Host: host, Port: number, StoreDir: dir, SyncAlways: true})
	}
	start()
	compare(t, "nats", Target{
		Broker: "NATS JetStream " + server.VERSION, Type: "order.paid", Consumer: "lab", Pool: shoptest.DB(t),
		Connect: func(ctx context.Context, _ string) (broker.Broker, error) {
			b, err := nats.Connect("nats://"+addr, nats.Settings{Window: window, MaxAge: time.Hour},
				slog.New(slog.DiscardHandler))
			if err != nil {
				return nil, err
			}
			return b, b.Open(ctx)
		},
		PassWindow: func(ctx context.Context) error {
			select {
			case <-ctx.Done():
			case <-time.After(window + time.Second):
			}
			return ctx.Err()
		},
		Restart: func(context.Context) error {
			running.Stop()
			start()
			return nil
		},
	})
}

// Service Bus is asked through a peer, which cannot show more than is known of the real one.
func TestServiceBus(t *testing.T) {
	t.Parallel()
	const eventType, consumer = "order.paid", "lab"
	topic := servicebus.TopicOf("")
	peer := shoptest.StartServiceBus(t, shoptest.ServiceBusOptions{Topic: topic, Window: window,
		Lock: broker.HandleTimeout, MaxDeliveries: 10,
		Subscriptions: map[string]string{consumer: eventType, broker.ProbeType: broker.ProbeType}})
	compare(t, "servicebus", Target{
		Broker: "Azure Service Bus (a peer of it)", Type: eventType, Consumer: consumer, Pool: shoptest.DB(t),
		Connect: func(ctx context.Context, _ string) (broker.Broker, error) {
			b, err := servicebus.Connect(peer.URL(), servicebus.Settings{Topic: topic, Window: window,
				Consumers: []string{consumer}}, slog.New(slog.DiscardHandler))
			if err != nil {
				return nil, err
			}
			return b, b.Open(ctx)
		},
		PassWindow: func(context.Context) error {
			peer.Forward(window)
			return nil
		},
		Restart: func(context.Context) error {
			peer.Restart()
			return nil
		},
	})
}

// The document has the recorded answers, in the lab's order.
func TestTableInDocs(t *testing.T) {
	t.Parallel()
	shoptest.DocsSection(t, "../../../../docs/brokers.md", "brokers", table(Recorded()), *update)
}

func table(columns []Column) string {
	var md strings.Builder
	md.WriteString("| published |")
	for _, c := range columns {
		fmt.Fprintf(&md, " %s, %s |", c.Broker, c.On)
	}
	md.WriteString("\n|" + strings.Repeat(" --- |", len(columns)+1) + "\n")
	for _, q := range Questions() {
		fmt.Fprintf(&md, "| %s |", q.Title)
		for _, c := range columns {
			fmt.Fprintf(&md, " %s |", c.Answers[q.ID])
		}
		md.WriteString("\n")
	}
	return md.String()
}

// compare asks a broker and compares its answers with the recorded ones.
func compare(t *testing.T, name string, target Target) {
	t.Helper()
	now := Column{Broker: target.Broker, On: time.Now().UTC().Format(time.DateOnly), Answers: map[string]Answer{}}
	err := Ask(t.Context(), target, func(q Question, a Answer) {
		t.Logf("%s: %s", q.Title, a)
		now.Answers[q.ID] = a
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("recorded", name+".json")
	if *update {
		text, err := json.MarshalIndent(now, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(text, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var before Column
	if err := json.Unmarshal(text, &before); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(now.Answers, before.Answers) {
		t.Errorf("the answers changed: go test ./internal/proof/lab/brokers -update records them\n%+v\n%+v",
			now.Answers, before.Answers)
	}
}
