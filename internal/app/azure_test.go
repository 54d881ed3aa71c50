package app_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/orders"
	outboxbroker "github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/broker/servicebus"
)

// What deploy/azure creates must be what the shop expects by default.
func TestAzureFitsTheSettings(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("../../deploy/azure/servicebus.bicep")
	if err != nil {
		t.Fatal(err)
	}
	config, err := app.ConfigFrom(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		fmt.Sprintf("param topic string = '%s'\n", servicebus.TopicOf("")),
		fmt.Sprintf("param duplicateWindow string = '%s'\n", iso(config.DuplicateWindow)),
		fmt.Sprintf("param maxAge string = '%s'\n", iso(config.StreamMaxAge)),
		fmt.Sprintf("  { name: '%s', type: '%s' }\n", notify.ConsumerName, orders.EventPaid),
		fmt.Sprintf("    lockDuration: '%s' ", iso(outboxbroker.HandleTimeout)),
		"    requiresDuplicateDetection: true\n",
		fmt.Sprintf("  name: '%s'\n", outboxbroker.ProbeType),
		fmt.Sprintf("    correlationFilter: { label: '%s' }\n", outboxbroker.ProbeType),
	} {
		if !strings.Contains(string(file), line) {
			t.Errorf("the file does not have %q", line)
		}
	}
}

// The topics of the emulator have the names that the shop and the torture expect. It allows shorter
// times only: see docs/brokers.md.
func TestEmulatorFitsTheSettings(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("../../deploy/azure/emulator.json")
	if err != nil {
		t.Fatal(err)
	}
	text := string(file)
	for part, times := range map[string]int{
		fmt.Sprintf(`"Name": "%s"`, servicebus.TopicOf("")):        1,
		fmt.Sprintf(`"Name": "%s"`, servicebus.TopicOf("torture")): 1,
		fmt.Sprintf(`"Name": "%s"`, notify.ConsumerName):           2,
		fmt.Sprintf(`"Label": "%s"`, orders.EventPaid):             2,
		fmt.Sprintf(`"Label": "%s"`, outboxbroker.ProbeType):       2,
		`"RequiresDuplicateDetection": true`:                       2,
	} {
		if n := strings.Count(text, part); n != times {
			t.Errorf("the file has %d times %s, want %d", n, part, times)
		}
	}
}

// iso returns a duration as Azure writes it.
func iso(d time.Duration) string {
	switch {
	case d%(24*time.Hour) == 0:
		return fmt.Sprintf("P%dD", d/(24*time.Hour))
	case d%time.Minute == 0:
		return fmt.Sprintf("PT%dM", d/time.Minute)
	}
	return fmt.Sprintf("PT%dS", d/time.Second)
}
