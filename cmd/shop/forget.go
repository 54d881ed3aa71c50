package main

import "github.com/onceshop/onceshop/internal/app"

type forgetCommand struct {
	Customer string `required:"" xor:"person" placeholder:"EMAIL" help:"Erase the account and its orders."`
	Order    string `required:"" xor:"person" placeholder:"ID" help:"Erase the buyer's data of this order."`
}

// Help is shown by shop forget --help.
func (forgetCommand) Help() string {
	return `Blanks the data of a person in every table. The rows stay, and so does the use of their idempotency
keys: a retry gets 410 "erased". An order that is not finished is refused, with the reason. With
--customer, all orders of the account are erased, and those to the address from other accounts.
Tokens of the account stay valid: shop token --revoke ends them.

docs/privacy.md lists what is erased and what is not, such as the mail server and the payment
provider.`
}

func (c *forgetCommand) Run(p *program) error {
	return app.Forget(p.ctx, p.config, c.Customer, c.Order, p.stdout, p.stderr)
}
