package main

import "github.com/onceshop/onceshop/internal/app"

type serveCommand struct {
	Only string `enum:"web,workers," default:"" placeholder:"web|workers" help:"Run only this part of the service."`
}

func (c *serveCommand) Run(p *program) error {
	role := app.Everything
	switch c.Only {
	case "web":
		role = app.OnlyWeb
	case "workers":
		role = app.OnlyWorker
	}
	return app.Serve(p.ctx, p.config, role, p.logger())
}
