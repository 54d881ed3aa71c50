package servicebus_test

import (
	"context"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/broker/brokertest"
	"github.com/onceshop/onceshop/internal/outbox/broker/servicebus"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// TestNamespace needs nothing of the broker but what deploy/azure creates. It also runs on the real
// one, or on Azure's emulator, if AZURE_SERVICEBUS_CONNECTION_STRING is set. It acknowledges every
// event that it finds there.
func TestNamespace(t *testing.T) {
	t.Parallel()
	t.Run("peer", func(t *testing.T) {
		t.Parallel()
		testNamespace(t, newHarness(t).URL())
	})
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		text := os.Getenv("AZURE_SERVICEBUS_CONNECTION_STRING")
		if text == "" {
			t.Skip("AZURE_SERVICEBUS_CONNECTION_STRING is not set")
		}
		testNamespace(t, addressOf(text))
	})
}

// addressOf turns a connection string into an address.
func addressOf(text string) string {
	parts := map[string]string{}
	for part := range strings.SplitSeq(text, ";") {
		name, value, _ := strings.Cut(part, "=")
		parts[name] = value
	}
	address := url.URL{Scheme: "servicebus", Host: strings.Trim(strings.TrimPrefix(parts["Endpoint"], "sb:"), "/"),
		User: url.UserPassword(parts["SharedAccessKeyName"], parts["SharedAccessKey"])}
	if parts["UseDevelopmentEmulator"] == "true" {
		address.RawQuery = "emulator=true"
	}
	return address.String()
}

func TestAddressOfConnectionString(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Endpoint=sb://azure/;SharedAccessKeyName=n;SharedAccessKey=a/b+c=": "servicebus://n:a%2Fb+c=@azure",
		"Endpoint=sb://here;SharedAccessKeyName=n;SharedAccessKey=k;" +
			"UseDevelopmentEmulator=true": "servicebus://n:k@here?emulator=true",
	} {
		if got := addressOf(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func testNamespace(t *testing.T, address string) {
	t.Helper()
	b, err := servicebus.Connect(address, servicebus.Settings{Topic: servicebus.TopicOf(""),
		Consumers: []string{brokertest.Receipts}, Window: window}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if err := b.Open(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	run := uuid.NewString()
	var mu sync.Mutex
	seen := map[string]int{}
	times := func(name string) int {
		mu.Lock()
		defer mu.Unlock()
		return seen[name]
	}
	consume(t, b, brokertest.Receipts, func(ctx context.Context, d broker.Delivery) {
		name, _ := strings.CutPrefix(string(d.Data), run)
		mu.Lock()
		seen[name]++
		n := seen[name]
		mu.Unlock()
		var err error
		switch {
		case n == 1 && name == "late":
			err = d.Retry(ctx, time.Second)
		case n == 1 && name == "poison":
			err = d.Dead(ctx, "poison of "+run)
		default:
			err = d.Ack(ctx)
		}
		if err != nil {
			t.Errorf("settle %s: %v", name, err)
		}
	})
	publish := func(names ...string) {
		var messages []broker.Message
		for _, name := range names {
			m := message(brokertest.Paid, run+name)
			messages = append(messages, m)
		}
		for i, ack := range b.Publish(within(t, patience), messages) {
			if ack.Err != nil {
				t.Errorf("publish %s: %v", names[i], ack.Err)
			}
		}
	}
	publish("late", "twin", "poison")
	publish("twin")
	publish("end")
	shoptest.Eventually(t, patience, "all messages come", func() bool {
		return times("late") == 2 && times("poison") == 1 && times("end") == 1
	})
	var id string
	shoptest.Eventually(t, patience, "the dead letter", func() bool {
		letters, _, err := b.Letters().List(t.Context(), "", 100)
		for _, letter := range letters {
			if letter.Reason == "poison of "+run {
				id = letter.ID
			}
		}
		return err == nil && id != ""
	})
	if _, err := b.Letters().Retry(within(t, patience), id); err != nil {
		t.Fatal(err)
	}
	shoptest.Eventually(t, patience, "the retried letter comes", func() bool { return times("poison") == 2 })
	if n := times("twin"); n != 1 {
		t.Errorf("the twin came %d times: is duplicate detection on?", n)
	}
}
