package api_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// paid returns a paid order and its charge.
func paid(t *testing.T, shop *apptest.Shop, key, body string) (orders.Order, payments.Charge) {
	t.Helper()
	order := place(t, shop.Alice(t), key, body)
	answer := charge(t, shop.Alice(t), order, key, ok)
	expect(t, answer, 201, "")
	var c payments.Charge
	answer.JSON(t, &c)
	return order, c
}

func refundPath(charge uuid.UUID) string { return "/v1/charges/" + charge.String() + "/refunds" }

func cancelPath(order orders.Order) string { return "/v1/orders/" + order.ID.String() + "/cancel" }

func statusOf(t *testing.T, client *apitest.Client, order orders.Order) orders.Status {
	t.Helper()
	var now orders.Order
	client.Get(t.Context(), "/v1/orders/"+order.ID.String()).JSON(t, &now)
	return now.Status
}

// replays expects the same bytes from every node.
func replays(t *testing.T, shop *apptest.Shop, token, path, key string, body any, first apitest.Response) {
	t.Helper()
	for node := range shop.Nodes {
		again := shop.Client(t, node, token).Post(t.Context(), path, key, body)
		if again.Status != first.Status || !bytes.Equal(again.Body, first.Body) ||
			again.Header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("node %d again: %d %s, first %d %s", node, again.Status, again.Body, first.Status, first.Body)
		}
	}
}

// Fifty at once ask for 3 of 100: the constraint lets 33 through, and the provider agrees to the
// cent.
func TestPartialRefundsAtOnce(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 2)
	shop.Exec(t, "INSERT INTO products (sku, name, description, currency, unit_price, position) VALUES ('COIN', "+
		"'Coin', 'A coin.', 'EUR', 100, 99)")
	expect(t, shop.Admin(t).Post(t.Context(), "/v1/deliveries", "coins", `{"lines":[{"sku":"COIN","quantity":1}]}`),
		201, "")
	order, of := paid(t, shop, "o", apptest.OrderBody("alice@example.com", "COIN", 1))
	const three = `{"amount":3}`
	answers := shoptest.Race(50, func(i int) apitest.Response {
		return shop.Client(t, i%2, "demo-admin").Post(t.Context(), refundPath(of.ID), fmt.Sprint("r", i), three)
	})
	done := 0
	for i, answer := range answers {
		if answer.Status != http.StatusCreated {
			expect(t, answer, 409, "refund_exceeds_charge")
			continue
		}
		done++
		var refund payments.Refund
		if answer.JSON(t, &refund); refund.Amount != 3 || refund.Status != payments.Succeeded ||
			refund.ChargeID != of.ID {
			t.Errorf("refund %+v", refund)
		}
		replays(t, shop, "demo-admin", refundPath(of.ID), fmt.Sprint("r", i), three, answer)
	}
	if given := sum(shop.Refunds(t, shop.Captures(t, order.ID.String())[0].ID)); done != 33 || given != 99 {
		t.Errorf("%d refunds succeeded, the provider gave back %d", done, given)
	}
	if status := statusOf(t, shop.Alice(t), order); status != orders.Paid {
		t.Errorf("the order is %s with 1 left", status)
	}
	rest := shop.Admin(t).Post(t.Context(), refundPath(of.ID), "rest", nil)
	expect(t, rest, 201, "")
	var refund payments.Refund
	if rest.JSON(t, &refund); refund.Amount != 1 {
		t.Errorf("the rest is %+v", refund)
	}
	replays(t, shop, "demo-admin", refundPath(of.ID), "rest", `{}`, rest)
	if given := sum(shop.Refunds(t, shop.Captures(t, order.ID.String())[0].ID)); given != 100 ||
		statusOf(t, shop.Alice(t), order) != orders.Refunded {
		t.Errorf("the provider gave back %d, the order is %s", given, statusOf(t, shop.Alice(t), order))
	}
	for _, body := range []string{three, `{}`, `{"amount":1}`} {
		expect(t, shop.Admin(t).Post(t.Context(), refundPath(of.ID), "late", body), 409, "refund_exceeds_charge")
	}
	expect(t, shop.Alice(t).Post(t.Context(), cancelPath(order), "k", nil), 409, "order_not_cancelable")
}

func sum(refunds []payments.ProviderRefund) (total int64) {
	for _, refund := range refunds {
		total += refund.Amount
	}
	return total
}

