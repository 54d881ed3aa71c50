package api_test

import (
	"bytes"
	"net/http"
	"testing"

	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/problem"
)

func TestExpectedTotal(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	alice := shop.Alice(t)
	order := func(key, shown string) apitest.Response {
		return alice.Post(t.Context(), "/v1/orders", key,
			`{"email":"alice@example.com","lines":[{"sku":"MUG-ONCE","quantity":2}]`+shown+`}`)
	}
	changed := func(what string, got apitest.Response, total int64) {
		t.Helper()
		var p problem.Problem
		got.JSON(t, &p)
		if got.Status != 409 || p.Code != "price_changed" || p.Total == nil || *p.Total != total ||
			p.Currency != "EUR" || !p.SafeNewKey {
			t.Errorf("%s: got %d %s", what, got.Status, got.Body)
		}
	}
	const asked = `,"expected_total":2800,"currency":"EUR"`
	first := order("k1", asked)
	expect(t, first, http.StatusCreated, "")
	changed("another total", order("k2", `,"expected_total":2799`), 2800)
	changed("no total", order("k2", `,"expected_total":0`), 2800)
	changed("another currency", order("k2", `,"expected_total":2800,"currency":"JPY"`), 2800)
	changed("only another currency", order("k2", `,"currency":"USD"`), 2800)
	expect(t, order("k2", `,"currency":"euros"`), 400, "invalid_request")
	expect(t, order("k2", `,"expected_total":28.5`), 400, "invalid_request")
	expect(t, order("k2", `,"expected_total":"2800"`), 400, "invalid_request")

	shop.Exec(t, "UPDATE products SET unit_price = 99900 WHERE sku = 'MUG-ONCE'")
	changed("yesterday's total", order("k2", asked), 199800)
	expect(t, order("k2", `,"expected_total":199800`), http.StatusCreated, "") // the key was unused
	if again := order("k1", asked); again.Status != http.StatusCreated || !bytes.Equal(again.Body, first.Body) {
		t.Errorf("the replay at yesterday's price: %d %s", again.Status, again.Body)
	}
	for _, shown := range []string{"", `,"expected_total":2800`, `,"expected_total":199800,"currency":"EUR"`} {
		expect(t, order("k1", shown), 422, "idempotency_key_reused")
	}
	if n := shop.Count(t, "SELECT count(*) FROM orders"); n != 2 {
		t.Errorf("%d orders", n)
	}
}

func TestUnpaidOrdersOfAToken(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1, func(c *app.Config) { c.PerTokenUnpaid = 1 })
	alice := shop.Alice(t)
	first := alice.Post(t.Context(), "/v1/orders", "k1", mug)
	expect(t, first, http.StatusCreated, "")
	refused := alice.Post(t.Context(), "/v1/orders", "k2", mug)
	expect(t, refused, http.StatusTooManyRequests, "too_many_unpaid_orders")
	var p problem.Problem
	if refused.JSON(t, &p); !p.SafeNewKey || refused.Header.Get("Retry-After") == "" {
		t.Errorf("got %s %v", refused.Body, refused.Header)
	}
	expect(t, alice.Post(t.Context(), "/v1/orders", "k1", mug), http.StatusCreated, "")
	expect(t, shop.Bob(t).Post(t.Context(), "/v1/orders", "k1", mug), http.StatusCreated, "")
	var order orders.Order
	first.JSON(t, &order)
	expect(t, alice.Post(t.Context(), "/v1/orders/"+order.ID.String()+"/cancel", "c1", ""), http.StatusOK, "")
	expect(t, alice.Post(t.Context(), "/v1/orders", "k2", mug), http.StatusCreated, "")
}
