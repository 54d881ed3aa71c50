package app

import (
	"cmp"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

var httpRequests = promauto.NewHistogramVec(prometheus.HistogramOpts{
	Name: "onceshop_http_request_duration_seconds",
	Help: "Requests to the public address by method, route and status. 499 is a client that left; a page with " +
		"live updates lasts as long as its client stays.",
	Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
}, []string{"method", "route", "status"})

// other stands for methods and paths that the shop does not have. Clients can invent any number of
// them, and each would be a time series.
const other = "other"

// labels returns the request's method and route as they stand in metrics and spans.
func labels(c echo.Context) (method, route string) {
	method, route = c.Request().Method, cmp.Or(c.Path(), other)
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost:
	default:
		method = other
	}
	return method, route
}

func observe(c echo.Context, status int, begin time.Time) {
	method, route := labels(c)
	httpRequests.WithLabelValues(method, route, strconv.Itoa(status)).Observe(time.Since(begin).Seconds())
}

// poolMetric is a collector of the database pool's connections.
type poolMetric struct{ pool *pgxpool.Pool }

var (
	poolConns = prometheus.NewDesc("onceshop_database_connections", "The pool's connections: used, idle and most.",
		[]string{"state"}, nil)
	poolWaits = prometheus.NewDesc("onceshop_database_connection_waits_total",
		"How often a request waited for a connection because all were in use.", nil, nil)
	poolWaited = prometheus.NewDesc("onceshop_database_connection_wait_seconds_total", "How long they waited.",
		nil, nil)
)

// Describe implements prometheus.Collector.
func (poolMetric) Describe(out chan<- *prometheus.Desc) {
	out <- poolConns
	out <- poolWaits
	out <- poolWaited
}

// Collect implements prometheus.Collector.
func (p poolMetric) Collect(out chan<- prometheus.Metric) {
	stat := p.pool.Stat()
	for state, n := range map[string]int32{"used": stat.AcquiredConns(), "idle": stat.IdleConns(),
		"most": stat.MaxConns()} {
		out <- prometheus.MustNewConstMetric(poolConns, prometheus.GaugeValue, float64(n), state)
	}
	out <- prometheus.MustNewConstMetric(poolWaits, prometheus.CounterValue, float64(stat.EmptyAcquireCount()))
	out <- prometheus.MustNewConstMetric(poolWaited, prometheus.CounterValue, stat.EmptyAcquireWaitTime().Seconds())
}
