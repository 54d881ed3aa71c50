package main

import (
	"log/slog"

	"github.com/onceshop/onceshop/internal/app"
)

type demoCommand struct {
	Fresh   bool `help:"Remove the data of earlier runs first."`
	Verbose bool `short:"v" help:"Log every request."`
}

func (c *demoCommand) Run(p *program) error {
	level := slog.LevelWarn
	if c.Verbose {
		level = slog.LevelInfo
	}
	log := slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: level}))
	return app.RunDemo(p.ctx, p.config, c.Fresh, p.stdout, log)
}
