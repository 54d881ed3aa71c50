package orders_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// hold runs statements in a transaction that stays open until the returned function is called or
// the test ends.
func (b *bundle) hold(t testing.TB, sql string, args ...any) (release func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), b.url)
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	release = func() { once.Do(func() { _ = conn.Close(context.WithoutCancel(t.Context())) }) }
	t.Cleanup(release)
	for _, statement := range []string{"BEGIN", sql} {
		if statement == "BEGIN" {
			_, err = conn.Exec(t.Context(), statement)
		} else {
			_, err = conn.Exec(t.Context(), statement, args...)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return release
}

// keepTrying places the order again and again, as clients without manners do, until the test's
// measurement is over.
func (b *bundle) keepTrying(ctx context.Context, c orders.PlaceOrder) {
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, _ = b.shop.Place(try, c)
		cancel()
	}
}

// One bad buyer or row leaves the other buyers most of their speed.
//
//nolint:paralleltest,tparallel // one measurement at a time
func TestOneBadBuyerDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	for name, disturb := range map[string]func(t *testing.T, b *bundle) []orders.PlaceOrder{
		"255 meanings of one key, of which none is in stock": func(t *testing.T, b *bundle) (bad []orders.PlaceOrder) {
			b.deliver(t, line("CUP", 1))
			for i := range int64(255) {
				bad = append(bad, b.order("k", line("CUP", 2+i)))
			}
			return bad
		},
		"255 meanings of one key, of which all are in stock": func(t *testing.T, b *bundle) (bad []orders.PlaceOrder) {
			b.deliver(t, line("CUP", 1000))
			for i := range int64(255) {
				bad = append(bad, b.order("k", line("CUP", 2+i)))
			}
			return bad
		},
		"a locked row of stock": func(t *testing.T, b *bundle) (bad []orders.PlaceOrder) {
			b.deliver(t, line("CUP", 1000))
			b.hold(t, "SELECT FROM stock WHERE sku = 'CUP' FOR UPDATE")
			for i := range 20 {
				bad = append(bad, b.order(dedup.Key(fmt.Sprint("cup", i)), line("CUP", 1)))
			}
			return bad
		},
		"a locked customer": func(t *testing.T, b *bundle) []orders.PlaceOrder {
			b.deliver(t, line("CUP", 1000))
			bob := b.order("k", line("CUP", 1))
			bob.CustomerID = b.newCustomer(t)
			b.hold(t, "SELECT FROM customers WHERE id = $1 FOR UPDATE", bob.CustomerID)
			return []orders.PlaceOrder{bob}
		},
		"a key that another transaction is using": func(t *testing.T, b *bundle) []orders.PlaceOrder {
			b.deliver(t, line("CUP", 1000))
			b.hold(t, `INSERT INTO orders (id, customer_id, idempotency_key, fingerprint, answer, email, status,
				currency, total, created_at)
				VALUES (gen_random_uuid(), $1, 'k', sha256('x'), 'x', 'x', 'placed', 'EUR', 1, now())`, b.alice)
			return []orders.PlaceOrder{b.order("k", line("CUP", 1))}
		},
		"an order that the table refuses": func(t *testing.T, b *bundle) []orders.PlaceOrder {
			b.deliver(t, line("CUP", 1000))
			b.exec(t, "ALTER TABLE orders ADD CHECK (email <> 'bad@example.com')")
			bad := b.order("k", line("CUP", 1))
			bad.Email = "bad@example.com"
			return []orders.PlaceOrder{bad}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.deliver(t, line("TEA", 1_000_000))
			bad := disturb(t, b)
			buy := func(rounds int) time.Duration {
				begun := time.Now()
				shoptest.Race(8, func(int) bool {
					for range rounds {
						b.place(t, b.order(dedup.Key(uuid.NewString()), line("TEA", 1)))
					}
					return true
				})
				return time.Since(begun)
			}
			shoptest.Isolated(t, 50, shoptest.Beside(t, buy, func(ctx context.Context) {
				shoptest.Race(len(bad), func(i int) bool { b.keepTrying(ctx, bad[i]); return true })
			}))
		})
	}
}

// Buyers of a locked row get their order as soon as it is free, or an error that tells them to come
// back.
func TestBuyersOfALockedRow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 100), line("TEA", 100))
	release := b.hold(t, "SELECT FROM stock WHERE sku = 'CUP' FOR UPDATE")
	begun := time.Now()
	impatient, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := b.shop.Place(impatient, b.order("impatient", line("CUP", 1))); !pg.IsUnavailable(err) {
		t.Errorf("%v, want an error that means to come back", err)
	}
	patient := make(chan error)
	go func() {
		_, err := b.shop.Place(t.Context(), b.order("patient", line("CUP", 1), line("TEA", 1)))
		patient <- err
	}()
	b.place(t, b.order("other", line("TEA", 1)))
	if took := time.Since(begun); took > 3*time.Second { // the first buyer took one of them
		t.Errorf("another buyer was served after %s", took)
	}
	release()
	if err := <-patient; err != nil {
		t.Error(err)
	}
	if cups := b.available(t, "CUP"); cups != 99 && cups != 98 { // the impatient one may have been in time
		t.Errorf("%d cups are left", cups)
	}
	b.place(t, b.order("impatient", line("CUP", 1)))
}

