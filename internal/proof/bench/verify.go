package bench

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
)

// entry is a state of the books, or a change of them, in rows and units.
type entry struct {
	Orders, Units, Paid int64
}

// books are what a twin's tables say.
type books struct {
	pool *pgxpool.Pool
}

// page is what the books say at a moment.
type page struct {
	entry
	// Available is the stock, Scarcest the stock of what there is least of, Moved and Told what the
	// movements and the events say.
	Available, Scarcest, Moved, Told int64
}

func (b *books) read(ctx context.Context) (page, error) { return b.readSince(ctx, uuid.Nil) }

// readSince leaves out the orders, events, lines and movements of ids before since, if any: they do
// not change, and may be too many to count.
func (b *books) readSince(ctx context.Context, since uuid.UUID) (p page, err error) {
	newer := func(column string) string {
		if since == uuid.Nil {
			return "true"
		}
		return column + " > '" + since.String() + "'"
	}
	err = b.pool.QueryRow(ctx, `SELECT
		(SELECT count(*) FROM orders WHERE `+newer("id")+`),
		(SELECT count(*) FROM orders WHERE status = 'paid' AND `+newer("id")+`),
		(SELECT coalesce(sum(quantity), 0)::bigint FROM order_lines WHERE `+newer("order_id")+`),
		(SELECT sum(available)::bigint FROM stock),
		(SELECT min(available) FROM stock),
		(SELECT coalesce(sum(quantity), 0)::bigint FROM stock_movements WHERE kind = 'reserved'
			AND `+newer("order_id")+`),
		(SELECT count(*) FROM outbox WHERE type = 'order.placed' AND `+newer("id")+`)`).
		Scan(&p.Orders, &p.Paid, &p.Units, &p.Available, &p.Scarcest, &p.Moved, &p.Told)
	if err != nil {
		return p, fmt.Errorf("read the books: %w", err)
	}
	return p, nil
}

// verify compares what the books say before and after with the answers that callers got.
func verify(before, after page, answered entry) error {
	for _, c := range []struct {
		what      string
		got, want int64
	}{
		{"orders in the table, of as many acknowledged", after.Orders - before.Orders, answered.Orders},
		{"paid orders in the table, of as many acknowledged", after.Paid - before.Paid, answered.Paid},
		{"units in the orders' lines, of as many acknowledged", after.Units - before.Units, answered.Units},
		{"units taken from the stock, of as many sold", before.Available - after.Available, answered.Units},
		{"units in the movements, of as many sold", after.Moved - before.Moved, answered.Units},
		{"events, of as many orders", after.Told - before.Told, answered.Orders},
	} {
		if c.got != c.want {
			return fmt.Errorf("%s: %d, expected %d", c.what, c.got, c.want)
		}
	}
	if after.Scarcest < 0 {
		return fmt.Errorf("oversold: a product has %d units left", after.Scarcest)
	}
	return nil
}
