package app_test

import (
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
		"receipts remembered longer": {func(w *app.Windows) { w.ReceiptMemory = w.StreamMaxAge + 1 }, nil},
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
