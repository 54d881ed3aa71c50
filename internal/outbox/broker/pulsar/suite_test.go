package pulsar

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/broker/brokertest"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// TestFaults has the tests of the suite that kill a server or cut its connections. They share one,
// one after the other. Acknowledgements are on disk before they are confirmed, which is not the
// default.
func TestFaults(t *testing.T) {
	t.Parallel()
	s := startServer(t, deduplicates+"managedLedgerDefaultMarkDeleteRateLimit=0\n")
	var fate atomic.Int64
	s.proxy.OnSend(func(sent []byte) shoptest.Fate {
		if bytes.Contains(sent, []byte(brokertest.Paid)) { // a property of an event that is published
			return shoptest.Fate(fate.Swap(int64(shoptest.Pass)))
		}
		return shoptest.Pass
	})
	var alone sync.Mutex
	brokertest.RunFaults(t, func(t *testing.T) brokertest.Harness {
		alone.Lock()
		t.Cleanup(alone.Unlock)
		t.Cleanup(func() {
			if shoptest.Fate(fate.Load()) != shoptest.Pass {
				t.Error("no publish was lost")
			}
		})
		return &harness{server: s, cell: newCell(), fate: &fate}
	})
}

// harness is a server's topics of one cell.
type harness struct {
	*server
	cell string
	// fate is what happens to the next publish.
	fate *atomic.Int64

	mu    sync.Mutex
	given []*delivery
}

func (h *harness) Connect(t *testing.T) broker.Broker {
	t.Helper()
	return node{h.connect(t, h.cell), h}
}

func (h *harness) Crash(t *testing.T)     { t.Helper(); h.Restart() }
func (h *harness) PassWindow(*testing.T)  {}
func (h *harness) LoseAnswer(*testing.T)  { h.fate.Store(int64(shoptest.LoseAnswer)) }
func (h *harness) LosePublish(*testing.T) { h.fate.Store(int64(shoptest.LoseRequest)) }

// PassTimeout ends the timers of the deliveries that are not settled.
func (h *harness) PassTimeout(*testing.T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.given {
		d.mu.Lock()
		if d.open[d] {
			d.timer.Reset(0)
		}
		d.mu.Unlock()
	}
}

// node notes the deliveries of a client.
type node struct {
	*Broker
	h *harness
}

func (n node) Subscribe(ctx context.Context, consumer, messageType string) (broker.Subscription, error) {
	s, err := n.Broker.Subscribe(ctx, consumer, messageType)
	return noted{s, n.h}, err
}

type noted struct {
	broker.Subscription
	h *harness
}

func (n noted) Consume(ctx context.Context, atOnce int, handle func(context.Context, broker.Delivery)) error {
	return n.Subscription.Consume(ctx, atOnce, func(ctx context.Context, d broker.Delivery) {
		n.h.mu.Lock()
		n.h.given = append(n.h.given, d.Settlement.(*delivery))
		n.h.mu.Unlock()
		handle(ctx, d)
	})
}
