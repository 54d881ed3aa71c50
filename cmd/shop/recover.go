package main

import (
	"errors"
	"time"

	"github.com/onceshop/onceshop/internal/app"
)

type recoverCommand struct {
	Since moment `required:"" placeholder:"TIME" help:"The point of the restore, such as 2026-11-29T08:00:00Z."`
}

// Help is shown by shop recover --help.
func (recoverCommand) Help() string {
	return `For a database that was restored to an older point. Stop every node first; they refuse to start on it
anyway. The command reads the broker's events since then and makes their changes again, under the
keys that were used, compares the provider's captures and refunds with the tables, and finds out
which receipts were sent. What it cannot rebuild it shows. It can be repeated.

It needs the settings of a node with workers. Deliveries and imports since then are not in the
events: import their files again.`
}

func (c *recoverCommand) Run(p *program) error {
	return app.Recover(p.ctx, p.config, c.Since.Time, p.logger(), p.stdout, p.stderr)
}

// moment is a flag with a time of RFC 3339.
type moment struct{ time.Time }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *moment) UnmarshalText(text []byte) (err error) {
	if m.Time, err = time.Parse(time.RFC3339, string(text)); err != nil {
		return errors.New("must be a time such as 2026-11-29T08:00:00Z")
	}
	return nil
}
