package api_test

import (
	"net/http"
	"testing"

	"github.com/onceshop/onceshop/internal/app/apptest"
)

// A member that is null means the same as one that is absent: clients write optional fields in both
// ways. A member that cannot be absent cannot be null.
func TestNullIsAbsent(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	admin := shop.Admin(t)
	_, captured := paid(t, shop, "o", mug)
	refunds := refundPath(captured.ID)
	for _, c := range []struct{ key, path, absent, null string }{
		{"order", "/v1/orders", `{"email":"a@example.com","lines":[{"sku":"MUG-ONCE","quantity":1}]}`,
			`{"currency":null,"email":"a@example.com","lines":[{"sku":"MUG-ONCE","quantity":1}],
				"expected_total":null}`},
		{"part", refunds, `{"amount":5}`, `{"reason":null,"amount":5}`},
		{"rest", refunds, `{}`, `{"amount":null,"reason":null}`},
	} {
		first := admin.Post(t.Context(), c.path, c.key, c.absent)
		replay := admin.Post(t.Context(), c.path, c.key, c.null)
		if first.Status != http.StatusCreated || replay.Status != first.Status ||
			string(replay.Body) != string(first.Body) || replay.Header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("%s: got %d %s and %d %s", c.key, first.Status, first.Body, replay.Status, replay.Body)
		}
	}
	for _, body := range []string{
		`{"email":null,"lines":[{"sku":"MUG-ONCE","quantity":1}]}`,
		`{"email":"a@example.com","lines":null}`,
		`{"email":"a@example.com","lines":[null]}`,
		`{"email":"a@example.com","lines":[{"sku":null,"quantity":1}]}`,
		`{"email":"a@example.com","lines":[{"sku":"MUG-ONCE","quantity":null}]}`,
		`{"email":"a@example.com","lines":[{"sku":"MUG-ONCE","quantity":1.0}]}`,
	} {
		if got := admin.Post(t.Context(), "/v1/orders", "required", body); got.Status != http.StatusBadRequest {
			t.Errorf("%s: got %d %s", body, got.Status, got.Body)
		}
	}
}
