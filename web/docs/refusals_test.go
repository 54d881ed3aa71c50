package docs_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/problem"
)

// TestProblemExamplesAreReal causes the problems that a request can cause, and compares the answers
// with the table's examples.
func TestProblemExamplesAreReal(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	s := &sender{t: t, shop: shop}
	alice, admin := shop.Alice(t), shop.Admin(t)
	order := func(key, lines, more string) string {
		var placed struct{ ID string }
		alice.Post(t.Context(), "/v1/orders", key, `{"email":"alice@example.com","lines":[`+lines+`]`+more+`}`).
			JSON(t, &placed)
		return "/v1/orders/" + placed.ID
	}
	const two = `{"sku":"MUG-ONCE","quantity":2},{"sku":"PIN-KEY","quantity":1}`
	paid, canceled := order("paid", two, ""), order("canceled", two, "")
	var charge struct{ ID string }
	alice.Post(t.Context(), paid+"/charges", "paid", `{"payment_method":"pm_ok"}`).JSON(t, &charge)
	refunds := "/v1/charges/" + charge.ID + "/refunds"
	admin.Post(t.Context(), refunds, "part", `{"amount":500}`)
	alice.Post(t.Context(), canceled+"/cancel", "canceled", nil)

	for _, test := range []struct{ code, token, method, path, key, body string }{
		{"invalid_request", "demo-alice", "POST", "/v1/orders", "k", strings.Replace(oneOrder(two), "2", "0", 1)},
		{"unknown_sku", "demo-alice", "POST", "/v1/orders", "k", oneOrder(`{"sku":"MUG-TWICE","quantity":1}`)},
		{"idempotency_key_missing", "demo-alice", "POST", "/v1/orders", "", oneOrder(two)},
		{"idempotency_key_invalid", "demo-alice", "POST", "/v1/orders", "two words", oneOrder(two)},
		{"unauthorized", "", "GET", "/v1/orders", "", ""},
		{"forbidden", "demo-alice", "POST", "/v1/deliveries", "k", "{}"},
		{"not_found", "demo-bob", "GET", paid, "", ""},
		{"method_not_allowed", "demo-alice", "DELETE", paid, "", ""},
		{"out_of_stock", "demo-alice", "POST", "/v1/orders", "k", oneOrder(`{"sku":"LAST-ONE","quantity":2}`)},
		{"price_changed", "demo-alice", "POST", "/v1/orders", "k",
			strings.Replace(oneOrder(two), "{", `{"expected_total":1,"currency":"EUR",`, 1)},
		{"order_already_paid", "demo-alice", "POST", paid + "/charges", "k", `{"payment_method":"pm_ok"}`},
		{"order_not_payable", "demo-alice", "POST", canceled + "/charges", "k", `{"payment_method":"pm_ok"}`},
		{"order_not_cancelable", "demo-alice", "POST", canceled + "/cancel", "k", ""},
		{"refund_exceeds_charge", "demo-admin", "POST", refunds, "k", `{"amount":3500}`},
		{"too_large", "demo-alice", "POST", "/v1/orders", "k", strings.Repeat(" ", 64<<10+1)},
		{"idempotency_key_reused", "demo-alice", "POST", "/v1/orders", "paid",
			oneOrder(`{"sku":"PIN-KEY","quantity":1}`)},
	} {
		var body any
		if test.body != "" {
			body = test.body
		}
		answer := shop.Client(t, 0, test.token).Do(t.Context(), test.method, test.path, test.key, body)
		kind, _ := problem.Find(test.code)
		if answer.Status != kind.Status || !json.Valid(answer.Body) {
			t.Errorf("%s: %d %s", test.code, answer.Status, answer.Body)
			continue
		}
		s.compare(test.code, string(kind.Example().Body()), string(answer.Body))
	}
}

func oneOrder(lines string) string { return `{"email":"alice@example.com","lines":[` + lines + `]}` }
