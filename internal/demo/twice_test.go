package demo_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/api"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/demo/twice"
	"github.com/onceshop/onceshop/web/docs"
)

// TestSendTwice presses the button of every call that needs a key.
func TestSendTwice(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1, func(c *app.Config) { c.Sections = append(c.Sections, twice.Section()) })
	document, err := docs.Read(api.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	pressed := 0
	for _, group := range document.Groups {
		for _, call := range group.Calls {
			action := "/docs/twice/" + call.ID
			_, page := send(t, http.MethodGet, shop.Nodes[0]+"/docs/"+call.ID)
			if offered := strings.Contains(page, `action="`+action+`"`); offered != call.Keyed() {
				t.Errorf("%s: the button is there: %t, want %t", call.ID, offered, call.Keyed())
			}
			status, result := send(t, http.MethodPost, shop.Nodes[0]+action)
			if !call.Keyed() {
				if status != http.StatusNotFound {
					t.Errorf("%s: %d", call.ID, status)
				}
				continue
			}
			pressed++
			if status != http.StatusOK || !strings.Contains(result, "It happened once.") ||
				strings.Count(result, ">replayed<") != 1 || strings.Count(result, "<b>20") != 2 {
				t.Errorf("%s: %d\n%s", call.ID, status, result)
			}
		}
	}
	// The orders of placeOrder, chargeOrder, cancelOrder and refundCharge.
	if n := shop.Count(t, "SELECT count(*) FROM orders"); n != 4 || pressed != 5 {
		t.Errorf("%d orders after %d presses", n, pressed)
	}
	if n := shop.Count(t, "SELECT count(*) FROM refunds"); n != 1 {
		t.Errorf("%d refunds", n)
	}
}
