package main

import (
	"log/slog"
	"time"

	"github.com/onceshop/onceshop/internal/app"
)

type benchCommand struct {
	JSON     bool          `name:"json" help:"Print one JSON document."`
	Duration time.Duration `default:"60s" help:"How long the whole run should take, 20s or more."`
}

// Help is shown by shop bench --help.
func (benchCommand) Help() string {
	return `Two shops do the same beside each other: a naive one, which writes each order in a transaction of its own, a statement
at a time, and the one that the shop runs. Both have the same machine, database, number of connections and callers. After each
scenario the tables must agree with the answers, or there is no figure.

The database is DATABASE_URL, else one that is started for this run. The bench keeps to schemas of its own (bench,
bench_guarded, bench_unguarded, bench_naive) and drops them. It takes what the machine has: do not run it beside a shop at work.

Exit code 1 if anything was sold twice or an answer was not true.`
}

func (c *benchCommand) Run(p *program) error {
	return app.RunBench(p.ctx, p.config, c.Duration, c.JSON, p.stdout, p.stderr, slog.New(slog.DiscardHandler))
}
