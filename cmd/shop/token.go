package main

import "github.com/onceshop/onceshop/internal/app"

type tokenCommand struct {
	Customer string `required:"" placeholder:"EMAIL" help:"The account, created when it is new."`
	Admin    bool   `help:"Allow deliveries and refunds."`
}

func (c *tokenCommand) Run(p *program) error {
	return app.IssueToken(p.ctx, p.config, c.Customer, c.Admin, p.stdout)
}
