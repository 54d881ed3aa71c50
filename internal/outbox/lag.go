package outbox

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/onceshop/onceshop/internal/gauge"
	"github.com/onceshop/onceshop/internal/outbox/broker"
)

var (
	consumerLag = prometheus.NewDesc("onceshop_consumer_lag_events",
		"Events in the stream that the consumer has not handled.", []string{"consumer"}, nil)
	deadLetters = prometheus.NewDesc("onceshop_dead_letters", "Events that a consumer gave up on.", nil, nil)
)

// LagMetrics returns a metrics collector of what the broker holds for consumers and for operators.
// What the broker does not know has no metric.
func LagMetrics(b broker.Broker, consumers ...string) prometheus.Collector {
	return gauge.New(func(ctx context.Context, set gauge.Set) error {
		for _, name := range consumers {
			n, known, err := b.Lag(ctx, name)
			if err != nil {
				return err
			}
			if known {
				set(consumerLag, float64(n), name)
			}
		}
		n, known, err := b.Letters().Count(ctx)
		if known {
			set(deadLetters, float64(n))
		}
		return err
	}, consumerLag, deadLetters)
}
