package main

import (
	"log/slog"
	"time"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/proof"
	"github.com/onceshop/onceshop/internal/proof/kill"
)

// proofCommands are the commands of the proof wing. The wing goes with internal/proof and this
// file.
type proofCommands struct {
	Lab     labCommand     `cmd:"" help:"The duplicates lab: every strategy against its faults, a naive program beside the guarded one."`
	Bench   benchCommand   `cmd:"" help:"How fast it is: a naive twin beside the shop in one run, and the ratios."`
	Torture tortureCommand `cmd:"" help:"Random faults on real processes for a while; then nothing may be lost or have happened twice."`
}

func init() {
	wings = append(wings, wing{commands: func() any { return &proofCommands{} }, sections: []app.Section{proof.LabSection()},
		prepare: armCrashPoint})
}

// armCrashPoint makes the process die at the point that SHOP_CRASH_AT names, if it names one.
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
	JSON        bool     `name:"json" help:"Print one JSON document: every step, count and verdict. Times are in nanoseconds."`
	Experiments []string `arg:"" optional:"" name:"experiment" help:"Run these only."`
}

// Help is shown by shop lab --help.
func (labCommand) Help() string {
	return `Each experiment lets one fault happen to two programs at once: a naive one, and the guarded one that the shop
runs. Then it counts what really happened in the database, at the provider, in the stream and in the mailbox.

The servers are DATABASE_URL, REDIS_URL and NATS_URL, or those of the demo that runs on SHOP_DATA_DIR; those that
neither names are started for this run. In the database, the lab keeps to schemas of its own.

Exit code 1 if a guarded program does not hold, or a naive one does not go wrong as expected.`
}

func (c *labCommand) Run(p *program) error {
	// What the report does not say, the log would not either: experiments fail on purpose.
	log := slog.New(slog.DiscardHandler)
	return proof.Lab(p.ctx, p.config, c.Experiments, c.JSON, p.stdout, p.stderr, log)
}

type benchCommand struct {
	JSON     bool          `name:"json" help:"Print one JSON document."`
	Duration time.Duration `default:"60s" help:"How long the whole run should take, 20s or more; with --orders, its measuring."`
	Orders   int           `placeholder:"N" help:"Measure growth instead: the empty shop beside the shop with so many orders."`
}

// Help is shown by shop bench --help.
func (benchCommand) Help() string {
	return `Two shops do the same beside each other: a naive one, which writes each order in a transaction of its own, a statement
at a time, and the one that the shop runs. Both have the same machine, database, number of connections and callers. After each
scenario the tables must agree with the answers, or there is no figure.

The database is DATABASE_URL, else one that is started for this run. The bench keeps to schemas of its own (bench,
bench_guarded, bench_unguarded, bench_naive, bench_grown) and drops them. It takes what the machine has: do not run it beside a shop at work.

With --orders 5000000 there is no naive shop: the shop with hardly an order and the shop with so many orders, all of them over, do the same. It takes
some minutes and 3 GB of disk a million to write them first.

Exit code 1 if anything was sold twice or an answer was not true.`
}

func (c *benchCommand) Run(p *program) error {
	return proof.Bench(p.ctx, p.config, c.Duration, c.Orders, c.JSON, p.stdout, p.stderr)
}

type tortureCommand struct {
	Seed     uint64        `default:"0" help:"Decides the faults and the wishes; 0 takes one by chance. A report names its own."`
	Duration time.Duration `default:"60s" help:"How long faults happen, 10s or more. Healing and checking come on top."`
	JSON     bool          `name:"json" help:"Print one JSON document."`
	Keep     bool          `help:"Keep the run's folder also when nothing was found."`
	Points   bool          `help:"List the places at which nodes are killed, and run nothing."`
}

// Help is shown by shop torture --help.
func (tortureCommand) Help() string {
	return `Two nodes and all servers run as processes, with a proxy on every line between them. Clients buy, repeat themselves, pay and give
back, while nodes die at named points and random faults happen to everything. Then all is healed, every key is sent once more, and what
clients were told, what the provider and the mailbox saw and what the database says must agree.

It needs Postgres and redis-server on this machine, starts its own, and leaves nothing behind but, after a violation, a folder with
all logs.

Exit code 1 if a promise was broken: the report names it, the order, its timeline and the seed.`
}

func (c *tortureCommand) Run(p *program) error {
	if c.Points {
		return proof.ListCrashPoints(p.stdout)
	}
	return proof.Torture(p.ctx, proof.TortureOptions{Seed: c.Seed, Duration: c.Duration, JSON: c.JSON, Keep: c.Keep},
		p.stdout, p.stderr)
}
