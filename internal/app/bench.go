package app

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/proof/bench"
)

// RunBench measures the shop beside a naive twin for about the duration or, if there are orders, an empty shop beside one with so many of them, on DATABASE_URL and NATS_URL or on servers that it starts for the run.
// It writes the report on out, as a table or as one JSON document, and what it is doing on progress. It is an error if what was measured was
// not right.
func RunBench(ctx context.Context, config Config, duration time.Duration, settled int, asJSON bool, out, progress io.Writer, log *slog.Logger) error {
	if duration < bench.MinDuration {
		return UsageError{fmt.Errorf("--duration %s is too short to measure anything: give it %s or more", duration, bench.MinDuration)}
	}
	if settled != 0 && settled < bench.MinGrown {
		return UsageError{fmt.Errorf("--orders %d is too few to tell of growth: give it %d or more", settled, bench.MinGrown)}
	}
	begin := time.Now()
	var report interface{ Write(io.Writer) }
	err := withBenchServers(ctx, config, progress, log, func(ctx context.Context, databaseURL, natsURL string) error {
		pool, err := pg.Open(ctx, databaseURL, 4)
		if err != nil {
			return UsageError{err}
		}
		defer pool.Close()
		if err := pool.Ping(ctx); err != nil {
			return fmt.Errorf("the database of DATABASE_URL does not answer: %w", err)
		}
		broker, err := nats.Connect(natsURL, nats.Name("onceshop bench"))
		if err != nil {
			return fmt.Errorf("the broker of NATS_URL does not answer: %w", err)
		}
		defer broker.Close()
		var bar *progressbar.ProgressBar
		run := bench.Config{DB: pool, Broker: broker, Duration: duration, Progress: func(doing string, step, steps int) {
			if bar == nil {
				bar = progressbar.NewOptions(steps, progressbar.OptionSetWriter(progress), progressbar.OptionShowCount(),
					progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false), progressbar.OptionClearOnFinish())
			}
			bar.ChangeMax(steps)
			bar.Describe(doing)
			_ = bar.Set(step)
		}}
		if settled > 0 {
			report, err = bench.RunGrowth(ctx, run, settled)
		} else {
			run.Duration -= time.Since(begin)
			report, err = bench.Run(ctx, run)
		}
		if bar != nil {
			_ = bar.Finish() // a bar that cannot be drawn is no failure
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

// withBenchServers runs on the servers that the environment names, or else on some that end with the run and leave nothing. Those that
// share a running demo's servers with buyers would measure the buyers too.
func withBenchServers(ctx context.Context, config Config, progress io.Writer, log *slog.Logger, run func(ctx context.Context, databaseURL, natsURL string) error) (err error) {
	group, ctx := errgroup.WithContext(ctx)
	own := &demo{config: config, out: progress, log: log, group: group}
	if config.DatabaseURL == "" || config.NATSURL == "" {
		fmt.Fprintln(progress, "Servers that the environment does not name in DATABASE_URL and NATS_URL are started for this run only:")
		err = own.useTemporaryFolder()
	}
	if err == nil && config.DatabaseURL == "" {
		err = own.step("Postgres", func() error { return own.startPostgres(ctx, rand.Text()) })
	}
	if err == nil && config.NATSURL == "" {
		err = own.step("NATS JetStream, synced", own.startNATS)
	}
	if err == nil {
		err = run(ctx, own.config.DatabaseURL, own.config.NATSURL)
	}
	for i := len(own.stops) - 1; i >= 0; i-- {
		own.stops[i]()
	}
	return errors.Join(err, group.Wait())
}
