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

	"github.com/schollz/progressbar/v3"
	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/bench"
	"github.com/onceshop/onceshop/internal/pg"
)

// RunBench measures the shop beside a naive twin for about the duration, on DATABASE_URL or on a Postgres that it starts for the run. It
// writes the report on out, as a table or as one JSON document, and what it is doing on progress. It is an error if what was measured was
// not right.
func RunBench(ctx context.Context, config Config, duration time.Duration, asJSON bool, out, progress io.Writer, log *slog.Logger) error {
	if duration < bench.MinDuration {
		return UsageError{fmt.Errorf("--duration %s is too short to measure anything: give it %s or more", duration, bench.MinDuration)}
	}
	begin := time.Now()
	var report bench.Report
	err := withBenchDatabase(ctx, config, progress, log, func(ctx context.Context, databaseURL string) error {
		pool, err := pg.Open(ctx, databaseURL, 4)
		if err != nil {
			return UsageError{err}
		}
		defer pool.Close()
		if err := pool.Ping(ctx); err != nil {
			return fmt.Errorf("the database of DATABASE_URL does not answer: %w", err)
		}
		var bar *progressbar.ProgressBar
		report, err = bench.Run(ctx, bench.Config{DB: pool, Duration: duration - time.Since(begin), Progress: func(doing string, step, steps int) {
			if bar == nil {
				bar = progressbar.NewOptions(steps, progressbar.OptionSetWriter(progress), progressbar.OptionShowCount(),
					progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false), progressbar.OptionClearOnFinish())
			}
			bar.Describe(doing)
			_ = bar.Set(step)
		}})
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

// withBenchDatabase runs on the database that the environment names, or else on one that ends with the run and leaves nothing. Those that
// share a running demo's database with buyers would measure the buyers too.
func withBenchDatabase(ctx context.Context, config Config, progress io.Writer, log *slog.Logger, run func(ctx context.Context, databaseURL string) error) (err error) {
	if config.DatabaseURL != "" {
		return run(ctx, config.DatabaseURL)
	}
	group, ctx := errgroup.WithContext(ctx)
	own := &demo{config: config, out: progress, log: log, group: group}
	fmt.Fprintln(progress, "The environment names no DATABASE_URL. Starting a server for this run only:")
	if err = own.useTemporaryFolder(); err == nil {
		err = own.step("Postgres", func() error { return own.startPostgres(ctx, rand.Text()) })
	}
	if err == nil {
		err = run(ctx, own.config.DatabaseURL)
	}
	for i := len(own.stops) - 1; i >= 0; i-- {
		own.stops[i]()
	}
	return errors.Join(err, group.Wait())
}
