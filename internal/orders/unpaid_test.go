package orders_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// A burst of orders over two nodes gets exactly as many as may be open, whoever of the guests of a
// network sends them.
func TestBurstDoesNotExceedTheUnpaidLimit(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]orders.UnpaidLimit{
		"of a customer": {Customer: 5, From: "a network", Network: 20},
		"of a network":  {Customer: 20, From: "a network", Network: 7},
		"without one":   {From: "a network"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.deliver(t, line("CUP", 1000))
			nodes := []*orders.Service{b.shop, b.node(t)}
			guests := []uuid.UUID{b.alice}
			if name == "of a network" {
				guests = append(guests, b.newCustomer(t), b.newCustomer(t))
			}
			results := shoptest.Race(100, func(i int) error {
				c := b.order(dedup.Key(fmt.Sprint("k", i)), line("CUP", 1))
				c.CustomerID, c.Unpaid = guests[i%len(guests)], limit
				_, err := nodes[i%2].Place(t.Context(), c)
				return err
			})
			want := 100
			switch name {
			case "of a customer":
				want = 5
			case "of a network":
				want = 7
			}
			placed := 0
			for _, err := range results {
				if err == nil {
					placed++
				} else if !errors.Is(err, orders.ErrTooManyUnpaid) {
					t.Error(err)
				}
			}
			if stored := b.count(t, "SELECT count(*) FROM orders"); placed != want || stored != want {
				t.Errorf("%d placed and %d stored, want %d", placed, stored, want)
			}
			if got := b.available(t, "CUP"); got != 1000-want {
				t.Errorf("%d units left, want %d", got, 1000-want)
			}
		})
	}
}

// A refusal leaves the key unused, a replay is no new order, and an order that has ended is
// not counted.
func TestUnpaidLimit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 10))
	order := func(key dedup.Key) error {
		c := b.order(key, line("CUP", 1))
		c.Unpaid = orders.UnpaidLimit{Customer: 2}
		_, err := b.shop.Place(t.Context(), c)
		return err
	}
	for _, key := range []dedup.Key{"k1", "k2", "k1", "k2"} {
		if err := order(key); err != nil {
			t.Fatal(err)
		}
	}
	before := b.snapshot(t)
	if err := order("k3"); !errors.Is(err, orders.ErrTooManyUnpaid) {
		t.Fatalf("got %v", err)
	}
	b.unchanged(t, before)
	b.exec(t, "UPDATE orders SET expires_at = now() - interval '1 second' WHERE idempotency_key = 'k1'")
	if n, err := b.shop.ExpireOnce(t.Context()); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if err := order("k3"); err != nil {
		t.Fatal(err)
	}
	if err := order("k4"); !errors.Is(err, orders.ErrTooManyUnpaid) {
		t.Fatalf("got %v", err)
	}
}
