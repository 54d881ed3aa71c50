package servicebus_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/broker/brokertest"
	"github.com/onceshop/onceshop/internal/outbox/broker/servicebus"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// startTopic starts a peer whose subscriptions are those of the settings and more.
func startTopic(t *testing.T, window time.Duration, more ...string) harness {
	t.Helper()
	subscriptions := map[string]string{brokertest.Receipts: brokertest.Paid, brokertest.Audit: brokertest.Paid}
	for _, name := range more {
		subscriptions[name] = name
	}
	return harness{shoptest.StartServiceBus(t, shoptest.ServiceBusOptions{Topic: servicebus.TopicOf(""),
		Window: window, Lock: broker.HandleTimeout, MaxDeliveries: maxDeliveries, Subscriptions: subscriptions})}
}

// Many nodes start at once. Each judges by its own probes, and no consumer gets one.
func TestProbes(t *testing.T) {
	t.Parallel()
	const nodes = 8
	for name, test := range map[string]struct {
		window  time.Duration
		forgets bool
	}{
		"duplicate detection is on":  {window, false},
		"duplicate detection is off": {0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startTopic(t, test.window, broker.ProbeType)
			for i, err := range shoptest.Race(nodes, func(int) error {
				return h.Connect(t).Open(within(t, patience))
			}) {
				if test.forgets && (!errors.Is(err, broker.ErrForgets) ||
					!strings.Contains(err.Error(), "requiresDuplicateDetection")) || !test.forgets && err != nil {
					t.Errorf("node %d: opened with %v", i, err)
				}
			}
			if counts := h.Counts(); counts.Pending > 0 || counts.Published > 0 {
				t.Errorf("consumers would get probes: %+v", counts)
			}
		})
	}
}

// A node deletes its own probes and those of nodes that have died, and no others.
func TestProbesOfOthers(t *testing.T) {
	t.Parallel()
	h := startTopic(t, window, broker.ProbeType)
	b := h.Connect(t)
	b.Publish(t.Context(), []broker.Message{message(broker.ProbeType, "dead")})
	h.Forward(time.Minute)
	b.Publish(t.Context(), []broker.Message{message(broker.ProbeType, "alive")})
	if held := h.Counts().Probes; held != 2 {
		t.Fatalf("the broker holds %d probes, want 2", held)
	}
	for range 2 { // it is done once
		if err := b.Open(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		if held := h.Counts().Probes; held != 1 {
			t.Errorf("the broker holds %d probes, want that of the other node", held)
		}
	}
}

func TestNoSubscriptionForProbes(t *testing.T) {
	t.Parallel()
	err := startTopic(t, window).Connect(t).Open(within(t, patience))
	if err == nil || errors.Is(err, broker.ErrForgets) || !strings.Contains(err.Error(), "subscription probe") {
		t.Errorf("opened with %v, want an error that names the subscription", err)
	}
}
