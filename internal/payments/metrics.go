package payments

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
)

var (
	outcomes = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "onceshop_money_outcomes_total",
		Help: "Outcomes of charges and refunds, by kind and status. A repeated transaction counts again.",
	}, []string{"kind", "status"})
	calls = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "onceshop_provider_call_seconds",
		Help:    "Calls to the payment provider, by call and result: answered, refused, failed.",
		Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	}, []string{"call", "result"})
	staleWrites = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "onceshop_stale_writes_total",
		Help: "Outcomes refused because another worker had taken over, by kind.",
	}, []string{"kind"})
	quarantined = promauto.NewCounter(prometheus.CounterOpts{
		Name: "onceshop_provider_events_quarantined_total",
		Help: "Events of the provider that wait for an operator (alert on any).",
	})
	contradictions = promauto.NewCounter(prometheus.CounterOpts{
		Name: "onceshop_provider_contradictions_total",
		Help: "Answers of the provider that contradict what is stored (alert on any).",
	})
)

// measure records a call to the provider that began at the time and ended with the error.
func measure(call string, begun time.Time, err *error) {
	result := "answered"
	switch {
	case errors.Is(*err, ErrRefused):
		result = "refused"
	case *err != nil:
		result = "failed"
	}
	calls.WithLabelValues(call, result).Observe(time.Since(begun).Seconds())
}

// Open is a metrics collector of the money whose outcome is open, and of the events that wait.
type Open struct{ db *paymentsdb.Queries }

// NewOpen returns the collector of one database.
func NewOpen(pool *pgxpool.Pool) *Open { return &Open{db: paymentsdb.New(pool)} }

var (
	openMoney = prometheus.NewDesc("onceshop_money_open",
		"Charges whose outcome is unknown, refunds under way, charges that owe money, and those of them that "+
			"only an operator can return (alert on any).", []string{"what"}, nil)
	openAge = prometheus.NewDesc("onceshop_money_open_seconds", "Age of the oldest of them.", []string{"what"}, nil)
	inbox   = prometheus.NewDesc("onceshop_provider_events",
		"Events of the provider that wait for their turn, and those that wait for an operator.", []string{"state"}, nil)
)

// Describe implements prometheus.Collector.
func (o *Open) Describe(out chan<- *prometheus.Desc) {
	out <- openMoney
	out <- openAge
	out <- inbox
}

// Collect implements prometheus.Collector.
func (o *Open) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	row, err := o.db.CountOpen(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(openMoney, err)
		return
	}
	gauge := func(desc *prometheus.Desc, value float64, label string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, label)
	}
	gauge(openMoney, float64(row.UnknownCharges), "charges unknown")
	gauge(openMoney, float64(row.OpenRefunds), "refunds open")
	gauge(openMoney, float64(row.Owed), "owed")
	gauge(openMoney, float64(row.OwedForOperators), "owed, operator needed")
	gauge(openAge, row.OldestChargeSeconds, "charges unknown")
	gauge(openAge, row.OldestRefundSeconds, "refunds open")
	gauge(inbox, float64(row.EventsWaiting), "waiting")
	gauge(inbox, float64(row.EventsQuarantined), "quarantined")
}
