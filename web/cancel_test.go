package web_test

import (
	"net/url"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/web"
)

// A buyer cancels an order once, however often the button is pressed, and gets the money back once.
func TestBuyerCancels(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	paid := "/orders/" + s.buy(b, "MUG-ONCE", "pm_ok")
	b.get(paid).want(200, paid, `href="`+paid+`/cancel"`)
	b.get(paid+"/cancel").want(200, paid+"/cancel", "Cancel this order?", "We will refund what you paid", "€14.00")
	b.post(paid+"/cancel", url.Values{}).want(200, paid, "We have refunded €14.00").without("/cancel")
	b.post(paid+"/cancel", url.Values{}).want(200, paid, "We have refunded €14.00")
	b.get(paid+"/cancel").want(200, paid, "We have refunded €14.00")
	s.wantStock("MUG-ONCE", 10)

	unpaid := "/orders/" + s.buy(b, "PIN-KEY", "pm_declined")
	b.get(unpaid+"/cancel").want(200, unpaid+"/cancel", "You have not been charged.")
	b.post(unpaid+"/cancel", url.Values{}).want(200, unpaid, "This order was canceled.")
	s.wantStock("PIN-KEY", 10)
	if other := s.browser(); other.get(paid+"/cancel").status != 404 || other.post(paid+"/cancel", nil).status != 404 {
		t.Error("another guest may cancel the order")
	}
}

func TestBuyerCancelsTooLate(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	late := s.pages
	late.Payments = s.payments(s.pool, func(p *payments.Policy) { p.CancelWindow = time.Hour })
	b := s.browser()
	b.url = s.serve(late)
	order := "/orders/" + s.buy(b, "MUG-ONCE", "pm_ok")
	b.get(order).want(200, order, order+"/cancel")
	s.exec("UPDATE charges SET created_at = created_at - interval '2 hours', " +
		"settled_at = settled_at - interval '2 hours'")
	s.exec("UPDATE outbox SET created_at = created_at - interval '2 hours'")
	b.get(order).want(200, order, "Paid, once").without(order + "/cancel")
	b.post(order+"/cancel", url.Values{}).want(200, order, "can no longer be canceled", "Paid, once")
	s.wantStock("MUG-ONCE", 9)
}

// An operator changes a product on its page.
func TestOperatorEditsProduct(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.get("/products/MUG-ONCE").want(200, "/products/MUG-ONCE", `href="/admin/products/MUG-ONCE"`)
	b.get("/admin/products/MUG-ONCE").want(200, "/admin/products/MUG-ONCE", `value="The Once Mug"`, `value="14.00"`)
	form := url.Values{"name": {"The Other Mug"}, "description": {"New."}, "price": {"9.5"}}
	for range 2 {
		b.post("/admin/products/MUG-ONCE", form).want(200, "/products/MUG-ONCE", "The Other Mug", "€9.50", "New.",
			"Saved.")
	}
	form.Set("price", "free")
	b.post("/admin/products/MUG-ONCE", form).want(422, "/admin/products/MUG-ONCE", "must be an amount such as 12.50",
		`value="free"`)
	form.Set("price", "9.50")
	form.Set("name", "")
	b.post("/admin/products/MUG-ONCE", form).want(422, "/admin/products/MUG-ONCE", "The name must be one line of text")
	b.get("/admin/products/NOTHING").want(404, "/admin/products/NOTHING")

	closed := open(t, func(pages *web.Web) { pages.Demo = false })
	stranger := closed.browser()
	stranger.get("/products/MUG-ONCE").want(200, "/products/MUG-ONCE").without("/admin/products")
	stranger.get("/admin/products/MUG-ONCE").want(200, "/admin/login")
	stranger.post("/admin/products/MUG-ONCE", form).want(403, "/admin/products/MUG-ONCE", "Operators only")
}
