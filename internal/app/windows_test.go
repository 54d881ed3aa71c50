package app_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/app"
)

func TestWindowsNest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*app.Windows)
		names  []string
	}{
		"defaults": {func(*app.Windows) {}, nil},
		"lease as long as a call": {func(w *app.Windows) { w.ChargeLease = w.ProviderTimeout },
			[]string{"SHOP_CHARGE_LEASE", "SHOP_PROVIDER_TIMEOUT"}},
		"lease without room for the rest": {func(w *app.Windows) {
			w.ChargeLease = w.ProviderTimeout +
				5*time.Second
		}, []string{"SHOP_CHARGE_LEASE", "SHOP_PROVIDER_TIMEOUT"}},
		"horizon as long as the key": {func(w *app.Windows) { w.ReconcileHorizon = w.ProviderKeyLifetime },
			[]string{"SHOP_RECONCILE_HORIZON", "SHOP_PROVIDER_KEY_LIFETIME"}},
		"window too short": {func(w *app.Windows) { w.DuplicateWindow = 2*w.RelayLease - 1 },
			[]string{"SHOP_DUPLICATE_WINDOW", "SHOP_RELAY_LEASE"}},
		"window just long enough": {func(w *app.Windows) { w.DuplicateWindow = 2 * w.RelayLease }, nil},
		"receipts forgotten before the stream": {func(w *app.Windows) { w.ReceiptMemory = w.StreamMaxAge },
			[]string{"SHOP_RECEIPT_MEMORY", "SHOP_STREAM_MAX_AGE"}},
		"receipts forgotten before a retried dead letter": {func(w *app.Windows) {
			w.ReceiptMemory = 3*w.StreamMaxAge + 90*24*time.Hour - 1
		}, []string{"SHOP_RECEIPT_MEMORY", "SHOP_STREAM_MAX_AGE"}},
		"receipts remembered longer": {func(w *app.Windows) {
			w.ReceiptMemory = 3*w.StreamMaxAge + 90*24*time.Hour
		}, nil},
		"receipts forgotten before their events": {func(w *app.Windows) { w.OutboxMemory = w.ReceiptMemory + 1 },
			[]string{"SHOP_RECEIPT_MEMORY", "SHOP_OUTBOX_MEMORY"}},
		"receipts forgotten, events kept": {func(w *app.Windows) { w.OutboxMemory = 0 },
			[]string{"SHOP_RECEIPT_MEMORY", "SHOP_OUTBOX_MEMORY"}},
		"everything kept": {func(w *app.Windows) {
			w.OutboxMemory, w.ReceiptMemory, w.ProviderEventMemory, w.StoppedTwinMemory = 0, 0, 0, 0
		}, nil},
		"events forgotten before the stream": {func(w *app.Windows) {
			w.OutboxMemory = w.StreamMaxAge + w.DuplicateWindow - 1
		}, []string{"SHOP_OUTBOX_MEMORY", "SHOP_STREAM_MAX_AGE"}},
		"events forgotten within seven days": {func(w *app.Windows) {
			w.StreamMaxAge, w.OutboxMemory = time.Hour, 7*24*time.Hour-1
		}, []string{"SHOP_OUTBOX_MEMORY", "168h"}},
		"provider's events forgotten while they may come again": {func(w *app.Windows) {
			w.ProviderEventMemory = 30*24*time.Hour - 1
		}, []string{"SHOP_PROVIDER_EVENT_MEMORY", "720h"}},
		"negative memory": {func(w *app.Windows) { w.StoppedTwinMemory = -1 }, []string{"SHOP_STOPPED_TWIN_MEMORY"}},
		"stream younger than the window": {func(w *app.Windows) { w.StreamMaxAge = w.DuplicateWindow - 1 },
			[]string{"SHOP_STREAM_MAX_AGE", "SHOP_DUPLICATE_WINDOW"}},
		"no expiry": {func(w *app.Windows) {
			w.OrderExpiry = 0
		}, []string{"SHOP_ORDER_EXPIRY"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config, err := app.ConfigFrom(nil)
			if err != nil {
				t.Fatal(err)
			}
			c.change(&config.Windows)
			err = config.Check()
			if (err == nil) != (c.names == nil) {
				t.Fatalf("got %v", err)
			}
			for _, name := range c.names {
				if !strings.Contains(err.Error(), name) {
					t.Errorf("%v does not name %s", err, name)
				}
			}
		})
	}
}

func TestUnpaidOrdersSetting(t *testing.T) {
	t.Parallel()
	const wrong = "SHOP_UNPAID_ORDERS"
	for text, want := range map[string]string{"": "{5 20}", "3": "{3 12}", "3, 7": "{3 7}", "0": "{0 0}",
		"2,0": "{2 0}", "-1": wrong, "x": wrong, "1,": wrong, "1,2,3": wrong} {
		c, err := app.ConfigFrom([]string{"SHOP_UNPAID_ORDERS=" + text})
		if got := fmt.Sprint(c.UnpaidOrders, err); !strings.Contains(got, want) {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}
