package main

import (
	"log/slog"
	"time"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/proof"
	"github.com/onceshop/onceshop/internal/proof/kill"
)

// proofCommands are the commands of the proof wing. Deleting internal/proof and this file removes
// the wing.
type proofCommands struct {
	Lab     labCommand     `cmd:"" help:"The duplicates lab: a naive and a guarded program under the same faults."`
	Bench   benchCommand   `cmd:"" help:"Measure the shop against a naive twin, and print the ratios."`
	Torture tortureCommand `cmd:"" help:"Inject random faults, then check that nothing was lost or doubled."`
}

func init() {
	// The init function of the demo may run later.
	lab := proof.LabSection(func() proof.DemoServers { return demoServers })
	wings = append(wings, wing{
		commands: func() any { return &proofCommands{} },
		sections: []app.Section{lab},
		prepare:  armCrashPoint,
	})
}

// armCrashPoint makes the process die at the point named by SHOP_CRASH_AT, if it is set.
func armCrashPoint(log *slog.Logger) error {
	point, err := kill.Arm()
	if err != nil {
		return app.UsageError{Err: err}
	}
	if point != "" {
		log.Warn("this process kills itself at a crash point", "setting", kill.Env, "point", point)
	}
	return nil
}

type labCommand struct {
	JSON        bool     `name:"json" help:"Print one JSON document with all steps, counts and verdicts; times in ns."`
	Experiments []string `arg:"" optional:"" name:"experiment" help:"Run only these."`
}

// Help is shown by shop lab --help.
func (labCommand) Help() string {
	return `Each experiment injects one fault into two programs at once: a naive one, and the guarded one that
the shop runs. Then it counts the effects in the database, at the provider, in the stream and in the
mailbox.

The lab uses DATABASE_URL, REDIS_URL and NATS_URL, or the servers of the demo on SHOP_DATA_DIR. It
starts the servers that neither provides. In the database it uses its own schemas only.

Exit code 1 if a guarded program fails, or if a naive one does not fail as expected.`
}

func (c *labCommand) Run(p *program) error {
	// Experiments fail on purpose; the report covers all of it.
	log := slog.New(slog.DiscardHandler)
	return proof.Lab(p.ctx, p.config, demoServers, c.Experiments, c.JSON, p.stdout, p.stderr, log)
}

type benchCommand struct {
	JSON     bool          `name:"json" help:"Print one JSON document."`
	Duration time.Duration `default:"60s" help:"How long to run, at least 20s; with --orders, how long to measure."`
	Orders   int           `placeholder:"N" help:"Measure growth instead: an empty shop against one with N orders."`
}

// Help is shown by shop bench --help.
func (benchCommand) Help() string {
	return `Two programs do the same work side by side: a naive one, which writes each order in its own
transaction, one statement at a time, and the shop. Both get the same machine, database, number of
connections and callers. After each scenario the tables must agree with the answers; otherwise the
scenario has no figure.

The database is DATABASE_URL, or one started for this run. The bench uses its own schemas only
(bench, bench_guarded, bench_unguarded, bench_naive, bench_grown) and drops them at the end. It uses
the whole machine: do not run it beside a shop in production.

With --orders 5000000 there is no naive program. An almost empty shop runs beside a shop with five
million finished orders. Writing these orders takes a few minutes and 3 GB of disk per million.

Exit code 1 if anything was sold twice or an answer was wrong.`
}

func (c *benchCommand) Run(p *program) error {
	return proof.Bench(p.ctx, p.config, demoServers, c.Duration, c.Orders, c.JSON, p.stdout, p.stderr)
}

type tortureCommand struct {
	Seed     uint64        `default:"0" help:"Seed of the faults and the requests; 0 draws one. The report prints it."`
	Duration time.Duration `default:"60s" help:"How long to inject faults, at least 10s; checking comes on top."`
	JSON     bool          `name:"json" help:"Print one JSON document."`
	Keep     bool          `help:"Keep the run's folder even if nothing was found."`
	Points   bool          `help:"List the crash points and exit."`
}

// Help is shown by shop torture --help.
func (tortureCommand) Help() string {
	return `Two nodes and all servers run as processes, with a proxy on every connection between them. Clients
order, pay, refund and repeat their requests, while nodes die at named points and random faults hit
everything. Then the faults end and every key is sent once more. The answers to the clients, the
database, and the records of the provider and the mailbox must agree.

The command needs Postgres and redis-server on this machine and starts its own. It leaves nothing
behind, except after a violation: a folder with all logs.

Exit code 1 if an invariant was broken. The report names it, the order, its timeline and the seed.`
}

func (c *tortureCommand) Run(p *program) error {
	if c.Points {
		return proof.ListCrashPoints(p.stdout)
	}
	how := proof.TortureOptions{Seed: c.Seed, Duration: c.Duration, JSON: c.JSON, Keep: c.Keep}
	return proof.Torture(p.ctx, demoServers, how, p.stdout, p.stderr)
}