func TestRefundRequests(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 2)
	order, of := paid(t, shop, "o", mug)
	admin := shop.Admin(t)
	refund := func(key string, body any) apitest.Response {
		return admin.Post(t.Context(), refundPath(of.ID), key, body)
	}
	for _, body := range []string{`{"amount":0}`, `{"amount":-1}`, `{"amount":1.5}`, `{"amount":"1"}`,
		`{"amount":1e30}`, `{"charge_id":"x"}`, `[]`, `{"reason":7}`,
		`{"reason":"` + strings.Repeat("x", 501) + `"}`} {
		expect(t, refund("r", body), 400, "invalid_request")
	}
	expect(t, refund("", `{}`), 400, "idempotency_key_missing")
	for _, token := range []string{"demo-alice", "demo-bob"} {
		for _, id := range []uuid.UUID{of.ID, uuid.New()} {
			expect(t, shop.Client(t, 0, token).Post(t.Context(), refundPath(id), "r", `{}`), 403, "forbidden")
		}
	}
	expect(t, shop.Client(t, 0, "").Post(t.Context(), refundPath(of.ID), "r", `{}`), 401, "unauthorized")
	for _, id := range []string{uuid.NewString(), "7", order.ID.String()} {
		expect(t, admin.Post(t.Context(), "/v1/charges/"+id+"/refunds", "r", `{}`), 404, "not_found")
	}
	expect(t, refund("r", fmt.Sprintf(`{"amount":%d}`, of.Amount+1)), 409, "refund_exceeds_charge")
	if n := shop.Count(t, "SELECT count(*) FROM refunds"); n != 0 {
		t.Errorf("%d refunds", n)
	}
	// None of this has bound the key.
	first := refund("r", `{"amount":5,"reason":"a handle is broken"}`)
	expect(t, first, 201, "")
	replays(t, shop, "demo-admin", refundPath(of.ID), "r", ` { "reason":"a handle is broken", "amount": 5 }`, first)
	for node := range shop.Nodes {
		for _, body := range []string{`{"amount":6,"reason":"a handle is broken"}`, `{"amount":5}`, `{}`} {
			expect(t, shop.Client(t, node, "demo-admin").Post(t.Context(), refundPath(of.ID), "r", body), 422,
				"idempotency_key_reused")
		}
	}
	unpaid := place(t, shop.Alice(t), "o2", mug)
	declined := charge(t, shop.Alice(t), unpaid, "d", `{"payment_method":"pm_declined"}`)
	expect(t, declined, 402, "declined")
	var p struct{ Charge payments.Charge }
	declined.JSON(t, &p)
	expect(t, admin.Post(t.Context(), refundPath(p.Charge.ID), "r2", `{}`), 409, "refund_exceeds_charge")
	var now payments.Charge
	shop.Alice(t).Get(t.Context(), "/v1/charges/"+of.ID.String()).JSON(t, &now)
	if given := sum(shop.Refunds(t, shop.Captures(t, order.ID.String())[0].ID)); now.AmountRefunded != 5 ||
		given != 5 ||
		statusOf(t, shop.Alice(t), order) != orders.Paid {
		t.Errorf("the charge is %+v, the provider gave back %d", now, given)
	}
}

func TestCancelRequests(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 2)
	alice := shop.Alice(t)
	left := func() int64 { return shop.Count(t, "SELECT available FROM stock WHERE sku = 'MUG-ONCE'") }
	before := left()
	placed := place(t, alice, "o1", mug)
	bought, _ := paid(t, shop, "o2", mug)
	for _, id := range []string{placed.ID.String(), bought.ID.String(), uuid.NewString(), "7"} {
		expect(t, shop.Bob(t).Post(t.Context(), "/v1/orders/"+id+"/cancel", "k", nil), 404, "not_found")
	}
	expect(t, alice.Post(t.Context(), cancelPath(placed), "", nil), 400, "idempotency_key_missing")
	expect(t, alice.Post(t.Context(), cancelPath(placed), "k1", `{"reason":"none"}`), 400, "invalid_request")
	for key, c := range map[string]struct {
		order orders.Order
		end   orders.Status
	}{"k1": {placed, orders.Canceled}, "k2": {bought, orders.Refunded}} {
		first := alice.Post(t.Context(), cancelPath(c.order), key, nil)
		expect(t, first, 200, "")
		var order orders.Order
		if first.JSON(t, &order); order.ID != c.order.ID || order.Status != c.end {
			t.Errorf("canceled: %s", first.Body)
		}
		replays(t, shop, "demo-alice", cancelPath(c.order), key, `{}`, first)
		expect(t, alice.Post(t.Context(), cancelPath(c.order), "another"+key, nil), 409, "order_not_cancelable")
		expect(t, charge(t, alice, c.order, "again"+key, ok), 409, "order_not_payable")
	}
	expect(t, alice.Post(t.Context(), cancelPath(bought), "k1", nil), 422, "idempotency_key_reused")
	capture := shop.Captures(t, bought.ID.String())[0]
	shoptest.Eventually(t, 10*time.Second, "the money is back", func() bool {
		return sum(shop.Refunds(t, capture.ID)) == bought.Total
	})
	if now := left(); now != before {
		t.Errorf("%d mugs are left of %d", now, before)
	}
	if n := shop.Count(t, "SELECT count(*) FROM refunds WHERE cause = 'canceled' AND status = 'succeeded'"); n != 1 {
		t.Errorf("%d refunds", n)
	}
}

func TestExpiredOrder(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 2)
	order := place(t, shop.Alice(t), "o", mug)
	shop.Exec(t, "UPDATE orders SET expires_at = now() - interval '1 day'")
	shoptest.Eventually(t, 20*time.Second, "the order expires", func() bool {
		return statusOf(t, shop.Alice(t), order) == orders.Expired
	})
	if left := shop.Count(t, "SELECT available FROM stock WHERE sku = 'MUG-ONCE'"); left != 1000 {
		t.Errorf("%d mugs are left", left)
	}
	expect(t, charge(t, shop.Alice(t), order, "c", ok), 409, "order_not_payable")
	expect(t, shop.Alice(t).Post(t.Context(), cancelPath(order), "k", nil), 409, "order_not_cancelable")
}
