package nats

import (
	"bytes"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/broker/brokertest"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestSuite(t *testing.T) {
	t.Parallel()
	newHarness := func(t *testing.T) brokertest.Harness {
		t.Helper()
		h := &harness{dir: t.TempDir(), addr: shoptest.FreeAddr(t)}
		h.start(t)
		h.proxy = shoptest.StartProxy(t, h.addr)
		h.proxy.OnSend(func(sent []byte) shoptest.Fate {
			// The subject of events, in a line that publishes.
			if bytes.Contains(sent, []byte("PUB shop.events.")) {
				return shoptest.Fate(h.fate.Swap(int64(shoptest.Pass)))
			}
			return shoptest.Pass
		})
		return h
	}
	brokertest.Run(t, newHarness)
	brokertest.RunFaults(t, newHarness)
}

// suiteWindow is short, because the suite waits for its end.
const suiteWindow = 3 * time.Second

// harness is a server behind a proxy.
type harness struct {
	dir, addr string
	server    *shoptest.NATSServer
	proxy     *shoptest.Proxy
	// fate is what happens to the next publish.
	fate atomic.Int64
}

func (h *harness) start(t *testing.T) {
	t.Helper()
	host, port, err := net.SplitHostPort(h.addr)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	h.server = shoptest.StartNATS(t, &server.Options{Host: host, Port: number, StoreDir: h.dir, SyncAlways: true})
}

func (h *harness) Connect(t *testing.T) broker.Broker {
	t.Helper()
	b, err := Connect("nats://"+h.proxy.Addr(), Settings{Window: suiteWindow, MaxAge: time.Hour}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func (h *harness) Crash(t *testing.T) {
	t.Helper()
	h.server.Stop()
	h.start(t)
}

func (h *harness) PassWindow(*testing.T) { <-time.After(suiteWindow + time.Second) }

// PassTimeout makes the server wait less from now on, also for the deliveries that it has made.
func (h *harness) PassTimeout(t *testing.T) {
	t.Helper()
	js, err := jetstream.New(connect(t, "nats://"+h.addr))
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := js.Consumer(t.Context(), EventStreamOf(""), brokertest.Receipts)
	if err != nil {
		t.Fatal(err)
	}
	config := consumer.CachedInfo().Config
	config.AckWait = time.Second
	if _, err := js.UpdateConsumer(t.Context(), EventStreamOf(""), config); err != nil {
		t.Fatal(err)
	}
}

func (h *harness) LoseAnswer(*testing.T)  { h.fate.Store(int64(shoptest.LoseAnswer)) }
func (h *harness) LosePublish(*testing.T) { h.fate.Store(int64(shoptest.LoseRequest)) }
