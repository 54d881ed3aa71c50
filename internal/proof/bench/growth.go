package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/check"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
)

// MinGrown is the fewest orders that tell of growth: each buyer has some of them.
const MinGrown = 10_000

// RunGrowth measures the shop on tables that are nearly empty beside the shop on tables with so
// many orders, for about the duration after those are written. It is an error if the books of a
// side do not agree with the answers, or an invariant does not hold.
func RunGrowth(ctx context.Context, c Config, grown int) (report Growth, err error) {
	if c.Progress == nil {
		c.Progress = func(string, int, int) {}
	}
	tables, err := openGrowth(ctx, c.DB)
	if err != nil {
		return report, err
	}
	sides := [2]*bench{{schemas: &schemas{ours: tables.ours}}, {schemas: &schemas{ours: tables.grown}}}
	defer func() {
		for _, b := range sides {
			b.stop()
		}
		err = errors.Join(err, tables.drop(ctx))
	}()
	for _, b := range sides {
		b.orders = orders.New(b.ours, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
		if err := b.addBuyers(ctx); err != nil {
			return report, err
		}
	}
	if err := sides[1].grow(ctx, c.Progress, grown); err != nil {
		return report, err
	}
	if err := errors.Join(sides[0].placeForReplay(ctx), sides[1].findForReplay(ctx), sides[0].settle(ctx)); err != nil {
		return report, err
	}
	scenarios, notes, err := growthScenarios(ctx, sides, c.Broker)
	if err != nil {
		return report, err
	}
	begin := time.Now()
	report = Growth{Machine: sides[0].machine(ctx), Orders: grown, Notes: notes}
	length := roundLength(c.Duration, scenarios)
	for i, s := range scenarios {
		c.Progress(s.name, i, len(scenarios)+1)
		rows, err := sides[0].measure(ctx, s, length) // the others were analyzed when they were written
		if err != nil {
			return report, err
		}
		for _, row := range rows {
			report.Rows = append(report.Rows,
				GrowthRow{Scenario: row.Scenario, Callers: row.Callers, Empty: row.Naive, Grown: row.Ours,
					Ratio: row.Ratio})
		}
	}
	report.Seconds = time.Since(begin).Seconds()
	c.Progress("invariants of all orders", len(scenarios), len(scenarios)+1)
	for _, b := range sides {
		// The orders that were written had no provider and no mailbox: what those could witness is
		// left out.
		if err := b.hold(ctx, check.Sources{DB: b.ours}); err != nil {
			return report, err
		}
	}
	return report, nil
}

// growthScenarios have the empty side first. Old events are deleted before a mend makes them young
// again. What is owed to the broker is sent before the others owe more.
func growthScenarios(ctx context.Context, sides [2]*bench, broker *nats.Conn) (scenarios []scenario, notes []string,
	err error) {
	since, err := uuid.NewV7()
	if err != nil {
		return nil, nil, fmt.Errorf("make an id: %w", err)
	}
	var failed error
	add := func(name string, callers []int, of func(b *bench, number int) (side, error)) {
		var made [2]side
		for i, b := range sides {
			var err error
			made[i], err = of(b, i)
			made[i].since = since
			failed = errors.Join(failed, err)
		}
		scenarios = append(scenarios, scenario{name, callers, made[0], made[1]})
	}
	calls := func(each entry, open func(*bench) opener) func(*bench, int) (side, error) {
		return func(b *bench, _ int) (side, error) {
			return side{open: open(b), books: &books{b.ours}, each: each}, nil
		}
	}
	add("place beside deletions", []int{buyersBeside}, func(b *bench, _ int) (side, error) {
		return b.besideDeletions(), nil
	})
	if broker == nil {
		notes = append(notes, "There was no broker: the relay is left out.")
	} else {
		js, err := jetstream.New(broker)
		if err != nil {
			return nil, nil, fmt.Errorf("open JetStream: %w", err)
		}
		add("relay in batches", []int{1}, func(b *bench, i int) (side, error) {
			return b.relayOfOrders(ctx, js, fmt.Sprintf("%s_%d", relayPrefix, i))
		})
		add("place beside a mend", []int{buyersBeside}, func(b *bench, i int) (side, error) {
			return b.besideMend(ctx, js, fmt.Sprintf("%s_LOST_%d", relayPrefix, i))
		})
	}
	add("replay of old keys, service", []int{1, maxCallers}, calls(entry{}, func(b *bench) opener { return b.replay }))
	add("place uniform, service", []int{1, maxCallers}, calls(entry{Orders: 1, Units: 2}, func(b *bench) opener {
		return b.place(uniform)
	}))
	add("place hot, service", []int{maxCallers}, calls(entry{Orders: 1, Units: 1}, func(b *bench) opener {
		return b.place(hot)
	}))
	add("list a buyer's orders", []int{8}, calls(entry{}, func(b *bench) opener { return b.list }))
	add("look for work that is due", []int{1}, calls(entry{}, func(b *bench) opener { return b.lookForWork }))
	add("check the last minute", []int{1}, calls(entry{}, func(b *bench) opener { return b.checkSince }))
	return scenarios, notes, failed
}

// relayOfOrders is the relay of the events of orders that are placed while the clock stands.
func (b *bench) relayOfOrders(ctx context.Context, js jetstream.JetStream, prefix string) (side, error) {
	relay, err := b.openRelay(ctx, b.ours, js, prefix, time.Hour)
	if err != nil {
		return side{}, err
	}
	placing := side{open: b.place(uniform)}
	drain := drained(b.ours, relay, func(ctx context.Context) error {
		for placed := 0; placed < waiting; {
			got, err := placing.load(ctx, maxCallers, minRound)
			if err != nil {
				return err
			}
			placed += got.calls
		}
		return nil
	})
	return side{run: func(ctx context.Context, callers int, _ time.Duration) (sample, error) {
		return drain(ctx, callers, minRound) // one backlog: to place it takes longer than to send it
	}}, nil
}

// list reads a buyer's newest orders and the page after them.
func (b *bench) list(_ context.Context, n int) (caller, func(), error) {
	const limit = 20
	return func(ctx context.Context) error {
		page, _, err := b.orders.List(ctx, b.buyers[n].id, limit, nil)
		if err != nil || len(page) == 0 {
			return errors.Join(errors.New("a buyer without orders"), err)
		}
		_, _, err = b.orders.List(ctx, b.buyers[n].id, limit, &page[len(page)-1].ID)
		return err
	}, nothing, nil
}

// lookForWork does what the background does all the time, and mostly for nothing: nothing is due.
func (b *bench) lookForWork(context.Context, int) (caller, func(), error) {
	client := psp.NewClient("http://127.0.0.1", providerTimeout) // nobody asks it
	reconciling := payments.New(b.ours, b.orders, client, policy, time.Now, nil, slog.New(slog.DiscardHandler))
	return func(ctx context.Context) error {
		expired, err := b.orders.ExpireOnce(ctx)
		if err != nil {
			return err
		}
		reconciled, err := reconciling.ReconcileOnce(ctx)
		if err != nil || expired+reconciled > 0 {
			return errors.Join(fmt.Errorf("%d orders expired, %d charges were reconciled", expired, reconciled), err)
		}
		return nil
	}, client.CloseIdleConnections, nil
}

// checkSince is `shop check --since` without the witnesses, which these orders did not have.
func (b *bench) checkSince(context.Context, int) (caller, func(), error) {
	return func(ctx context.Context) error {
		return b.hold(ctx, check.Sources{DB: b.ours, Since: time.Minute})
	}, nothing, nil
}

// oldKeys is how many of each buyer's old orders are asked for again; their keys are as good as
// drawn by lot.
const oldKeys = 64

// findForReplay gives each buyer orders of long ago to ask for again.
func (b *bench) findForReplay(ctx context.Context) error {
	b.placed = make([][]placed, maxCallers)
	for n, buyer := range b.buyers {
		rows, err := b.ours.Query(ctx, `SELECT o.idempotency_key, l.sku, o.answer FROM orders o
			JOIN order_lines l ON l.order_id = o.id
			WHERE o.customer_id = $1 ORDER BY o.idempotency_key LIMIT $2`, buyer.id, oldKeys)
		if err != nil {
			return fmt.Errorf("find old orders: %w", err)
		}
		b.placed[n], err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (p placed, err error) {
			var sku string
			err = row.Scan(&p.command.Key, &sku, &p.answer)
			p.command.CustomerID, p.command.Email, p.command.Lines = buyer.id, email,
				[]orders.LineRequest{{SKU: sku, Quantity: 1}}
			return p, err
		})
		if err != nil || len(b.placed[n]) == 0 {
			return errors.Join(fmt.Errorf("%s has no old orders", buyer.email), err)
		}
	}
	return nil
}
