package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/forget"
)

const (
	// erasuresEvery and erasuresTimeout bound how long a node may answer from memory for an order
	// that was erased.
	erasuresEvery   = time.Second
	erasuresTimeout = 2 * time.Second
)

// watchErasures ends the use of answers in memory when an order was erased, or when that is
// unknown.
func (a *App) watchErasures(ctx context.Context) error {
	ticker := time.NewTicker(erasuresEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		read, cancel := context.WithTimeout(ctx, erasuresTimeout)
		times, err := a.orders.CountErasures(read)
		cancel()
		if err != nil {
			times = dedup.Unsure
			a.log.DebugContext(ctx, "nothing is answered from memory", "error", err)
		}
		a.replays.SetEra(times)
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	return nil
}

// Forget erases a person's data: of the account and the orders with the email address, or of one
// order. It reports on out, and on progress if it takes long. It returns when no node answers from
// memory any more.
func Forget(ctx context.Context, config Config, email, order string, out, progress io.Writer) error {
	id, idErr := uuid.Parse(order)
	address, emailErr := mail.ParseAddress(email)
	switch {
	case order != "" && idErr != nil:
		return UsageError{errors.New("--order must be the id of an order")}
	case order == "" && (emailErr != nil || address.Address != email):
		return UsageError{errors.New("--customer must be an email address such as alice@example.com")}
	}
	return withDatabase(ctx, config, func(pool *pgxpool.Pool) error {
		var done forget.Report
		var err error
		if order == "" {
			done, err = forget.Customer(ctx, pool, email, reportSlowly(progress))
		} else if err = forget.Order(ctx, pool, id); err == nil {
			done.Orders = 1
		}
		if done.Orders > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(erasuresEvery + erasuresTimeout):
			}
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "erased: %d orders, %d accounts, %d other rows\n", done.Orders, done.Accounts, done.Mentions)
		for _, refused := range done.Refused {
			fmt.Fprintln(out, refused.Error())
		}
		if n := len(done.Refused); n > 0 {
			return fmt.Errorf("%d rows are still needed, and the account keeps its address; try again later", n)
		}
		return nil
	})
}

// reportSlowly returns a function that writes how far Customer is, once a second.
func reportSlowly(out io.Writer) func(int, forget.Report) {
	last := time.Now()
	return func(read int, done forget.Report) {
		if now := time.Now(); now.Sub(last) >= time.Second {
			last = now
			fmt.Fprintf(out, "%d rows read, %d orders erased\n", read, done.Orders)
		}
	}
}
