package orders_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// change moves an order from its present status to another.
func change(t testing.TB, pool *pgxpool.Pool, shop *orders.Service, id uuid.UUID, to orders.Status) error {
	t.Helper()
	return pg.InPipe(t.Context(), pool, func(tx *pg.Pipe) error {
		locked := shop.LockTx(tx, id)
		if err := tx.Flush(t.Context()); err != nil {
			return err
		}
		return shop.ChangeStatusTx(t.Context(), tx, locked, orders.Change{OrderID: id, To: to})
	})
}

func payOrder(t testing.TB, b *bundle, id uuid.UUID) {
	t.Helper()
	for _, to := range []orders.Status{orders.Paying, orders.Paid} {
		if err := change(t, b.pool, b.shop, id, to); err != nil {
			t.Fatal(err)
		}
	}
}

// Any sequence of commands moves an order along its life only: each step that is taken writes one
// event, the end of a reservation one sale or release per SKU, and a step that is refused writes
// nothing.
func TestStatusFollowsTheLifeOfAnOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 1_000_000), line("TEA", 1_000_000))
	all := []orders.Status{orders.Placed, orders.Paying, orders.Paid, orders.Refunded, orders.Canceled, orders.Expired,
		"", "lost"}
	// Paying and placed are drawn often, or hardly any order would get further than two steps.
	drawn := rapid.OneOf(rapid.SampledFrom(all),
		rapid.SampledFrom([]orders.Status{orders.Placed, orders.Paying, orders.Paying}))
	rapid.Check(t, func(r *rapid.T) {
		id := b.place(t, b.order(dedup.Key(uuid.NewString()), line("CUP", 2), line("TEA", 1), line("CUP", 1))).ID
		at, events, ended := orders.Placed, 1, 0
		for i, to := range rapid.SliceOfN(drawn, 1, 8).Draw(r, "to") {
			_, legal := life[string(at)+"→"+string(to)]
			err := change(t, b.pool, b.shop, id, to)
			if (err == nil) != legal {
				r.Fatalf("step %d, %s → %s: %v, legal: %v", i, at, to, err, legal)
			}
			if legal {
				at = to
				events++
			}
			if legal && (to == orders.Paid || to == orders.Canceled || to == orders.Expired) {
				ended += 2
			}
		}
		if n := b.count(t, "SELECT count(*) FROM outbox WHERE order_id = $1", id); n != events {
			r.Fatalf("%d events, want %d", n, events)
		}
		if n := b.count(t, "SELECT count(*) FROM stock_movements WHERE order_id = $1 AND kind <> 'reserved'",
			id); n != ended {
			r.Fatalf("%d movements besides the reservation, want %d", n, ended)
		}
	})
}

func TestStatusOneOfManyWins(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 3))
	id := b.place(t, b.order("k", line("CUP", 3))).ID
	for _, to := range []orders.Status{orders.Paying, orders.Paid} {
		won := 0
		for _, err := range shoptest.Race(20, func(int) error { return change(t, b.pool, b.shop, id, to) }) {
			if err == nil {
				won++
			}
		}
		if won != 1 {
			t.Errorf("%d moved the order to %s, want 1", won, to)
		}
	}
	if n := b.count(t, "SELECT count(*) FROM stock_movements WHERE kind = 'sold' AND quantity = 3"); n != 1 {
		t.Errorf("%d sales, want 1", n)
	}
	if left := b.available(t, "CUP"); left != 0 {
		t.Errorf("%d cups left, want 0: a sale takes nothing that the reservation has not", left)
	}
}

func TestLockOfNoOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if err := change(t, b.pool, b.shop, uuid.New(), orders.Paying); !errors.Is(err, orders.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}

// Transactions that change the same orders, given in any order, take turns. They release
// overlapping stock, which they lock in one order too.
func TestChangesOfManyOrdersDoNotDeadlock(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 100), line("POT", 100), line("TEA", 100))
	nodes := []*orders.Service{b.shop, b.node(t)}
	for round := range 10 {
		var ids []uuid.UUID
		for i := range 6 {
			key := dedup.Key(fmt.Sprint(round, "-", i))
			skus := []string{"CUP", "POT", "TEA"}
			ids = append(ids, b.place(t, b.order(key, line(skus[i%3], 1), line(skus[(i+1)%3], 1))).ID)
		}
		won := 0
		for _, err := range shoptest.Race(8, func(i int) error {
			mine := slices.Clone(ids)
			rand.Shuffle(len(mine), func(a, b int) { mine[a], mine[b] = mine[b], mine[a] })
			pools := append([]*pgxpool.Pool{b.pool}, b.nodes...)
			return pg.InPipe(t.Context(), pools[i%2], func(tx *pg.Pipe) error {
				locked := nodes[i%2].LockTx(tx, mine...)
				if err := tx.Flush(t.Context()); err != nil {
					return err
				}
				var changes []orders.Change
				for _, id := range mine {
					changes = append(changes, orders.Change{OrderID: id, To: orders.Canceled})
				}
				return nodes[i%2].ChangeStatusTx(t.Context(), tx, locked, changes...)
			})
		}) {
			if err == nil {
				won++
			}
		}
		if won != 1 {
			t.Errorf("round %d: %d transactions canceled the orders, want 1", round, won)
		}
	}
	if left := b.available(t, "CUP") + b.available(t, "POT") + b.available(t, "TEA"); left != 300 {
		t.Errorf("%d units left, want all 300 back", left)
	}
	if n := b.deadlocks(t); n != 0 {
		t.Errorf("%d deadlocks, want none", n)
	}
}
