package faults

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
)

// clerk is the services of a node whose clock is wrong.
type clerk struct {
	orders   *orders.Service
	payments *payments.Service
}

// One node's clock is ten minutes ahead, another's ten minutes behind: leases and expiry go by the
// database's clock, so that neither takes what the other holds, nor leaves what nobody holds.
func TestNodeClockIsWrong(t *testing.T) {
	t.Parallel()
	for name, holder := range map[string]time.Duration{"the holder's is behind": -10 * time.Minute,
		"the holder's is ahead": 10 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t, settings{})
			capture := w.holdRequests("PSP_URL", "POST /v1/captures")
			mine, other := w.clerk(holder), w.clerk(-holder)
			var alice uuid.UUID
			if err := w.Pool.QueryRow(t.Context(),
				"SELECT id FROM customers WHERE email = 'alice@example.com'").Scan(&alice); err != nil {
				t.Fatal(err)
			}
			placed, err := mine.orders.Place(t.Context(),
				orders.PlaceOrder{CustomerID: alice, Key: "order", Email: buyer,
					Lines: []orders.LineRequest{{SKU: "MUG-ONCE", Quantity: 1}}})
			if err != nil {
				t.Fatal(err)
			}
			pay := func(c clerk) (dedup.Answer, error) {
				return c.payments.Charge(t.Context(),
					payments.ChargeOrder{CustomerID: alice, Key: "pay", OrderID: placed.ID,
						PaymentMethod: "pm_error_after_capture"})
			}
			answered := make(chan dedup.Answer, 1)
			go func() {
				answer, err := pay(mine)
				if err != nil {
					t.Error(err)
				}
				answered <- answer
			}()
			capture.await(t)
			if n, err := other.payments.ReconcileOnce(t.Context()); n != 0 || err != nil {
				t.Errorf("the other took %d charges that are held, %v", n, err)
			}
			if n, err := other.orders.ExpireOnce(t.Context()); n != 0 || err != nil {
				t.Errorf("the other let %d orders expire, %v", n, err)
			}
			capture.release()
			if answer := <-answered; answer.Status != http.StatusAccepted {
				t.Errorf("%d %s", answer.Status, answer.Body)
			}
			w.Exec(t, "UPDATE charges SET lease_until = now()")
			if n, err := other.payments.ReconcileOnce(t.Context()); n != 1 || err != nil {
				t.Errorf("the other took %d charges that nobody holds, want 1, %v", n, err)
			}
			if answer, err := pay(mine); err != nil || answer.Status != http.StatusCreated || !answer.Replayed {
				t.Errorf("%+v, %v", answer, err)
			}
			w.node() // for events and receipts
			w.settled()
			w.expect("in the end", paid)
			w.check(0)
		})
	}
}

// clerk returns services on the world's servers. Orders expire after five minutes: half of what the
// clock is wrong by.
func (w *world) clerk(offset time.Duration) clerk {
	now := func() time.Time { return time.Now().Add(offset) }
	provider := psp.NewClient(w.environ["PSP_URL"], 15*time.Second)
	w.t.Cleanup(provider.CloseIdleConnections)
	shop := orders.New(w.Pool, 5*time.Minute, now, quiet)
	policy := payments.Policy{ProviderTimeout: 15 * time.Second, Lease: 30 * time.Second, Horizon: 12 * time.Hour}
	return clerk{orders: shop, payments: payments.New(w.Pool, shop, provider, policy, now, nil, quiet)}
}
