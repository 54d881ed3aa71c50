package api_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const ok = `{"payment_method":"pm_ok"}`

func charge(t *testing.T, client *apitest.Client, order orders.Order, key, body string) apitest.Response {
	t.Helper()
	return client.Post(t.Context(), "/v1/orders/"+order.ID.String()+"/charges", key, body)
}

func TestChargeTwinsMoveMoneyOnce(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 2)
	order := place(t, shop.Alice(t), "o", mug)
	answers := shoptest.Race(50, func(i int) apitest.Response {
		client := shop.Client(t, i%2, "demo-alice")
		for {
			answer := charge(t, client, order, "c", ok)
			if answer.Status != http.StatusConflict {
				return answer
			}
			expect(t, answer, 409, "request_in_progress")
			if answer.Header.Get("Retry-After") == "" {
				t.Error("request_in_progress without Retry-After")
			}
		}
	})
	fresh := 0
	for _, a := range answers {
		if a.Status != 201 || !bytes.Equal(a.Body, answers[0].Body) {
			t.Errorf("got %d %s", a.Status, a.Body)
		}
		if a.Header.Get("Idempotent-Replayed") == "" {
			fresh++
		}
	}
	if fresh != 1 {
		t.Errorf("%d answers were no replay", fresh)
	}
	captures := shop.Captures(t, order.ID.String())
	if len(captures) != 1 || captures[0].Amount != order.Total || captures[0].Status != payments.CaptureSucceeded {
		t.Errorf("the provider's captures: %+v", captures)
	}
}

// Two tabs with two keys pay once: the order's one live charge is a unique index.
func TestTwoKeysPayOnce(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 2)
	order := place(t, shop.Alice(t), "o", mug)
	answers := shoptest.Race(20, func(i int) apitest.Response {
		return charge(t, shop.Client(t, i%2, "demo-alice"), order, "c"+string(rune('a'+i)), ok)
	})
	paid := 0
	for _, a := range answers {
		if a.Status == 201 {
			paid++
			continue
		}
		if a.Status != 409 {
			t.Errorf("got %d %s", a.Status, a.Body)
		}
	}
	if captures := shop.Captures(t, order.ID.String()); paid != 1 || len(captures) != 1 {
		t.Errorf("%d charges succeeded, %d captures", paid, len(captures))
	}
	expect(t, charge(t, shop.Alice(t), order, "later", ok), 409, "order_already_paid")
}

func TestDeclinedIsFinalForItsKeyOnly(t *testing.T) {
	t.Parallel()
	for method, code := range map[string]string{"pm_declined": "card_declined",
		"pm_insufficient_funds": "insufficient_funds", "pm_nonsense": "refused_by_provider"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			shop := apptest.Start(t, 2)
			order := place(t, shop.Alice(t), "o", mug)
			first := charge(t, shop.Alice(t), order, "c1", `{"payment_method":"`+method+`"}`)
			expect(t, first, 402, "declined")
			var p struct{ Charge payments.Charge }
			first.JSON(t, &p)
			if p.Charge.Status != payments.Declined || p.Charge.DeclineCode != code {
				t.Errorf("charge %+v", p.Charge)
			}
			for node := range shop.Nodes {
				again := charge(t, shop.Client(t, node, "demo-alice"), order, "c1", `{"payment_method":"`+method+`"}`)
				if again.Status != 402 || !bytes.Equal(again.Body, first.Body) ||
					again.Header.Get("Idempotent-Replayed") != "true" {
					t.Errorf("node %d: %d %s", node, again.Status, again.Body)
				}
				expect(t, charge(t, shop.Client(t, node, "demo-alice"), order, "c1", ok), 422, "idempotency_key_reused")
			}
			var now orders.Order
			shop.Alice(t).Get(t.Context(), "/v1/orders/"+order.ID.String()).JSON(t, &now)
			if now.Status != orders.Placed {
				t.Errorf("the order is %s after a decline", now.Status)
			}
			expect(t, charge(t, shop.Alice(t), order, "c2", ok), 201, "")
			var after payments.Charge
			shop.Alice(t).Get(t.Context(), "/v1/charges/"+p.Charge.ID.String()).JSON(t, &after)
			if after.Status != payments.Declined {
				t.Errorf("the declined charge became %s", after.Status)
			}
		})
	}
}

func TestChargeRequests(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	order := place(t, shop.Alice(t), "o", mug)
	for _, body := range []string{`{}`, `{"payment_method":""}`, `{"payment_method":7}`, `{"payment_method":"pm ok"}`,
		`{"payment_method":"4242424242424242"}`, `{"payment_method":"pm_ok","amount":1}`} {
		expect(t, charge(t, shop.Alice(t), order, "c", body), 400, "invalid_request")
	}
	other := place(t, shop.Alice(t), "o2", mug)
	expect(t, charge(t, shop.Alice(t), order, "c", ok), 201, "")
	expect(t, charge(t, shop.Alice(t), other, "c", ok), 422, "idempotency_key_reused")
}

// Unknown is not failed: the order stays in payment, the key is answered with the charge as it
// stands, and no other key can pay.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	asked := make(chan struct{}, 1)
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-hold
		w.WriteHeader(http.StatusBadGateway)
	}))
	t.Cleanup(provider.Close)
	shop := apptest.Start(t, 1, func(c *app.Config) { c.PSPURL = provider.URL })
	order := place(t, shop.Alice(t), "o", mug)

	done := make(chan apitest.Response)
	go func() { done <- charge(t, shop.Alice(t), order, "c1", ok) }()
	select {
	case <-asked:
	case <-time.After(10 * time.Second):
		t.Fatal("the provider was not asked")
	}
	expect(t, charge(t, shop.Alice(t), order, "c2", ok), 409, "charge_in_progress")
	close(hold)
	first := <-done
	if first.Status != 202 || first.Header.Get("Retry-After") == "" {
		t.Fatalf("got %d %s", first.Status, first.Body)
	}
	var unknown payments.Charge
	first.JSON(t, &unknown)
	if unknown.Status != payments.Unknown {
		t.Errorf("the charge is %s", unknown.Status)
	}
	again := charge(t, shop.Alice(t), order, "c1", ok)
	if again.Status != 202 || !bytes.Equal(again.Body, first.Body) {
		t.Errorf("again: %d %s", again.Status, again.Body)
	}
	other := charge(t, shop.Alice(t), order, "c3", ok)
	expect(t, other, 409, "charge_in_progress")
	var p struct {
		ChargeID string `json:"charge_id"`
	}
	other.JSON(t, &p)
	if p.ChargeID != unknown.ID.String() {
		t.Errorf("charge_id %q", p.ChargeID)
	}
	var now orders.Order
	shop.Alice(t).Get(t.Context(), "/v1/orders/"+order.ID.String()).JSON(t, &now)
	if now.Status != orders.Paying {
		t.Errorf("the order is %s", now.Status)
	}
}
