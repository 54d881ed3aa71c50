//go:build proof

package pulsar

import (
	"context"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/proof/lab/brokers"
	"github.com/onceshop/onceshop/internal/proof/lab/brokers/brokerstest"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// TestLab compares what Pulsar answers to the lab's questions with what is recorded for the lab.
func TestLab(t *testing.T) {
	t.Parallel()
	s := startServer(t, deduplicates)
	brokerstest.Compare(t, "../../../proof/lab/brokers/recorded/pulsar.json", brokers.Target{
		Broker: "Apache Pulsar " + serverVersion, Type: paid, Consumer: "lab", Pool: shoptest.DB(t),
		Connect: func(ctx context.Context, publisher string) (broker.Broker, error) {
			b, err := Connect("pulsar://"+s.broker, Settings{Consumers: []string{"lab"}, MaxAge: time.Hour,
				Publisher: publisher}, quiet)
			if err != nil {
				return nil, err
			}
			return b, b.Open(ctx)
		},
		Restart: func(context.Context) error {
			s.Restart()
			return nil
		},
	})
}
