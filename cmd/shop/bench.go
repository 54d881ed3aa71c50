package main

import (
	"log/slog"
	"time"

	"github.com/onceshop/onceshop/internal/app"
)

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
	return app.RunBench(p.ctx, p.config, c.Duration, c.Orders, c.JSON, p.stdout, p.stderr, slog.New(slog.DiscardHandler))
}
