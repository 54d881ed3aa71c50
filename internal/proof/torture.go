package proof

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/proof/kill"
	"github.com/onceshop/onceshop/internal/proof/torture"
)

// TortureOptions are the settings of a torture run.
type TortureOptions struct {
	Seed     uint64 // 0: by chance
	Duration time.Duration
	JSON     bool
	Keep     bool // the folder also of a run that found nothing
	// BrokerURL is a broker to use instead of one that the run starts, or empty. BrokerSettings are
	// the nodes' settings for it, as NAME=VALUE.
	BrokerURL      string
	BrokerSettings []string
	// Node is a program that runs as a node instead of shop serve, or empty.
	Node string
}

// Torture tortures the shop, writes the report on out and what goes on on progress. It is an error
// if a promise was broken.
func Torture(ctx context.Context, demo DemoServers, how TortureOptions, out, progress io.Writer) error {
	if how.Duration < torture.MinDuration {
		return app.UsageError{Err: fmt.Errorf("--duration %s is too short: give it %s or more", how.Duration,
			torture.MinDuration)}
	}
	if demo.Provider == nil { // the children are commands of the demo wing
		return errWithout("NATS, no payment provider and no mailbox", "torture a program that is built with it")
	}
	if how.Seed == 0 {
		how.Seed = 1 + uint64(rand.Uint32()) //nolint:gosec // to be told, not to be kept
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program, to start its children: %w", err)
	}
	node := []string{program, "serve"}
	if how.Node != "" {
		path, err := exec.LookPath(how.Node)
		if err == nil {
			path, err = filepath.Abs(path)
		}
		if err != nil {
			return app.UsageError{Err: fmt.Errorf("--node: %w", err)}
		}
		node = []string{path}
	}
	dir, err := torture.MakeDir("")
	if err != nil {
		return err
	}
	fmt.Fprintf(progress, "Torture with --seed %d for %s, in %s\n", how.Seed, how.Duration, dir)
	report, err := torture.Run(ctx,
		torture.Options{Seed: how.Seed, Duration: how.Duration, Program: program, Dir: dir, Progress: progress,
			BrokerURL: how.BrokerURL, BrokerSettings: how.BrokerSettings, Node: node})
	broken := len(report.Violations)
	if how.Keep || broken > 0 || len(report.Troubles) > 0 || err != nil && ctx.Err() == nil {
		fmt.Fprintf(progress, "All logs are in %s\n", dir)
		report.Logs = dir
	} else {
		_ = os.RemoveAll(dir)
	}
	if err != nil {
		return err
	}
	if how.JSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(report)
	} else {
		report.Write(out)
	}
	if err == nil && broken > 0 {
		err = fmt.Errorf("%d violations; run it again with --seed %d", broken, how.Seed)
	}
	if err == nil && len(report.Troubles) > 0 {
		err = fmt.Errorf("no violation, but the harness had trouble, so the run proves too little: "+
			"run it again with --seed %d", how.Seed)
	}
	return err
}

// ListCrashPoints writes the places at which `shop serve` can be made to die, with the role that
// passes them.
func ListCrashPoints(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "%s\tPASSED BY\tWHERE THE PROCESS DIES\n", kill.Env)
	for _, p := range kill.Points() {
		flow, _, _ := strings.Cut(string(p), ".")
		fmt.Fprintf(table, "%s\t%s\t%s\n", p, passedBy[flow], kill.Where(p))
	}
	return table.Flush()
}

// passedBy are the commands, by the flow of a point: a charge is captured by whoever asks the
// provider, a refund by the reconciler too.
var passedBy = map[string]string{
	"place": "shop serve --only=web", "charge": "shop serve --only=web", "cancel": "shop serve --only=web",
	"webhook": "shop serve --only=web",
	"refund":  "shop serve", "reconcile": "shop serve --only=workers", "relay": "shop serve --only=workers",
	"receipt": "shop serve --only=workers",
}
