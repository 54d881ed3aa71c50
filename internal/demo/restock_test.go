package demo_test

import (
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/demo/restock"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// The Last One comes back once it has been sold out for a while, one unit, however many nodes see
// that it is gone.
func TestRestockOnce(t *testing.T) {
	t.Parallel()
	pool := shoptest.Pool(t, shoptest.DatabaseURL(t))
	apptest.Seed(t, pool)
	customers := accounts.New(pool, true)
	shop := orders.New(pool, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
	available := func() (n int64) {
		row := pool.QueryRow(t.Context(), "SELECT available FROM stock WHERE sku = 'LAST-ONE'")
		if err := row.Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	look := func(after time.Duration) {
		var nodes sync.WaitGroup
		for range 10 {
			nodes.Go(func() {
				if err := restock.RunOnce(t.Context(), shop, customers, after); err != nil {
					t.Error(err)
				}
			})
		}
		nodes.Wait()
	}
	alice, err := customers.Authenticate(t.Context(), accounts.DemoAlice)
	if err != nil {
		t.Fatal(err)
	}
	look(0)
	if n := available(); n != 1 {
		t.Fatalf("%d available before the sale", n)
	}
	_, err = shop.Place(t.Context(), orders.PlaceOrder{CustomerID: alice.ID, Key: "one", Email: "a@example.com",
		Lines: []orders.LineRequest{{SKU: "LAST-ONE", Quantity: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	look(time.Hour)
	if n := available(); n != 0 {
		t.Errorf("%d available at once after the sale", n)
	}
	look(0)
	if n := available(); n != 1 {
		t.Errorf("%d available after the restock", n)
	}
}
