package torture_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/broker/servicebus"
	"github.com/onceshop/onceshop/internal/proof/torture"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// A run on a broker that it did not start, and that neither keeps events nor tells of duplicates.
// The nodes are another program, and get the settings of the broker.
func TestOnServiceBus(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	bus := shoptest.StartServiceBus(t, shoptest.ServiceBusOptions{
		Topic:         servicebus.TopicOf("torture"),
		Subscriptions: map[string]string{notify.ConsumerName: orders.EventPaid, broker.ProbeType: broker.ProbeType},
		Window:        5 * time.Minute, Lock: broker.HandleTimeout, MaxDeliveries: 500})
	settings := filepath.Join(t.TempDir(), "settings")
	node := filepath.Join(t.TempDir(), "node")
	script := fmt.Sprintf("#!/bin/sh\nenv > %q\nexec %q serve\n", settings, shoptest.Program(t))
	if err := os.WriteFile(node, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), shoptest.Program(t), "torture", "--seed", "15", "--duration",
		torture.MinDuration.String(), "--json", "--node", node)
	cmd.Env = append(os.Environ(), "BROKER_URL="+bus.URL(), "SHOP_DUPLICATE_WINDOW=5m", "SHOP_STREAM_MAX_AGE=1h")
	var out, progress bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &progress
	err := cmd.Run()
	if strings.Contains(progress.String(), "built without internal/demo") {
		t.Skip(progress.String())
	}
	if err != nil {
		t.Fatalf("torture ended with %v\n%s\n%s", err, progress.String(), out.String())
	}
	var report torture.Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	env, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"SHOP_DUPLICATE_WINDOW=5m0s\n", "SHOP_STREAM_MAX_AGE=1h0m0s\n"} {
		if !strings.Contains(string(env), want) {
			t.Errorf("the nodes run without %s", want)
		}
	}
	if report.Receipts == 0 || bus.Counts().Published == 0 {
		t.Errorf("%d receipts, and the broker has seen %+v", report.Receipts, bus.Counts())
	}
	if !strings.Contains(report.Broker, "fault broker.kill, fault postgres.restored") ||
		!strings.Contains(progress.String(), report.Broker) {
		t.Errorf("the run says of its broker %q, and the report %q", progress.String(), report.Broker)
	}
	for _, h := range report.Happened {
		if strings.Contains(report.Broker, h.What) {
			t.Errorf("the report has %q, which was left out", h.What)
		}
	}
}

// A broker that this program has no client of needs nodes that have one.
func TestBrokerWithoutClient(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), shoptest.Program(t), "torture")
	cmd.Env = append(os.Environ(), "BROKER_URL=pulsar://127.0.0.1:1")
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "built without internal/demo") {
		t.Skip(string(out))
	}
	if err == nil || !strings.Contains(string(out), "no client for pulsar://; give --node") {
		t.Errorf("torture ended with %v\n%s", err, out)
	}
}
