package main

import "github.com/onceshop/onceshop/internal/app"

type productCommand struct {
	SKU         string  `arg:"" help:"The product's SKU, such as MUG-ONCE."`
	Name        *string `help:"The name on pages and receipts."`
	Description *string `help:"One line about the product."`
	Price       *string `and:"price" placeholder:"12.50" help:"The price, in units of the currency."`
	Currency    string  `and:"price" placeholder:"EUR" help:"The price's currency (ISO 4217)."`
}

func (c *productCommand) Run(p *program) error {
	return app.SaveProduct(p.ctx, p.config, c.SKU, c.Name, c.Description, c.Price, c.Currency, p.stdout)
}
