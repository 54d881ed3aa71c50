package app

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/nats-io/nats.go"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/proof/lab"
	"github.com/onceshop/onceshop/internal/proof/lab/pages"
	"github.com/onceshop/onceshop/internal/redisclient"
	"github.com/onceshop/onceshop/web"
)

// registerLab adds the lab's pages.
func (a *App) registerLab(e *echo.Echo, shop *web.Web) {
	a.labPages = pages.New(shop, a.lab, a.log)
	a.labPages.Register(e)
}

// closeLab ends the experiments under way, and the lab's own servers.
func (a *App) closeLab() {
	if a.labPages != nil {
		a.labPages.Close()
	}
	if a.lab != nil {
		a.lab.Close()
	}
}

// labTimeout bounds the wait for a demo that may not be there any more.
const labTimeout = 3 * time.Second

// RunLab runs the named experiments, or all, on the servers of the environment or of the running demo, and starts those that are
// missing for itself. It writes the matrix on out, as a table or as one JSON document, and what it is doing on progress. It is an error
// if a twin did other than expected.
func RunLab(ctx context.Context, config Config, names []string, asJSON bool, out, progress io.Writer, log *slog.Logger) error {
	experiments, err := labExperiments(names)
	if err != nil {
		return err
	}
	var report lab.Report
	err = withLab(ctx, config, progress, log, func(ctx context.Context, l *lab.Lab) error {
		report, err = runExperiments(ctx, l, experiments, progress)
		return err
	})
	if err != nil {
		return err
	}
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(report)
	} else {
		err = report.WriteTable(out)
	}
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return labError(report)
}

// labError says what a report found wrong.
func labError(report lab.Report) error {
	problems := report.Problems()
	if len(problems) == 0 {
		return nil
	}
	return fmt.Errorf("not as it should be:\n  %s", strings.Join(problems, "\n  "))
}

func labExperiments(names []string) ([]lab.Experiment, error) {
	if len(names) == 0 {
		return lab.Experiments(), nil
	}
	experiments := make([]lab.Experiment, len(names))
	for i, name := range names {
		e, err := lab.Find(name)
		if err != nil {
			var known strings.Builder
			for _, e := range lab.Experiments() {
				fmt.Fprintf(&known, "\n  %-36s %s", e.ID, e.Fault)
			}
			return nil, UsageError{fmt.Errorf("there is no experiment %q; there are:%s", name, known.String())}
		}
		experiments[i] = e
	}
	return experiments, nil
}

func runExperiments(ctx context.Context, l *lab.Lab, experiments []lab.Experiment, progress io.Writer) (lab.Report, error) {
	report := lab.Report{Results: make([]lab.Result, 0, len(experiments))}
	bar := progressbar.NewOptions(len(experiments)+1, progressbar.OptionSetWriter(progress), progressbar.OptionShowCount(),
		progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false), progressbar.OptionClearOnFinish())
	defer bar.Finish() //nolint:errcheck // a bar that cannot be drawn is no failure
	for _, e := range experiments {
		bar.Describe(e.ID)
		result, err := l.Run(ctx, e, func(lab.Event) {})
		if err = cmp.Or(ctx.Err(), err); err != nil {
			return report, err
		}
		report.Results = append(report.Results, result)
		_ = bar.Add(1)
	}
	bar.Describe("latency")
	var err error
	report.Latency, err = l.Latency(ctx)
	return report, err
}

// withLab runs a lab on the servers that config names, or else on those of the running demo; for those that are still missing, it
// starts servers that end with it and leave nothing.
func withLab(ctx context.Context, config Config, progress io.Writer, log *slog.Logger, run func(context.Context, *lab.Lab) error) (err error) {
	if config.DatabaseURL == "" {
		if demo, err := config.WithDemo(); err == nil && answers(ctx, demo.DatabaseURL) {
			fmt.Fprintln(progress, "On the servers of the demo that runs on", config.DataDir)
			config = demo
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	own := &demo{config: config, out: progress, log: log, group: group}
	err = own.startForLab(ctx)
	if err == nil {
		err = connectLab(ctx, own.config, log, run)
	}
	for i := len(own.stops) - 1; i >= 0; i-- {
		own.stops[i]()
	}
	return errors.Join(err, group.Wait())
}

// answers reports whether the database of a demo is there: what a demo that was killed says of itself is stale.
func answers(ctx context.Context, databaseURL string) bool {
	ctx, cancel := context.WithTimeout(ctx, labTimeout)
	defer cancel()
	pool, err := pg.Open(ctx, databaseURL, 1)
	if err != nil {
		return false
	}
	defer pool.Close()
	return pool.Ping(ctx) == nil
}

// startForLab starts what nobody named, in a temporary folder.
func (d *demo) startForLab(ctx context.Context) error {
	missing := []struct {
		name, given string
		start       func() error
	}{
		{"Postgres", d.config.DatabaseURL, func() error { return d.startPostgres(ctx, rand.Text()) }},
		{"Redis (in process)", d.config.RedisURL, d.startRedis},
		{"NATS JetStream (in process)", d.config.NATSURL, d.startNATS},
	}
	for _, server := range missing {
		if server.given != "" {
			continue
		}
		if len(d.stops) == 0 {
			fmt.Fprintln(d.out, "No demo runs, and the environment does not name all servers. Starting what is missing, for this run only:")
			if err := d.useTemporaryFolder(); err != nil {
				return err
			}
		}
		if err := d.step(server.name, server.start); err != nil {
			return err
		}
	}
	return nil
}

// useTemporaryFolder gives the servers a folder that goes with them.
func (d *demo) useTemporaryFolder() error {
	dir, err := os.MkdirTemp("", "onceshop-")
	if err != nil {
		return fmt.Errorf("make a folder for the servers: %w", err)
	}
	d.stops = append(d.stops, func() { _ = os.RemoveAll(dir) })
	d.config.DataDir = dir
	// Started as root, Postgres runs as another user, who must be able to enter.
	return os.Chmod(dir, 0o755) //nolint:gosec // the folders in it are closed
}

func connectLab(ctx context.Context, config Config, log *slog.Logger, run func(context.Context, *lab.Lab) error) error {
	pool, err := pg.Open(ctx, config.DatabaseURL, 4)
	if err != nil {
		return UsageError{err}
	}
	defer pool.Close()
	client, err := redisclient.Open(config.RedisURL)
	if err != nil {
		return UsageError{err}
	}
	defer client.Close()
	broker, err := nats.Connect(config.NATSURL, nats.Name("onceshop lab"))
	if err != nil {
		return fmt.Errorf("connect to NATS_URL: %w", err)
	}
	defer broker.Close()
	l := lab.New(pool, client, broker, log)
	defer l.Close()
	return run(ctx, l)
}
