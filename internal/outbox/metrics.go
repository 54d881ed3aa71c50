package outbox

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/onceshop/onceshop/internal/gauge"
	"github.com/onceshop/onceshop/internal/outbox/internal/outboxdb"
)

var (
	published = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "onceshop_relay_published_total",
		Help: "Events published: stored, recognized as a duplicate, or failed (alert on failed).",
	}, []string{"result"})
	enqueued = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "onceshop_events_total",
		Help: "Events written with what happened, by type, such as order.placed. A repeated transaction counts again.",
	}, []string{"type"})
	handled = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "onceshop_consumer_events_total",
		Help: "Deliveries by consumer and result: done, retried, failed, dead (alert on dead).",
	}, []string{"consumer", "result"})
)

// backlogMost is the highest backlog that a scrape counts.
const backlogMost = 100_000

var (
	backlogEvents = prometheus.NewDesc("onceshop_outbox_backlog_events",
		"Committed events that the broker does not have, counted up to 100000.", nil, nil)
	backlogAge = prometheus.NewDesc("onceshop_outbox_backlog_seconds", "Age of the oldest of them.", nil, nil)
)

// BacklogMetrics returns a metrics collector of the events that wait for the relay.
func BacklogMetrics(pool *pgxpool.Pool) prometheus.Collector {
	db := outboxdb.New(pool)
	return gauge.New(func(ctx context.Context, set gauge.Set) error {
		row, err := db.Backlog(ctx, backlogMost)
		set(backlogEvents, float64(row.Events))
		set(backlogAge, row.OldestSeconds)
		return err
	}, backlogEvents, backlogAge)
}
