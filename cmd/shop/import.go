package main

import "github.com/onceshop/onceshop/internal/app"

type importCommand struct {
	File     string `arg:"" type:"existingfile" help:"CSV: delivery_id,line,sku,quantity; - is the standard input."`
	Supplier string `default:"default" help:"Scope of the delivery ids: each supplier numbers its own deliveries."`
	KeepGood bool   `help:"Import the good lines of a file that has bad ones. Otherwise one bad line stops the import."`
}

func (c *importCommand) Run(p *program) error {
	return app.ImportFile(p.ctx, p.config, c.File, c.Supplier, c.KeepGood, p.stdout, p.stderr)
}
