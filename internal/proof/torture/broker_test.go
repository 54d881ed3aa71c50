package torture_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
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
func TestOnServiceBus(t *testing.T) {
	t.Parallel()
	bus := shoptest.StartServiceBus(t, shoptest.ServiceBusOptions{
		Topic:         servicebus.TopicOf("torture"),
		Subscriptions: map[string]string{notify.ConsumerName: orders.EventPaid, broker.ProbeType: broker.ProbeType},
		Window:        10 * time.Minute, Lock: broker.HandleTimeout, MaxDeliveries: 500})
	cmd := exec.CommandContext(t.Context(), shoptest.Program(t), "torture", "--seed", "15", "--duration",
		torture.MinDuration.String(), "--json")
	cmd.Env = append(os.Environ(), "BROKER_URL="+bus.URL())
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
