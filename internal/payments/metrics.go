package payments

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/otel/trace"

	"github.com/onceshop/onceshop/internal/gauge"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/tracing"
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
	reconciled = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "onceshop_reconciler_jobs_total",
		Help: "Open charges and refunds, and debts, that the reconciler worked on: done or failed.",
	}, []string{"result"})
	contradictions = promauto.NewCounter(prometheus.CounterOpts{
		Name: "onceshop_provider_contradictions_total",
		Help: "Answers of the provider that contradict what is stored (alert on any).",
	})
)

// call bounds, measures and traces a call to the provider. Ended takes the call's error.
func (s *Service) call(ctx context.Context, name string) (_ context.Context, ended func(*error)) {
	begun := time.Now()
	ctx, span := tracing.Start(ctx, "provider "+name, trace.WithSpanKind(trace.SpanKindClient))
	ctx, cancel := context.WithTimeout(ctx, s.policy.ProviderTimeout)
	return ctx, func(err *error) {
		cancel()
		tracing.End(span, *err)
		result := "answered"
		switch {
		case errors.Is(*err, ErrRefused):
			result = "refused"
		case *err != nil:
			result = "failed"
		}
		calls.WithLabelValues(name, result).Observe(time.Since(begun).Seconds())
	}
}

var (
	openMoney = prometheus.NewDesc("onceshop_money_open",
		"Charges whose outcome is unknown, refunds under way, charges that owe money, and those of them that "+
			"only an operator can return (alert on any).", []string{"what"}, nil)
	openAge = prometheus.NewDesc("onceshop_money_open_seconds", "Age of the oldest of them.", []string{"what"}, nil)
	inbox   = prometheus.NewDesc("onceshop_provider_events",
		"Events of the provider that wait for their turn, and those that wait for an operator.", []string{"state"}, nil)
)

// OpenMetrics returns a metrics collector of the money whose outcome is open, and of the events
// that wait.
func OpenMetrics(pool *pgxpool.Pool) prometheus.Collector {
	db := paymentsdb.New(pool)
	return gauge.New(func(ctx context.Context, set gauge.Set) error {
		row, err := db.CountOpen(ctx)
		set(openMoney, float64(row.UnknownCharges), "charges unknown")
		set(openMoney, float64(row.OpenRefunds), "refunds open")
		set(openMoney, float64(row.Owed), "owed")
		set(openMoney, float64(row.OwedForOperators), "owed, operator needed")
		set(openAge, row.OldestChargeSeconds, "charges unknown")
		set(openAge, row.OldestRefundSeconds, "refunds open")
		set(inbox, float64(row.EventsWaiting), "waiting")
		set(inbox, float64(row.EventsQuarantined), "quarantined")
		return err
	}, openMoney, openAge, inbox)
}