// Orders that cannot expire keep no other from it, however many they are.
func TestOrdersThatCannotExpire(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	b := setup(t)
	const bad, good = 250, 10
	b.deliver(t, line("CUP", bad), line("TEA", good))
	for i := range bad {
		b.place(t, b.order(dedup.Key(fmt.Sprint("bad", i)), line("CUP", 1)))
	}
	b.late(t)
	b.exec(t, "ALTER TABLE stock ADD CONSTRAINT no_room CHECK (sku <> 'CUP' OR available <= 0)")
	for i := range good {
		b.place(t, b.order(dedup.Key(fmt.Sprint("good", i)), line("TEA", 1)))
	}
	b.exec(t, "UPDATE orders SET expires_at = now() - interval '1 minute' WHERE idempotency_key LIKE 'good%'")
	begun := time.Now()
	for _, want := range []int{100, 100, bad + good - 200, 0} {
		expireOnce(t, b.shop, want)
		// A machine so slow that their pause ends during the next rounds would try them again.
		b.exec(t, `UPDATE failed_expiries SET retry_at = retry_at + interval '1 hour'
			WHERE retry_at < now() + interval '30 minutes'`)
	}
	if n := b.count(t, "SELECT count(*) FROM orders WHERE status = 'expired'"); n != good {
		t.Errorf("%d orders expired, want %d", n, good)
	}
	if n := b.count(t, "SELECT count(*) FROM failed_expiries WHERE failures = 1 AND retry_at > $1",
		begun.Add(time.Hour+10*time.Second)); n != bad {
		t.Errorf("%d orders are put off, want %d", n, bad)
	}
	b.exec(t, "UPDATE failed_expiries SET retry_at = now() - interval '1 second'")
	begun = time.Now()
	expireOnce(t, b.shop, 100)
	if n := b.count(t, "SELECT count(*) FROM failed_expiries WHERE failures = 2 AND retry_at > $1",
		begun.Add(20*time.Second)); n != 100 {
		t.Errorf("%d orders are put off for longer, want 100", n)
	}
	b.exec(t, "ALTER TABLE stock DROP CONSTRAINT no_room")
	b.exec(t, "UPDATE failed_expiries SET retry_at = now() - interval '1 second'")
	for _, want := range []int{100, 100, 50, 0} {
		expireOnce(t, b.shop, want)
	}
}

// An order that cannot expire leaves the others most of their speed.
func TestOneOrderDoesNotStopTheExpiryOfOthers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 1000), line("TEA", 100_000))
	b.exec(t, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'poisoned'; END $$`)
	b.exec(t, `CREATE TRIGGER poison BEFORE INSERT ON stock_movements FOR EACH ROW
		WHEN (NEW.kind = 'released' AND NEW.sku = 'CUP') EXECUTE FUNCTION refuse()`)
	shoptest.Isolated(t, 20, func(rounds int, poisoned bool) time.Duration {
		if poisoned {
			b.place(t, b.order(dedup.Key(uuid.NewString()), line("CUP", 1)))
		}
		shoptest.Race(8, func(int) bool {
			for range rounds {
				b.place(t, b.order(dedup.Key(uuid.NewString()), line("TEA", 1)))
			}
			return true
		})
		b.exec(t, "UPDATE orders SET expires_at = now() - interval '1 day' WHERE status = 'placed'")
		b.exec(t, "UPDATE failed_expiries SET retry_at = now() - interval '1 second'")
		begun := time.Now()
		for {
			handled, err := b.shop.ExpireOnce(t.Context())
			if err != nil {
				t.Error(err)
			}
			if handled == 0 {
				return time.Since(begun)
			}
		}
	})
}

// Orders whose stock is locked are put off, and the others expire meanwhile.
func TestExpiryBesideALockedRow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 3), line("TEA", 1))
	for i := range 3 {
		b.place(t, b.order(dedup.Key(fmt.Sprint("cup", i)), line("CUP", 1)))
	}
	tea := b.place(t, b.order("tea", line("TEA", 1))).ID
	b.late(t)
	release := b.hold(t, "SELECT FROM stock WHERE sku = 'CUP' FOR UPDATE")
	begun := time.Now()
	expireOnce(t, b.shop, 4)
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("expiry took %s beside a locked row", took)
	}
	if status := b.status(t, tea); status != orders.Expired {
		t.Errorf("the other order is %s", status)
	}
	release()
	b.exec(t, "UPDATE failed_expiries SET retry_at = now() - interval '1 second'")
	expireOnce(t, b.shop, 3)
}
