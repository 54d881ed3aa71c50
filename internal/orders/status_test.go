package orders_test

import (
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// move takes Alice's order from where it stands to another status.
func move(t testing.TB, b *bundle, id uuid.UUID, to orders.Status) error {
	t.Helper()
	return pg.InTx(t.Context(), b.pool, func(tx pgx.Tx) error {
		order, err := b.shop.LockTx(t.Context(), tx, id)
		if err != nil {
			return err
		}
		return b.shop.ChangeStatusTx(t.Context(), tx, order, to)
	})
}

func payOrder(t testing.TB, b *bundle, id uuid.UUID) {
	t.Helper()
	for _, to := range []orders.Status{orders.Paying, orders.Paid} {
		if err := move(t, b, id, to); err != nil {
			t.Fatal(err)
		}
	}
}

// Any sequence of wishes moves an order along its life only: each step that is taken writes one event, the end of a
// reservation one sale or release per SKU, and a step that is refused writes nothing.
func TestStatusFollowsTheLifeOfAnOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 1_000_000), line("TEA", 1_000_000))
	all := []orders.Status{orders.Placed, orders.Paying, orders.Paid, orders.Refunded, orders.Canceled, orders.Expired, "", "lost"}
	// Paying and placed are drawn often, or hardly any order would get further than two steps.
	drawn := rapid.OneOf(rapid.SampledFrom(all), rapid.SampledFrom([]orders.Status{orders.Placed, orders.Paying, orders.Paying}))
	rapid.Check(t, func(r *rapid.T) {
		id := b.place(t, b.order(dedup.Key(uuid.NewString()), line("CUP", 2), line("TEA", 1), line("CUP", 1))).ID
		at, events, ended := orders.Placed, 1, 0
		for i, to := range rapid.SliceOfN(drawn, 1, 8).Draw(r, "to") {
			believed := at
			if rapid.IntRange(0, 4).Draw(r, "stale") == 0 {
				believed = rapid.SampledFrom(all).Draw(r, "believed")
			}
			_, legal := life[string(believed)+"→"+string(to)]
			legal = legal && believed == at && believed != ""
			err := pg.InTx(t.Context(), b.pool, func(tx pgx.Tx) error {
				order, err := b.shop.LockTx(t.Context(), tx, id)
				if err != nil {
					return err
				}
				if order.Status != at {
					r.Fatalf("the order is %s, want %s", order.Status, at)
				}
				order.Status = believed
				return b.shop.ChangeStatusTx(t.Context(), tx, order, to)
			})
			if (err == nil) != legal {
				r.Fatalf("step %d, %s (believed %s) → %s: %v, legal: %v", i, at, believed, to, err, legal)
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
		if n := b.count(t, "SELECT count(*) FROM stock_movements WHERE order_id = $1 AND kind <> 'reserved'", id); n != ended {
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
		for _, err := range shoptest.Race(20, func(int) error { return move(t, b, id, to) }) {
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

// A caller who skipped LockTx finds that the order moved on; of two who believe the same, one is right.
func TestStatusWithoutTheLock(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 1))
	order, err := b.shop.Get(t.Context(), b.place(t, b.order("k", line("CUP", 1))).ID)
	if err != nil {
		t.Fatal(err)
	}
	won := 0
	for _, err := range shoptest.Race(20, func(int) error {
		return pg.InTx(t.Context(), b.pool, func(tx pgx.Tx) error {
			return b.shop.ChangeStatusTx(t.Context(), tx, order, orders.Paying)
		})
	}) {
		if err == nil {
			won++
		}
	}
	if won != 1 {
		t.Errorf("%d moved the order, want 1", won)
	}
}

func TestLockOfNoOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	err := pg.InTx(t.Context(), b.pool, func(tx pgx.Tx) error {
		_, err := b.shop.LockTx(t.Context(), tx, uuid.New())
		return err
	})
	if !errors.Is(err, orders.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}
