package orders_test

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// late lets the time of all orders run out.
func (b *bundle) late(t testing.TB) {
	t.Helper()
	b.exec(t, "UPDATE orders SET expires_at = now() - interval '1 day'")
}

func (b *bundle) status(t testing.TB, id uuid.UUID) orders.Status {
	t.Helper()
	order, err := b.shop.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return order.Status
}

func expireOnce(t testing.TB, shop *orders.Service, want int) {
	t.Helper()
	if n, err := shop.ExpireOnce(t.Context()); n != want || err != nil {
		t.Errorf("%d orders expired, %v; want %d", n, err, want)
	}
}

func TestExpiryGivesStockBackOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 10), line("TEA", 10))
	placed := b.place(t, b.order("placed", line("CUP", 1), line("TEA", 2), line("CUP", 2))).ID
	paying := b.place(t, b.order("paying", line("CUP", 3))).ID
	if err := change(t, b.pool, b.shop, paying, orders.Paying); err != nil {
		t.Fatal(err)
	}
	paid := b.place(t, b.order("paid", line("TEA", 1))).ID
	payOrder(t, b, paid)
	expireOnce(t, b.shop, 0)
	b.late(t)
	expireOnce(t, b.shop, 2)
	expireOnce(t, b.shop, 0)
	if is := []orders.Status{b.status(t, placed), b.status(t, paying), b.status(t, paid)}; is[0] != orders.Expired ||
		is[1] != orders.Expired || is[2] != orders.Paid {
		t.Errorf("the orders are %s", is)
	}
	if cups, tea := b.available(t, "CUP"), b.available(t, "TEA"); cups != 10 || tea != 9 {
		t.Errorf("%d cups and %d teas are available, want 10 and 9", cups, tea)
	}
}

// Whatever has ended, or is paid, does not expire.
func TestExpiryEndsOpenOrdersOnly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 10))
	ends := map[orders.Status][]orders.Status{
		orders.Paid:     {orders.Paying, orders.Paid},
		orders.Refunded: {orders.Paying, orders.Paid, orders.Refunded},
		orders.Canceled: {orders.Canceled},
		orders.Expired:  {orders.Expired},
	}
	ids := map[orders.Status]uuid.UUID{}
	for end, steps := range ends {
		ids[end] = b.place(t, b.order(dedup.Key(end), line("CUP", 1))).ID
		for _, to := range steps {
			if err := change(t, b.pool, b.shop, ids[end], to); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.late(t)
	before := b.snapshot(t)
	expireOnce(t, b.shop, 0)
	b.unchanged(t, before)
}

// Two nodes, one with a clock that is ten minutes late, share the work, more than a batch of it.
func TestExpiryOnTwoNodes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const many = 150
	b.deliver(t, line("CUP", 2*many), line("TEA", many))
	for i := range many {
		lines := []orders.LineRequest{line("CUP", 1), line("TEA", 1)}
		if i%2 == 0 { // the other way round: stock is locked in SKU order all the same
			lines[0], lines[1] = lines[1], lines[0]
		}
		b.place(t, b.order(dedup.Key(fmt.Sprint(i)), lines...))
	}
	b.late(t)
	nodes := []*orders.Service{b.shop, b.node(t)}
	total := 0
	for range 2 {
		for _, n := range shoptest.Race(4, func(i int) int {
			n, err := nodes[i%2].ExpireOnce(t.Context())
			if err != nil {
				t.Error(err)
			}
			return n
		}) {
			total += n
		}
	}
	if expired := b.count(t, "SELECT count(*) FROM orders WHERE status = 'expired'"); total != many || expired != many {
		t.Errorf("the nodes expired %d orders, %d have", total, expired)
	}
	if cups, tea := b.available(t, "CUP"), b.available(t, "TEA"); cups != 2*many || tea != many {
		t.Errorf("%d cups and %d teas are available", cups, tea)
	}
}

// An order that is being paid has the expiry twice, a declined one only once. The time is the
// setting's, by the database's clock.
func TestPayingDelaysTheExpiryOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 2))
	shop := orders.New(b.pool, 5*time.Minute, func() time.Time {
		return time.Now().Add(-time.Hour)
	}, slog.New(slog.DiscardHandler))
	answer, err := shop.Place(t.Context(), b.order("k", line("CUP", 1)))
	if err != nil {
		t.Fatal(err)
	}
	change := func(to orders.Status) {
		t.Helper()
		if err := change(t, b.pool, shop, answer.ID, to); err != nil {
			t.Fatal(err)
		}
	}
	pass := func(minutes int) {
		b.exec(t, "UPDATE orders SET expires_at = expires_at - make_interval(mins => $1)", minutes)
	}
	pass(4)
	expireOnce(t, shop, 0)
	change(orders.Paying)
	pass(5) // 9 minutes old
	expireOnce(t, shop, 0)
	change(orders.Placed)
	change(orders.Paying)
	expireOnce(t, shop, 0)
	pass(2) // 11 minutes old
	expireOnce(t, shop, 1)
	if is := b.status(t, answer.ID); is != orders.Expired {
		t.Errorf("the order is %s", is)
	}
}

func TestDeclineDoesNotMoveTheExpiry(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 2))
	id := b.place(t, b.order("k", line("CUP", 1))).ID
	for _, to := range []orders.Status{orders.Paying, orders.Placed} {
		if err := change(t, b.pool, b.shop, id, to); err != nil {
			t.Fatal(err)
		}
	}
	b.exec(t, "UPDATE orders SET expires_at = now() - interval '1 second'")
	expireOnce(t, b.shop, 1)
}

// An order that somebody works on is left alone, and has its end when they are done.
func TestExpiryDoesNotWaitForALockedOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 2))
	busy := b.place(t, b.order("busy", line("CUP", 1))).ID
	idle := b.place(t, b.order("idle", line("CUP", 1))).ID
	b.late(t)
	rollback := errors.New("not now")
	err := pg.InPipe(t.Context(), b.pool, func(tx *pg.Pipe) error {
		b.shop.LockTx(tx, busy)
		if err := tx.Flush(t.Context()); err != nil {
			return err
		}
		expireOnce(t, b.shop, 1)
		return rollback
	})
	if !errors.Is(err, rollback) {
		t.Error(err)
	}
	if b.status(t, busy) != orders.Placed || b.status(t, idle) != orders.Expired {
		t.Errorf("the busy order is %s, the idle one %s", b.status(t, busy), b.status(t, idle))
	}
	expireOnce(t, b.shop, 1)
}
