package web_test

import (
	"net/url"
	"testing"

	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/shoptest"
	"github.com/onceshop/onceshop/web"
)

// The browser is on the order's page while the provider still works, and the charge stands by then.
// What the browser does next, it is one charge.
func TestSlowPaymentShowsTheOrderAtOnce(t *testing.T) {
	t.Parallel()
	s := open(t, func(pages *web.Web) { pages.PayWait = 0 })
	t.Cleanup(func() { s.pages.Payments.Wait(t.Context()) })
	b := s.browser()
	b.add("MUG-ONCE")
	form := b.checkoutForm("pm_slow")
	order := b.post("/checkout", form).want(200, "/orders/", "being processed. Please do not pay again",
		`hx-sse:connect="`, `<noscript><meta http-equiv="refresh" content="3"></noscript>`)
	s.wantCharge(order.path, payments.Pending)
	b.post("/checkout", form).want(200, order.path, "Please do not pay again")
	b.post(order.path+"/pay", url.Values{"try": {"0"}, "payment_method": {"pm_slow"}}).want(200, order.path)
	b.post(order.path+"/pay", url.Values{"try": {"1"}, "payment_method": {"pm_ok"}}).
		want(200, order.path, "Another payment for this order is in progress")
	s.exec("UPDATE charges SET created_at = now() - interval '3 seconds'")
	b.get(order.path).want(200, order.path, "We are checking your payment. Please do not pay again.")
	s.pages.Payments.Wait(t.Context())
	b.get(order.path).want(200, order.path, "Paid, once")
	s.wantCharge(order.path, payments.Succeeded)
	s.wantOrders(1)
	s.wantCaptures(1)
}

// A node that dies after the redirect leaves a charge that another node settles.
func TestNodeDiesAfterTheRedirect(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	form := b.checkoutForm("pm_slow")
	dying, pool := s.pages, shoptest.Pool(t, s.database)
	dying.PayWait, dying.Payments = 0, s.payments(pool)
	b.url = s.serve(dying) // cookies do not know ports
	order := b.post("/checkout", form).want(200, "/orders/", "Please do not pay again")
	pool.Close()
	s.wantCharge(order.path, payments.Pending)
	dying.Payments.Wait(t.Context()) // it cannot store what it hears
	s.wantCharge(order.path, payments.Pending)
	s.reconcile()
	b.url = s.url
	b.get(order.path).want(200, order.path, "Paid, once")
	b.post("/checkout", form).want(200, order.path, "Paid, once")
	s.wantOrders(1)
	s.wantCaptures(1)
}
