package payments_test

import (
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
)

// gauges are the metrics of open money, by name and label.
func (b *bundle) gauges(t *testing.T) map[string]float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(payments.OpenMetrics(b.pool))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		if family.GetName() == "onceshop_money_open_seconds" {
			continue
		}
		for _, metric := range family.GetMetric() {
			if value := metric.GetGauge().GetValue(); value != 0 {
				values[metric.GetLabel()[0].GetValue()] = value
			}
		}
	}
	return values
}

func TestMetricsOfOpenMoney(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if g := b.gauges(t); len(g) != 0 {
		t.Errorf("of an empty shop: %v", g)
	}
	b.crash(t, b.place(t), true)
	b.exec(t, "UPDATE charges SET status = 'unknown'")
	owing := b.place(t)
	b.charge(t, owing, "c", 201)
	b.line.onRefund(refuseRefund)
	b.canceled(t, owing, "k", orders.Refunded)
	for _, event := range []payments.Event{
		{ID: "early", Payload: []byte("{}"), Dispute: &payments.Dispute{ID: "dp_1", CaptureID: "cap_none",
			Status: payments.DisputeOpen, Amount: 1, Currency: "EUR"}},
		{ID: "unreadable", Payload: []byte("{}"), Unreadable: "no JSON"},
	} {
		if err := b.shop.Receive(t.Context(), event); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]float64{"charges unknown": 1, "owed": 1, "waiting": 1, "quarantined": 1}
	if g := b.gauges(t); !maps.Equal(g, want) {
		t.Errorf("%v, want %v", g, want)
	}
	b.exec(t, "UPDATE charges SET return_due = NULL")
	want["owed, operator needed"] = 1
	if g := b.gauges(t); !maps.Equal(g, want) {
		t.Errorf("%v, want %v", g, want)
	}
	b.exec(t, "UPDATE charges SET return_due = now() WHERE owes IS NOT NULL")
	b.exec(t, "DELETE FROM provider_events")
	b.line.heal()
	b.settleAll(t)
}
