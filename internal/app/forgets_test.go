package app_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
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
	var asked app.BrokerSettings
	const address = "forgetful://127.0.0.1:1"
	config := refuse(t, address, []app.BrokerClient{{Schemes: []string{"forgetful"},
		Connect: func(s app.BrokerSettings) (outboxbroker.Broker, error) {
			asked = s
			return forgetful{}, nil
		}}}, "set the setting")
	if asked.URL != address || len(asked.Consumers) != 1 || asked.MaxAge != config.StreamMaxAge ||
		asked.Window != config.DuplicateWindow || asked.Log == nil {
		t.Errorf("the client is asked to connect with %+v", asked)
	}
}

// refuse runs the workers, which must end because the broker forgets, with the advice. It returns
// their config.
func refuse(t *testing.T, address string, clients []app.BrokerClient, advice string) app.Config {
	t.Helper()
	settings := serveSettings()
	settings["DATABASE_URL"], settings["BROKER_URL"] = shoptest.DatabaseURL(t), address
	config, err := require(settings)
	if err != nil {
		t.Fatal(err)
	}
	config.Brokers = clients
	a, err := app.New(t.Context(), config, app.OnlyWorker, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ops, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := a.Run(ctx, nil, ops); !errors.Is(err, outboxbroker.ErrForgets) || !strings.Contains(err.Error(), advice) {
		t.Errorf("the service ends with %v, want ErrForgets with %q", err, advice)
	}
	return config
}
