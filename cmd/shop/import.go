package main

import "github.com/onceshop/onceshop/internal/app"

type importCommand struct {
	File     string `arg:"" type:"existingfile" help:"CSV with the columns delivery_id,line,sku,quantity."`
	Supplier string `default:"default" help:"Scope of the delivery ids: each supplier numbers its own deliveries."`
	KeepGood bool   `help:"Keep the good lines of a file that has bad ones. Otherwise one bad line keeps all out."`
}

func (c *importCommand) Run(p *program) error {
	return app.ImportFile(p.ctx, p.config, c.File, c.Supplier, c.KeepGood, p.stdout, p.stderr)
}
