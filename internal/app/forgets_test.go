package app_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"testing"

	"github.com/onceshop/onceshop/internal/app"
	outboxbroker "github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// forgetful is a broker without duplicate detection.
type forgetful struct{ outboxbroker.Broker }

func (forgetful) Open(context.Context) error {
	return fmt.Errorf("%w: set the setting", outboxbroker.ErrForgets)
}
func (forgetful) History() outboxbroker.History { return nil }
func (forgetful) Letters() outboxbroker.Letters { return nil }
func (forgetful) Close()                        {}

func TestServeRefusesABrokerThatForgets(t *testing.T) {
	t.Parallel()
	settings := serveSettings()
	settings["DATABASE_URL"], settings["BROKER_URL"] = shoptest.DatabaseURL(t), "forgetful://127.0.0.1:1"
	config, err := require(settings)
	if err != nil {
		t.Fatal(err)
	}
	var asked app.BrokerSettings
	config.Brokers = []app.BrokerClient{{Schemes: []string{"forgetful"},
		Connect: func(s app.BrokerSettings) (outboxbroker.Broker, error) {
			asked = s
			return forgetful{}, nil
		}}}
	a, err := app.New(t.Context(), config, app.OnlyWorker, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if asked.URL != settings["BROKER_URL"] || len(asked.Consumers) != 1 || asked.MaxAge != config.StreamMaxAge ||
		asked.Window != config.DuplicateWindow || asked.Log == nil {
		t.Errorf("the client is asked to connect with %+v", asked)
	}
	ops, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := a.Run(ctx, nil, ops); !errors.Is(err, outboxbroker.ErrForgets) {
		t.Errorf("the service ends with %v, want ErrForgets", err)
	}
}
