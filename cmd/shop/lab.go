package main

import (
	"log/slog"

	"github.com/onceshop/onceshop/internal/app"
)

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
	return app.RunLab(p.ctx, p.config, c.Experiments, c.JSON, p.stdout, p.stderr, log)
}
