package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/recovery"
)

// errRestored refuses to serve on tables that know less than the broker or the provider.
var errRestored = errors.New("the database was restored to an older point: what happened since then would happen " +
	"again. Run `shop recover --since TIME` with the time that it was restored to")

const (
	// compareTimeout bounds one comparison of the tables with the broker and the provider. A start
	// waits for it.
	compareTimeout = 2 * time.Second
	compareEvery   = 5 * time.Second
)

// compare returns errRestored if the broker or the provider knows more than the tables. Another
// error means that one of them did not answer.
func (a *App) compare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	var unanswered error
	if a.broker != nil {
		newest, lost, err := outbox.Lost(ctx, a.pool, a.broker)
		if lost {
			return fmt.Errorf("%w (the broker has event %s of order %s, %s)", errRestored, newest.Type, newest.OrderID,
				newest.CreatedAt.Format(time.RFC3339))
		}
		unanswered = err
	}
	lost, err := a.payments.Lost(ctx)
	if lost {
		return fmt.Errorf("%w (the provider has taken money for a charge of ours that is missing)", errRestored)
	}
	return errors.Join(unanswered, err)
}

// refuseRestored returns errRestored if the broker or the provider knows more than the tables. If
// one of these does not answer, the node starts, and later goes on comparing: it stops when the
// tables turn out to be older.
func (a *App) refuseRestored(ctx context.Context) (later func(context.Context) error, err error) {
	err = a.compare(ctx)
	if err == nil || errors.Is(err, errRestored) {
		return nil, err
	}
	a.log.WarnContext(ctx, "the tables are not compared with the broker and the provider yet", "error", err)
	return func(ctx context.Context) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(compareEvery):
			}
			if err := a.compare(ctx); err == nil || errors.Is(err, errRestored) {
				return err
			}
		}
	}, nil
}

// Recover brings a database that was restored to an older point up to what the broker and the
// provider know, and reports on out. Since is the time that it was restored to.
func Recover(ctx context.Context, config Config, since time.Time, log *slog.Logger, out, progress io.Writer) error {
	a, err := New(ctx, config, OnlyWorker, log)
	if err != nil {
		return err
	}
	defer a.Close()
	if err := a.recordsAnswer(ctx); err != nil {
		return err
	}
	if age := time.Since(since); age > config.StreamMaxAge {
		fmt.Fprintf(out, "The broker keeps events for %s: older ones cannot be rebuilt.\n", config.StreamMaxAge)
	}
	history := a.broker.History()
	if history == nil {
		return errors.New("the broker keeps no event that it has delivered: what happened since then cannot be rebuilt")
	}
	if err := a.openBroker(ctx); err != nil {
		return cmp.Or(ctx.Err(), err)
	}
	last := time.Now()
	report, err := recovery.Run(ctx, recovery.Services{Pool: a.pool, Accounts: a.accounts, Orders: a.orders,
		Payments: a.payments, Notify: a.notify, History: history}, since, func(r recovery.Report) {
		if now := time.Now(); now.Sub(last) >= time.Second {
			last = now
			fmt.Fprintf(progress, "%d events read, %d rebuilt\n", r.Events, r.Rebuilt)
		}
	})
	if err != nil {
		return err
	}
	return writeRecovery(out, report)
}

// recordsAnswer returns an error unless all answer whose records a recovery reads.
func (a *App) recordsAnswer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	for name, ping := range map[string]func(context.Context) error{
		"DATABASE_URL": a.pool.Ping, "BROKER_URL": a.brokerAnswers, "PSP_URL or Stripe": a.provider.Ping,
		"REDIS_URL": func(ctx context.Context) error { return a.redis.Ping(ctx).Err() },
	} {
		if err := ping(ctx); err != nil {
			return fmt.Errorf("the server of %s does not answer, and its records are needed: %w", name, err)
		}
	}
	return nil
}

func writeRecovery(out io.Writer, r recovery.Report) error {
	fmt.Fprintf(out, "events    %d since then, %d stood, %d rebuilt (%d of them new orders)\n", r.Events, r.Known,
		r.Rebuilt, r.Orders)
	fmt.Fprintf(out, "money     %d captures and refunds, %d booked, %d of these wait: see /admin/events\n",
		r.Money.Moved, r.Money.Booked, r.Money.Open)
	fmt.Fprintf(out, "receipts  %d were sent, %d are due, %d may have been sent: see /admin/letters\n",
		r.Receipts[notify.Sent], r.Receipts[notify.Due], r.Receipts[notify.Unclear])
	for _, lost := range r.Lost {
		fmt.Fprintf(out, "not rebuilt: event %s: %v\n", lost.Event.ID, lost.Reason)
	}
	if n := len(r.Lost); n > 0 {
		return fmt.Errorf("%d changes could not be made again", n)
	}
	fmt.Fprintln(out, "The shop can start.")
	return nil
}
