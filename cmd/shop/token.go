package main

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/onceshop/onceshop/internal/app"
)

type tokenCommand struct {
	Customer string   `required:"" xor:"token" placeholder:"EMAIL" help:"Create a token of this account."`
	Admin    bool     `help:"Allow deliveries, refunds and the operators' pages."`
	Expires  lifetime `placeholder:"90d" help:"Let the token expire after this time. Otherwise it does not."`
	List     bool     `required:"" xor:"token" help:"List the tokens by their first characters."`
	Revoke   string   `required:"" xor:"token" placeholder:"PREFIX" help:"Revoke the token with this prefix."`
}

func (c *tokenCommand) Run(p *program) error {
	if c.Customer == "" && (c.Admin || c.Expires > 0) {
		return app.UsageError{Err: errors.New("--admin and --expires belong to --customer")}
	}
	switch {
	case c.List:
		return app.ListTokens(p.ctx, p.config, p.stdout)
	case c.Customer == "":
		return app.RevokeToken(p.ctx, p.config, c.Revoke, p.stdout)
	}
	return app.IssueToken(p.ctx, p.config, c.Customer, c.Admin, time.Duration(c.Expires), p.stdout)
}

// lifetime is a duration that may be given in days.
type lifetime time.Duration

const day = 24 * time.Hour

// Decode implements kong.MapperValue.
func (l *lifetime) Decode(ctx *kong.DecodeContext) error {
	var text string
	if err := ctx.Scan.PopValueInto("time", &text); err != nil {
		return err
	}
	value, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n uint64
		if n, err = strconv.ParseUint(days, 10, 32); n > uint64(math.MaxInt64/day) {
			n = 0
		}
		value = time.Duration(n) * day
	}
	if err != nil || value <= 0 {
		return errors.New("must be a time such as 90d or 12h")
	}
	*l = lifetime(value)
	return nil
}
