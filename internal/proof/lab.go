package proof

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/proof/lab"
	"github.com/onceshop/onceshop/internal/redisclient"
)

// labTimeout bounds the wait for a demo that may not be there any more.
const labTimeout = 3 * time.Second

// Lab runs the named experiments, or all, on the servers of the environment or of the running demo,
// and starts the missing ones for this run. It writes the matrix to out, as a table or as one JSON
// document, and its progress to progress. A twin with an unexpected verdict is an error.
func Lab(ctx context.Context, config app.Config, demo DemoServers, names []string, asJSON bool, out,
	progress io.Writer, log *slog.Logger) error {
	experiments, err := labExperiments(names)
	if err != nil {
		return err
	}
	if demo.Provider == nil {
		return app.UsageError{Err: lab.ErrNoWitnesses}
	}
	var report lab.Report
	err = withLab(ctx, config, demo, progress, log, func(ctx context.Context, l *lab.Lab) error {
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

// labError is what a report found wrong, or nil.
func labError(report lab.Report) error {
	problems := report.Problems()
	if len(problems) == 0 {
		return nil
	}
	return fmt.Errorf("unexpected results:\n  %s", strings.Join(problems, "\n  "))
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
			return nil, app.UsageError{Err: fmt.Errorf("there is no experiment %q; the experiments are:%s", name,
				known.String())}
		}
		experiments[i] = e
	}
	return experiments, nil
}

func runExperiments(ctx context.Context, l *lab.Lab, experiments []lab.Experiment, progress io.Writer) (lab.Report,
	error) {
	report := lab.Report{Results: make([]lab.Result, 0, len(experiments))}
	fmt.Fprintf(progress, "Experiments to run: %d\n", len(experiments))
	shown := app.NewProgress(progress)
	defer shown.Finish()
	parts := int64(len(experiments)) + 1 // the last one is the latency
	for i, e := range experiments {
		shown.Show(e.ID, int64(i), parts)
		result, err := l.Run(ctx, e)
		if err = cmp.Or(ctx.Err(), err); err != nil {
			return report, err
		}
		report.Results = append(report.Results, result)
	}
	shown.Show("latency", parts-1, parts)
	var err error
	report.Latency, err = l.Latency(ctx)
	return report, err
}

// withLab runs a lab on the servers that config names, or else on those of the running demo. It
// starts the ones that are still missing; they end with it and leave nothing.
func withLab(ctx context.Context, config app.Config, demo DemoServers, progress io.Writer, log *slog.Logger,
	run func(context.Context, *lab.Lab) error) error {
	if config.DatabaseURL == "" {
		if running, err := config.WithDemo(); err == nil && answers(ctx, running.DatabaseURL) {
			fmt.Fprintln(progress, "Using the servers of the demo that runs on", config.DataDir)
			config = running
		}
	}
	own := &servers{config: config, demo: demo, out: progress}
	defer own.stop()
	if err := own.startForLab(ctx); err != nil {
		return err
	}
	return connectLab(ctx, own.config, demo, log, run)
}

// answers reports whether the database of a demo is there. A demo that was killed leaves a stale
// note.
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

func connectLab(ctx context.Context, config app.Config, demo DemoServers, log *slog.Logger,
	run func(context.Context, *lab.Lab) error) error {
	pool, err := pg.Open(ctx, config.DatabaseURL, 4)
	if err != nil {
		return app.UsageError{Err: err}
	}
	defer pool.Close()
	client, err := redisclient.Open(config.RedisURL)
	if err != nil {
		return app.UsageError{Err: err}
	}
	defer client.Close()
	broker, err := nats.Connect(config.BrokerURL, nats.Name("onceshop lab"))
	if err != nil {
		return fmt.Errorf("connect to BROKER_URL: %w", err)
	}
	defer broker.Close()
	l := lab.New(pool, client, broker, demo.witnesses(), log)
	defer l.Close()
	return run(ctx, l)
}
