// Package gauge makes metrics of what a database or a broker knows.
package gauge

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// timeout bounds a scrape's question.
const timeout = 2 * time.Second

// Set sets a gauge, by the values of its labels.
type Set func(desc *prometheus.Desc, value float64, labels ...string)

type collector struct {
	ask   func(context.Context, Set) error
	descs []*prometheus.Desc
}

// New returns a metrics collector that asks for the values of its gauges at every scrape. When ask
// fails, the scrape has none of them and reports the error.
func New(ask func(context.Context, Set) error, descs ...*prometheus.Desc) prometheus.Collector {
	return collector{ask, descs}
}

func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range c.descs {
		out <- desc
	}
}

func (c collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var gauges []prometheus.Metric
	err := c.ask(ctx, func(desc *prometheus.Desc, value float64, labels ...string) {
		gauges = append(gauges, prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...))
	})
	if err != nil {
		gauges = []prometheus.Metric{prometheus.NewInvalidMetric(c.descs[0], err)}
	}
	for _, gauge := range gauges {
		out <- gauge
	}
}
