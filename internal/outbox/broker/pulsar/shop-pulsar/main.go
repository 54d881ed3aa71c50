// Command shop-pulsar is `shop serve` with Pulsar's client, for a BROKER_URL with pulsar:// or
// pulsar+ssl://. All other commands are those of shop.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/broker/pulsar"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	only := flag.String("only", "", "run only this part of the service: web or workers")
	flag.Parse()
	if err := serve(ctx, *only); err != nil && (ctx.Err() == nil || !errors.Is(err, context.Canceled)) {
		fmt.Fprintf(os.Stderr, "shop-pulsar: %v\n", err)
		if _, usage := errors.AsType[app.UsageError](err); usage {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// prepare runs before the service starts.
var prepare = func(*slog.Logger) error { return nil }

func serve(ctx context.Context, only string) error {
	role, ok := map[string]app.Role{"": app.Everything, "web": app.OnlyWeb, "workers": app.OnlyWorker}[only]
	if !ok || flag.NArg() > 0 {
		return app.UsageError{Err: errors.New("--only is web or workers, and there are no other arguments")}
	}
	config, err := app.ConfigFrom(os.Environ())
	if err != nil {
		return err
	}
	config.Brokers = []app.BrokerClient{{Schemes: pulsar.Schemes(), Connect: connect}}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: config.LogLevel}))
	if err := prepare(log); err != nil {
		return app.UsageError{Err: err}
	}
	return app.Serve(ctx, config, role, log)
}

func connect(s app.BrokerSettings) (broker.Broker, error) {
	return pulsar.Connect(s.URL, pulsar.Settings{Cell: s.Cell, Consumers: s.Consumers, MaxAge: s.MaxAge}, s.Log)
}
