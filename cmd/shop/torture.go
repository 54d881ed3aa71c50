package main

import (
	"time"

	"github.com/onceshop/onceshop/internal/app"
)

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
		return app.ListCrashPoints(p.stdout)
	}
	return app.RunTorture(p.ctx, app.Torture{Seed: c.Seed, Duration: c.Duration, JSON: c.JSON, Keep: c.Keep}, p.stdout, p.stderr)
}
