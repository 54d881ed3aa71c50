package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/problem"
)

// U+0000 in any text of a request is the client's mistake, with the field's name.
func TestNullCharacter(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	admin := shop.Admin(t)
	placed, captured := paid(t, shop, "o", mug)
	order, charge := placed.ID.String(), captured.ID.String()
	before := rows(t, shop)
	for i, c := range []struct{ path, body, field string }{
		{"/v1/orders", `{"email":"a\u0000@example.com","lines":[{"sku":"MUG-ONCE","quantity":1}]}`, "email"},
		{"/v1/orders", `{"email":"a@example.com","lines":[{"sku":"MUG\u0000","quantity":1}]}`, "lines[0].sku"},
		{"/v1/orders", `{"email":"a@example.com","lines":[],"currency":"EU\u0000"}`, "currency"},
		{"/v1/orders", `{"email":"a@example.com","\u0000":1}`, "a field's name"},
		{"/v1/orders/" + order + "/charges", `{"payment_method":"pm_ok\u0000"}`, "payment_method"},
		{"/v1/charges/" + charge + "/refunds", `{"amount":1,"reason":"broken\u0000"}`, "reason"},
		{"/v1/charges/" + charge + "/refunds", `{"amount":1,"reason":"\u0000"}`, "reason"},
		{"/v1/orders/" + order + "/cancel", `{"why":"\u0000"}`, "why"},
		{"/v1/deliveries", `{"lines":[{"sku":"\u0000","quantity":1}]}`, "lines[0].sku"},
	} {
		for _, body := range []string{c.body, strings.ReplaceAll(c.body, `\u0000`, "\x00")} {
			got := admin.Post(t.Context(), c.path, fmt.Sprint("k", i), body)
			var p problem.Problem
			got.JSON(t, &p)
			if got.Status != http.StatusBadRequest || body == c.body && !strings.Contains(p.Detail, c.field) {
				t.Errorf("%s %q: got %d %s", c.path, body, got.Status, got.Body)
			}
		}
	}
	for path, status := range map[string]int{"/v1/orders?limit=%00": 400, "/v1/orders?after=%00": 400,
		"/v1/orders/%00": 404, "/v1/charges/%00": 404, "/v1/refunds/%00": 404,
		"/v1/orders/" + order + "%00": 404, "/v1/%00": 404} {
		if got := admin.Get(t.Context(), path); got.Status != status {
			t.Errorf("%s: got %d %s", path, got.Status, got.Body)
		}
	}
	if after := rows(t, shop); after != before {
		t.Errorf("rows before %s, after %s", before, after)
	}
}
