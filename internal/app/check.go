package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/check"
)

// Check writes the state of every invariant to out. If since is above zero, it looks at orders with
// a change in that time only. If every is above zero, it repeats until ctx ends. A violated
// invariant or a witness that does not answer is an error; if Check repeats, the last complete
// round counts.
func Check(ctx context.Context, config Config, since, every time.Duration, out io.Writer) error {
	config, err := config.WithDemo()
	if err != nil {
		return err
	}
	if config.stripe() {
		config.PSPURL = "" // the simulator holds none of this shop's money
	}
	return withDatabase(ctx, config, func(pool *pgxpool.Pool) error {
		sources := check.Sources{DB: pool, ProviderURL: config.PSPURL, MailboxURL: config.mailboxURL(), Since: since}
		var last error
		for {
			err := checkOnce(ctx, sources, out)
			if ctx.Err() != nil {
				return last
			}
			if every == 0 {
				return err
			}
			if last = err; err != nil {
				fmt.Fprintf(out, "\n%v\n", err)
			}
			select {
			case <-ctx.Done():
				return last
			case <-time.After(every):
			}
			fmt.Fprintf(out, "\n%s\n", time.Now().UTC().Format(time.RFC3339))
		}
	})
}

func checkOnce(ctx context.Context, sources check.Sources, out io.Writer) error {
	report, err := check.Run(ctx, sources)
	if report == nil {
		return err
	}
	if err := report.WriteTable(out); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	if err := report.WriteSummary(out, IsTerminal(out) && os.Getenv("NO_COLOR") == ""); err != nil {
		return fmt.Errorf("write the summary: %w", err)
	}
	var violated error
	if n := len(report.Violated()); n > 0 {
		violated = fmt.Errorf("%d of %d invariants are violated", n, len(report))
	}
	return errors.Join(violated, err)
}

// mailboxURL returns the address of the mailbox's API, or "".
func (c Config) mailboxURL() string {
	if c.MailboxAddr == "" || strings.Contains(c.MailboxAddr, "://") {
		return c.MailboxAddr
	}
	return "http://" + c.MailboxAddr
}
