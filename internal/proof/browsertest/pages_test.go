package browsertest

import (
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/proof"
)

// These tests look at every page, light on a desktop and dark on a phone: it is small, keeps its
// own Content-Security-Policy, fits its screen, complains about nothing, and axe-core finds nothing
// serious. With SHOP_SCREENSHOTS, pictures go into that folder.

// A visit is to a page, which answers with the status, where zero is 200, and has the text.
type visit struct {
	name, path string
	status     int
	says       string
}

func TestShopPages(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1, withLab(proof.DemoServers{}))
	stranger, guest := newGuest(t, shop.Nodes[0]), newGuest(t, shop.Nodes[0])
	for _, v := range []visit{
		{name: "cart-empty", path: "/cart"},
		{name: "orders-empty", path: "/orders"},
		{name: "not-found", path: "/nowhere", status: 404},
	} {
		stranger.visit(v)
	}
	stranger.addToCart("MUG-ONCE")
	stranger.inspect("shop-added")
	paths := guest.orderInEveryState(shop)
	guest.fillCheckout(buyer, "pm_ok")
	guest.click(orderButton)
	guest.await("the shop asks", `document.querySelector('form[action="/checkout"] input[name=again]') != null`)
	guest.inspect("order-again")
	for _, v := range []visit{
		{name: "things", path: "/"},
		{name: "product", path: "/products/MUG-ONCE"},
		{name: "cart", path: "/cart"},
		{name: "checkout", path: "/checkout"},
		{name: "orders", path: "/orders"},
		{name: "order-declined", path: paths["declined"]},
		{name: "order-paying", path: paths["paying"], says: saysChecking},
		{name: "order-paid", path: paths["paid"], says: saysPaid},
		{name: "receipt", path: paths["paid"] + "/receipt"},
		{name: "cancel", path: paths["paid"] + "/cancel"},
		{name: "order-refunded", path: paths["refunded"]},
		{name: "order-canceled", path: paths["canceled"]},
		{name: "order-expired", path: paths["expired"]},
	} {
		guest.visit(v)
	}
}

// orderInEveryState orders until there is an order in each state, and fills the cart once more,
// with what was ordered. It returns the orders' paths.
func (b *tab) orderInEveryState(shop *apptest.Shop) map[string]string {
	b.t.Helper()
	paths := map[string]string{}
	for state, how := range map[string]struct{ sku, method string }{
		"paid": {"MUG-ONCE", "pm_ok"}, "declined": {"TEE-ONCE", "pm_declined"}, "paying": {"PIN-KEY", "pm_ok"},
		"refunded": {"NOTE-LOG", "pm_ok"}, "canceled": {"LAMP-LEASE", "pm_declined"},
		"expired": {"LAST-ONE", "pm_declined"},
	} {
		b.fillCart(how.sku)
		b.fillCheckout(buyer, how.method)
		b.click(orderButton)
		b.awaitPage("/orders/")
		paths[state] = eval[string](b, "location.pathname")
	}
	// How these come about is not what is tested here.
	forgetOutcome(b.t, shop, strings.TrimPrefix(paths["paying"], "/orders/"))
	for _, state := range []string{"refunded", "canceled", "expired"} {
		shop.Exec(b.t, "UPDATE orders SET status = $1 WHERE id = $2", state,
			strings.TrimPrefix(paths[state], "/orders/"))
	}
	b.fillCart("MUG-ONCE")
	return paths
}

// forgetOutcome makes an order's charge one that nobody knows about, for an hour.
func forgetOutcome(t *testing.T, shop *apptest.Shop, orderID string) {
	t.Helper()
	shop.Exec(t, "UPDATE orders SET status = 'paying' WHERE id = $1", orderID)
	shop.Exec(t, `UPDATE charges SET status = 'unknown', unknown_at = now(), lease_until = now() + interval '1 hour',
		answer = NULL, answer_status = NULL, settled_at = NULL WHERE order_id = $1`, orderID)
}

func TestCounterPages(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1, withLab(proof.DemoServers{}))
	alice := shop.Alice(t)
	var order orders.Order
	for _, method := range []string{"pm_refund_refused", "pm_declined", "pm_insufficient_funds", "pm_ok"} {
		alice.Post(t.Context(), "/v1/orders", method, apptest.OrderBody("alice@example.com", "MUG-ONCE", 1)).JSON(t,
			&order)
		alice.Post(t.Context(), "/v1/orders/"+order.ID.String()+"/charges", method, `{"payment_method":"`+method+`"}`)
	}
	forgetOutcome(t, shop, order.ID.String())
	shop.Exec(t, "UPDATE charges SET unknown_at = now() - interval '1 hour' WHERE status = 'unknown'")
	shop.Exec(t, `INSERT INTO disputes (id, charge_id, status, amount, currency)
		SELECT 'dp_1', id, 'open', amount, currency FROM charges WHERE payment_method = 'pm_refund_refused'`)
	shop.Exec(t, `UPDATE charges SET owes = 'canceled', return_tries = 8 WHERE payment_method = 'pm_refund_refused'`)
	shop.Exec(t, `INSERT INTO refunds (id, charge_id, cause, reason, status, amount, currency, lease_until, created_at)
		SELECT gen_random_uuid(), id, 'requested', 'It came broken.', 'unknown', 500, currency,
			now() + interval '1 hour', now() FROM charges WHERE payment_method = 'pm_refund_refused'`)
	shop.Exec(t, `INSERT INTO receipts (order_id, kind, lease_until, failures, dead_at, last_error)
		SELECT order_id, 'paid', now(), 24, now(), '550 no such user' FROM charges
			WHERE payment_method = 'pm_declined'`)
	shop.Exec(t, "INSERT INTO provider_events (id, type, payload, facts, state, reason) VALUES ('evt_1', "+
		"'capture.succeeded', '{}', '{}', 'quarantined', 'there is no such charge')")
	b := newGuest(t, shop.Nodes[0])
	for _, v := range []visit{
		{name: "admin-login", path: "/admin/login"},
		{name: "admin-stock", path: "/admin"},
		{name: "admin-movements", path: "/admin/stock/MUG-ONCE"},
		{name: "admin-product", path: "/admin/products/MUG-ONCE"},
		{name: "admin-orders", path: "/admin/orders"},
		{name: "admin-order", path: "/admin/orders/" + order.ID.String()},
		{name: "admin-charges", path: "/admin/charges", says: "unknown"},
		{name: "admin-events", path: "/admin/events"},
		{name: "admin-letters", path: "/admin/letters", says: "550 no such user"},
		{name: "admin-attention", path: "/admin/attention", says: "no more automatic tries"},
	} {
		b.visit(v)
	}
	b.await("all forms are open", `[...document.querySelectorAll('details')].every(d => d.open = true) &&
		document.querySelectorAll('form.act').length >= 4`)
	b.inspect("admin-attention-open")
}

// withLab adds the lab's pages to a shop.
func withLab(demo proof.DemoServers) func(*app.Config) {
	return func(c *app.Config) {
		c.Sections = []app.Section{proof.LabSection(func() proof.DemoServers { return demo })}
	}
}
