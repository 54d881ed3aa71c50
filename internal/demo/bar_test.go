package demo_test

import (
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/demo/bar"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// The bar counts what the witnesses hold, turns red when an invariant breaks, and leads to the rows
// that break it.
func TestBarShowsWhatIsBroken(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	b := bar.New(nil)
	shop := apptest.Start(t, 1, func(c *app.Config) { c.Sections = []app.Section{b.Section()} })
	home := shop.Nodes[0]
	b.Show(app.Running{Shop: home, Provider: shop.Config.PSPURL, Mailbox: shop.Mailbox})
	alice := shop.Alice(t)
	var order orders.Order
	alice.Post(t.Context(), "/v1/orders", "one", apptest.OrderBody("alice@example.com", "MUG-ONCE", 1)).JSON(t, &order)
	alice.Post(t.Context(), "/v1/orders/"+order.ID.String()+"/charges", "pay", `{"payment_method":"pm_ok"}`)
	awaitBar := func(wanted ...string) {
		t.Helper()
		shoptest.Eventually(t, time.Minute, "the bar shows "+strings.Join(wanted, ", "), func() bool {
			page := get(t, home+"/orders")
			for _, want := range wanted {
				if !strings.Contains(page, want) {
					return false
				}
			}
			return true
		})
	}
	awaitBar("Mailbox (1)", "Provider (1)", `class="holds"`, " invariants hold", `href="/admin"`)
	if page := string(b.HTML()); !strings.Contains(page, `href="`+home+`/admin"`) {
		t.Errorf("another server's bar does not lead to the shop: %s", page)
	}
	shop.Exec(t, "UPDATE stock SET available = available - 1 WHERE sku = 'MUG-ONCE'")
	awaitBar(`class="broken"`, "invariants broken")
	if page := get(t, home+"/demo/check"); !strings.Contains(page, "<code>MUG-ONCE</code>") {
		t.Errorf("the page does not name the broken row: %s", page)
	}
	shop.Exec(t, "UPDATE stock SET available = available + 1 WHERE sku = 'MUG-ONCE'")
	shop.Exec(t, "UPDATE orders SET status = 'expired' WHERE id = $1", order.ID)
	shoptest.Eventually(t, time.Minute, "the page leads to the order", func() bool {
		return strings.Contains(get(t, home+"/demo/check"),
			`<a href="/admin/orders/`+order.ID.String()+`">Order `+order.Number()+`</a>`)
	})
}
