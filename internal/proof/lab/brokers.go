package lab

import (
	"context"
	"fmt"
	"time"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/broker/nats"
	"github.com/onceshop/onceshop/internal/proof/lab/brokers"
)

// askedWindow is how long the broker remembers an id of AskBroker.
const askedWindow = 2 * time.Second

// AskBroker asks the broker what it does with a message that comes again, in streams of its own. It
// does not restart the broker, which is the shop's.
func (l *Lab) AskBroker(ctx context.Context, answered func(brokers.Question, brokers.Answer)) error {
	servers, err := l.servers(ctx)
	if err != nil {
		return fmt.Errorf("set up the lab: %w", err)
	}
	cell := "lab_" + newRunName()
	settings := nats.Settings{Prefix: nats.PrefixOf(cell), Window: askedWindow, MaxAge: time.Hour}
	client := nats.New(servers.JS, settings, servers.log)
	if err := client.Open(ctx); err != nil {
		return fmt.Errorf("open the lab's streams: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		for _, name := range []string{nats.EventStreamOf(cell), nats.DeadStreamOf(cell)} {
			if err := servers.JS.DeleteStream(ctx, name); err != nil {
				servers.log.WarnContext(ctx, "a stream of the lab is left", "stream", name, "error", err)
			}
		}
	}()
	return brokers.Ask(ctx, brokers.Target{
		Broker: "NATS JetStream", Type: "lab", Consumer: "lab",
		Connect: func(context.Context, string) (broker.Broker, error) { return client, nil },
		PassWindow: func(ctx context.Context) error {
			select {
			case <-time.After(askedWindow + askedWindow/4):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		},
	}, answered)
}
