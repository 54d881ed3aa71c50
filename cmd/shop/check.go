package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/alecthomas/kong"

	"github.com/onceshop/onceshop/internal/app"
)

type checkCommand struct {
	Since time.Duration `placeholder:"24h" help:"Look only at orders with a change in that time."`
	Watch interval      `placeholder:"5s" help:"Repeat until Ctrl-C, every 5s or at the interval of --watch=1m."`
}

// Help is shown by shop check --help.
func (checkCommand) Help() string {
	return `The database is DATABASE_URL, the provider PSP_URL, the mailbox's page SHOP_MAILBOX_ADDR. Without
DATABASE_URL, the command checks the demo that runs on SHOP_DATA_DIR. A source without an address is
not checked. The check only reads, and may run beside a running shop. Without --since it reads whole
tables, which takes minutes on millions of orders.

I2, I4, I14 and I15 are not checked: they are about answers to clients, which no database has. Exit
code 1 on a violation.`
}

func (c *checkCommand) Run(p *program) error {
	if c.Since < 0 {
		return app.UsageError{Err: errors.New("--since must be a time such as 24h or 90m")}
	}
	return app.Check(p.ctx, p.config, c.Since, time.Duration(c.Watch), p.stdout)
}

// interval is a flag with an optional value.
type interval time.Duration

const defaultInterval = interval(5 * time.Second)

// IsBool makes the value optional for kong.
func (interval) IsBool() bool { return true }

// Decode implements kong.MapperValue.
func (i *interval) Decode(ctx *kong.DecodeContext) error {
	if ctx.Scan.Peek().Type != kong.FlagValueToken {
		*i = defaultInterval
		return nil
	}
	value, err := time.ParseDuration(fmt.Sprint(ctx.Scan.Pop().Value))
	if err != nil || value <= 0 {
		return errors.New("must be a time such as 5s or 1m")
	}
	*i = interval(value)
	return nil
}
