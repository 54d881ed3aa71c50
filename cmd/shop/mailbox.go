package main

import (
	"fmt"
	"net"

	"github.com/onceshop/onceshop/internal/app"
)

type mailboxCommand struct {
	Dir string `type:"path" placeholder:"FOLDER" help:"Keep the messages here. Without it, they end with the process."`
}

func (c *mailboxCommand) Run(p *program) error {
	return app.ServeMailbox(p.ctx, p.config, c.Dir, p.logger(), func(smtp, page net.Addr) {
		fmt.Fprintf(p.stdout, "SMTP on %s, page on http://%s\n", smtp, page)
	})
}
