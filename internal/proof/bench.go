package proof

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/proof/bench"
)

// Bench measures the shop beside a naive twin for about the duration or, if there are orders, an
// empty shop beside one with so many of them, on DATABASE_URL and BROKER_URL or on servers that it
// starts for the run. It writes the report on out, as a table or as one JSON document, and what it
// is doing on progress. It is an error if what was measured was not right.
func Bench(ctx context.Context, config app.Config, demo DemoServers, duration time.Duration, settled int, asJSON bool,
	out, progress io.Writer) error {
	if duration < bench.MinDuration {
		return app.UsageError{Err: fmt.Errorf("--duration %s is too short to measure anything: give it %s or more",
			duration, bench.MinDuration)}
	}
	if settled != 0 && settled < bench.MinGrown {
		return app.UsageError{Err: fmt.Errorf("--orders %d is too few to tell of growth: give it %d or more", settled,
			bench.MinGrown)}
	}
	if settled == 0 && demo.Provider == nil {
		return errWithout("payment provider", "run the bench with a program that is built with it, or give --orders")
	}
	begin := time.Now()
	var report interface{ Write(io.Writer) }
	err := withBenchServers(ctx, config, demo, progress, func(ctx context.Context, databaseURL, natsURL string) error {
		pool, err := pg.Open(ctx, databaseURL, 4)
		if err != nil {
			return app.UsageError{Err: err}
		}
		defer pool.Close()
		if err := pool.Ping(ctx); err != nil {
			return fmt.Errorf("the database of DATABASE_URL does not answer: %w", err)
		}
		broker, err := nats.Connect(natsURL, nats.Name("onceshop bench"))
		if err != nil {
			return fmt.Errorf("the broker of BROKER_URL does not answer: %w", err)
		}
		defer broker.Close()
		shown := app.NewProgress(progress)
		defer shown.Finish()
		run := bench.Config{DB: pool, Broker: broker, Provider: demo.Provider, Duration: duration,
			Progress: func(doing string, step, steps int) { shown.Show(doing, int64(step), int64(steps)) }}
		if settled > 0 {
			report, err = bench.RunGrowth(ctx, run, settled)
		} else {
			run.Duration -= time.Since(begin)
			report, err = bench.Run(ctx, run)
		}
		return err
	})
	if err != nil {
		return err
	}
	if !asJSON {
		report.Write(out)
		return nil
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(report); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// withBenchServers runs on the servers that the environment names, or else on some that end with
// the run and leave nothing. Those that share a running demo's servers with buyers would measure
// the buyers too.
func withBenchServers(ctx context.Context, config app.Config, demo DemoServers, progress io.Writer,
	run func(ctx context.Context, databaseURL, natsURL string) error) error {
	own := &servers{config: config, demo: demo, out: progress}
	defer own.stop()
	if config.DatabaseURL == "" || config.BrokerURL == "" {
		fmt.Fprintln(progress, "Starting, for this run only, the servers that DATABASE_URL and BROKER_URL do not name:")
	}
	if config.DatabaseURL == "" {
		if err := own.startPostgres(ctx); err != nil {
			return err
		}
	}
	if config.BrokerURL == "" {
		if err := own.startNATS(); err != nil {
			return err
		}
	}
	return run(ctx, own.config.DatabaseURL, own.config.BrokerURL)
}
