package brokers_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/broker/nats"
	"github.com/onceshop/onceshop/internal/outbox/broker/servicebus"
	"github.com/onceshop/onceshop/internal/proof/lab/brokers"
	"github.com/onceshop/onceshop/internal/proof/lab/brokers/brokerstest"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestMain(m *testing.M) { shoptest.Main(m) }

// window is longer than a restart takes.
const window = 5 * time.Second

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
	brokerstest.Compare(t, "recorded/nats.json", brokers.Target{
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
	brokerstest.Compare(t, "recorded/servicebus.json", brokers.Target{
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
	shoptest.DocsSection(t, "../../../../docs/brokers.md", "brokers", table(brokers.Recorded()), *brokerstest.Update)
}

func table(columns []brokers.Column) string {
	var md strings.Builder
	md.WriteString("| published |")
	for _, c := range columns {
		fmt.Fprintf(&md, " %s, %s |", c.Broker, c.On)
	}
	md.WriteString("\n|" + strings.Repeat(" --- |", len(columns)+1) + "\n")
	for _, q := range brokers.Questions() {
		fmt.Fprintf(&md, "| %s |", q.Title)
		for _, c := range columns {
			fmt.Fprintf(&md, " %s |", c.Answers[q.ID])
		}
		md.WriteString("\n")
	}
	return md.String()
}
