package outbox

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/onceshop/onceshop/internal/outbox/internal/outboxdb"
)

var (
	published = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "onceshop_relay_published_total",
		Help: "Events acknowledged by the broker: stored, or recognized as a duplicate.",
	}, []string{"result"})
	handled = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "onceshop_consumer_events_total",
		Help: "Deliveries by consumer and result: done, retried, failed, dead (alert on dead).",
	}, []string{"consumer", "result"})
)

// Backlog is a metrics collector of the events that wait for the relay.
type Backlog struct{ db *outboxdb.Queries }

// NewBacklog returns the collector of one database.
func NewBacklog(pool *pgxpool.Pool) *Backlog { return &Backlog{db: outboxdb.New(pool)} }

var (
	backlogEvents = prometheus.NewDesc("onceshop_outbox_backlog_events",
		"Committed events that the broker does not have.", nil, nil)
	backlogAge = prometheus.NewDesc("onceshop_outbox_backlog_seconds", "Age of the oldest of them.", nil, nil)
)

// Describe implements prometheus.Collector.
func (b *Backlog) Describe(out chan<- *prometheus.Desc) {
	out <- backlogEvents
	out <- backlogAge
}

// Collect implements prometheus.Collector.
func (b *Backlog) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	row, err := b.db.Backlog(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(backlogEvents, err)
		return
	}
	out <- prometheus.MustNewConstMetric(backlogEvents, prometheus.GaugeValue, float64(row.Events))
	out <- prometheus.MustNewConstMetric(backlogAge, prometheus.GaugeValue, row.OldestSeconds)
}
