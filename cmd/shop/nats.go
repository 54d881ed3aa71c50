package main

import "github.com/onceshop/onceshop/internal/app"

// natsCommand serves `shop torture`, which kills it.
type natsCommand struct {
	Dir string `type:"path" required:"" placeholder:"FOLDER" help:"Where the streams live."`
}

func (c *natsCommand) Run(p *program) error { return app.ServeBroker(p.ctx, p.config, c.Dir) }
