package payments_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// hold runs a statement in a transaction that stays open until the returned function is called or
// the test ends.
func (b *bundle) hold(t testing.TB, sql string, args ...any) (release func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), b.url)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := conn.Begin(t.Context())
	if err == nil {
		_, err = tx.Exec(t.Context(), sql, args...)
	}
	if err != nil {
		t.Fatal(err)
	}
	release = func() { _ = conn.Close(context.WithoutCancel(t.Context())) }
	t.Cleanup(release)
	b.held = append(b.held, release)
	return release
}

// letGo frees what hold has kept and settles the charges that begin then: the statements of a buyer
// who has left may still wait at the server.
func (b *bundle) letGo(t testing.TB) {
	t.Helper()
	for _, release := range b.held {
		release()
	}
	shoptest.EndSessions(t, b.pool)
	b.settleAll(t)
}

// One bad buyer or row leaves the other buyers most of their speed.
//
//nolint:paralleltest,tparallel // one measurement at a time
func TestOneBadChargeDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	const forUpdate = "SELECT FROM orders WHERE id = $1 FOR UPDATE"
	for name, disturb := range map[string]func(t *testing.T, b *bundle) []payments.ChargeOrder{
		"a locked order": func(t *testing.T, b *bundle) (bad []payments.ChargeOrder) {
			order := b.place(t)
			b.hold(t, forUpdate, order.ID)
			for i := range 8 {
				bad = append(bad, b.chargeOf(order, dedup.Key(fmt.Sprint(i))))
			}
			return bad
		},
		"a key that another transaction is using": func(t *testing.T, b *bundle) []payments.ChargeOrder {
			order, other := b.place(t), b.place(t)
			b.hold(t, `INSERT INTO charges (id, order_id, customer_id, idempotency_key, fingerprint, status, amount,
				currency, payment_method, provider, lease_until, created_at)
				VALUES (gen_random_uuid(), $1, $2, 'k', sha256('x'), 'pending', 1, 'EUR', 'pm_ok', 'x', now(), now())`,
				other.ID, b.alice)
			return []payments.ChargeOrder{b.chargeOf(order, "k")}
		},
		"200 keys for one order": func(t *testing.T, b *bundle) (bad []payments.ChargeOrder) {
			order := b.place(t)
			b.charge(t, order, "paid", 201)
			for i := range 200 {
				bad = append(bad, b.chargeOf(order, dedup.Key(fmt.Sprint(i))))
			}
			return bad
		},
		"a charge that the table refuses": func(t *testing.T, b *bundle) []payments.ChargeOrder {
			b.exec(t, "ALTER TABLE charges ADD CHECK (idempotency_key <> 'bad')")
			return []payments.ChargeOrder{b.chargeOf(b.place(t), "bad")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			bad := disturb(t, b)
			buy := func(rounds int) time.Duration {
				waiting := make(chan orders.Order, 8*rounds)
				for range 8 * rounds {
					waiting <- b.place(t)
				}
				begun := time.Now()
				shoptest.Race(8, func(int) bool {
					for range rounds {
						b.charge(t, <-waiting, dedup.Key(uuid.NewString()), 201)
					}
					return true
				})
				return time.Since(begun)
			}
			shoptest.Isolated(t, 20, shoptest.Beside(t, buy, func(ctx context.Context) {
				shoptest.Race(len(bad), func(i int) bool {
					for ctx.Err() == nil {
						try, cancel := context.WithTimeout(ctx, 5*time.Second)
						_, _ = b.shop.Charge(try, bad[i])
						cancel()
					}
					return true
				})
			}))
			b.letGo(t)
		})
	}
}

// A charge of a locked order begins as soon as the order is free, or its buyer is told to come
// back.
func TestChargeOfALockedOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	order := b.place(t)
	release := b.hold(t, "SELECT FROM orders WHERE id = $1 FOR UPDATE", order.ID)
	begun := time.Now()
	impatient, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := b.shop.Charge(impatient, b.chargeOf(order, "k")); !pg.IsUnavailable(err) {
		t.Errorf("%v, want an error that means to come back", err)
	}
	patient := make(chan error)
	go func() {
		_, err := b.shop.Charge(t.Context(), b.chargeOf(order, "k"))
		patient <- err
	}()
	b.charge(t, b.place(t), "other", 201)
	if took := time.Since(begun); took > 3*time.Second { // the first buyer took one of them
		t.Errorf("another buyer was served after %s", took)
	}
	release()
	if err := <-patient; err != nil {
		t.Error(err)
	}
	b.expectTrail(t, order, paidOnce)
}

// A charge that cannot be settled leaves the others most of their speed.
func TestOneChargeDoesNotStopTheReconcilerOfOthers(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	b := setup(t)
	poisoned := b.place(t)
	b.exec(t, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'poisoned'; END $$`)
	b.exec(t, `CREATE TRIGGER poison BEFORE UPDATE ON charges FOR EACH ROW
		WHEN (NEW.status = 'succeeded' AND NEW.idempotency_key = '`+poisoned.ID.String()+`') EXECUTE FUNCTION refuse()`)
	b.crash(t, poisoned, true)
	shoptest.Isolated(t, 10, func(rounds int, due bool) time.Duration {
		for range 8 * rounds {
			b.crash(t, b.place(t), true)
		}
		b.timePasses(t)
		if !due {
			b.exec(t, "UPDATE charges SET lease_until = now() + interval '1 day' WHERE order_id = $1", poisoned.ID)
		}
		begun := time.Now()
		for b.count(t, "SELECT count(*) FROM orders WHERE status = 'paying' AND id <> $1", poisoned.ID) > 0 {
			b.reconcile(t)
		}
		return time.Since(begun)
	})
	b.exec(t, "DROP TRIGGER poison ON charges")
	b.settleAll(t)
}

// Charges that cannot be settled do not keep the reconciler from the others.
func TestReconcilePoison(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	b := setup(t)
	const bad, good = 50, 50
	begun := make([]orders.Order, bad+good)
	for i := range begun {
		begun[i] = b.place(t)
		b.crash(t, begun[i], true)
	}
	poisoned := make([]uuid.UUID, bad)
	for i, order := range begun[:bad] {
		poisoned[i] = order.ID
	}
	b.exec(t, "CREATE TABLE poisoned AS SELECT unnest($1::uuid[]) AS order_id", poisoned)
	b.exec(t, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.status = 'succeeded' AND NEW.order_id IN (SELECT order_id FROM poisoned) THEN
			RAISE EXCEPTION 'poisoned';
		END IF;
		RETURN NEW;
		END $$`)
	b.exec(t, "CREATE TRIGGER poison BEFORE UPDATE ON charges FOR EACH ROW EXECUTE FUNCTION refuse()")
	b.timePasses(t)
	begin := time.Now()
	for b.count(t, "SELECT count(*) FROM orders WHERE status = 'paid'") < good {
		b.reconcile(t)
		if time.Since(begin) > within {
			t.Fatal("the others are not settled")
		}
	}
	b.exec(t, "DROP TRIGGER poison ON charges")
	b.settleAll(t)
}
