package browsertest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/check"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// What the pages say. They may change their words here, and their looks anywhere.
const (
	saysPaid     = "Paid, once."
	saysChecking = "do not pay again"

	toCheckout  = `main a[href="/checkout"]`
	orderButton = `form[action="/checkout"] button`
)

// fillCart puts a product into the cart and goes to the checkout.
func (b *tab) fillCart(sku string) {
	b.t.Helper()
	b.addToCart(sku)
	b.goTo("/cart")
	b.follow(toCheckout)
}

// addToCart puts a product into the cart from the shelf, and stays there.
func (b *tab) addToCart(sku string) {
	b.t.Helper()
	b.goTo("/")
	b.click(fmt.Sprintf(`form[action="/cart"]:has(input[value="%s"]) button`, sku))
	b.await("something is in the cart",
		`[...document.querySelectorAll('a[href="/cart"]')].some(link => /\d/.test(link.innerText))`)
}

// fillCheckout enters what the checkout form asks for.
func (b *tab) fillCheckout(email, method string) {
	b.t.Helper()
	radio := fmt.Sprintf(`document.querySelector('form[action="/checkout"] input[name=payment_method][value=%s]')`,
		method)
	filled := eval[bool](b, fmt.Sprintf(`{
		document.querySelector('form[action="/checkout"] input[name=email]').value = %q
		%[2]s.closest('details')?.setAttribute('open', '')
		%[2]s.click()
		%[2]s.checked
	}`, email, radio))
	if !filled {
		b.t.Fatalf("there is no checkout form with %s on %s", method, b.where())
	}
}

// toOrderButton leads a new guest to where one press buys a mug.
func (b *tab) toOrderButton(method string) {
	b.t.Helper()
	b.fillCart("MUG-ONCE")
	b.fillCheckout(buyer, method)
}

// orderAgain goes on from where the guest is, cart or checkout, to the order. Where there is no way
// on, the shop knows better.
func (b *tab) orderAgain(method string) {
	b.t.Helper()
	if b.has(toCheckout) {
		b.follow(toCheckout)
	}
	if b.has(orderButton) {
		b.fillCheckout(buyer, method)
		b.click(orderButton)
		b.awaitPage("/orders/")
	}
}

// awaitPaid waits for the order's page to say so, and for no error page on the way.
func (b *tab) awaitPaid() {
	b.t.Helper()
	b.awaitPage("/orders/")
	b.await("the order's page says that it is paid", fmt.Sprintf("document.body.innerText.includes(%q)", saysPaid))
	b.noErrorPage()
}

// buyer is the only one in a test's shop.
const buyer = "buyer@example.com"

// boughtOnce asks every witness: one order, one capture, one receipt, and no promise broken.
func boughtOnce(t *testing.T, shop *apptest.Shop) {
	t.Helper()
	shoptest.Eventually(t, patience, "the order is paid and its receipt is there", func() bool {
		return shop.Count(t, "SELECT count(*) FROM orders WHERE status = 'paid'") == 1 && len(shop.Mails(t, buyer)) > 0
	})
	shoptest.Eventually(t, patience, "nothing is on its way any more", func() bool {
		return shop.Count(t, "SELECT count(*) FROM outbox WHERE sent_at IS NULL") == 0 && shop.Pending(t) == 0
	})
	if n := shop.Count(t, "SELECT count(*) FROM orders"); n != 1 {
		t.Errorf("%d orders", n)
	}
	var id string
	if err := shop.Pool.QueryRow(t.Context(), "SELECT id FROM orders").Scan(&id); err != nil {
		t.Fatal(err)
	}
	captures := slices.DeleteFunc(shop.Captures(t, id), func(capture payments.Capture) bool {
		return capture.Status == payments.CaptureDeclined
	})
	if len(captures) != 1 {
		t.Errorf("captures %+v", captures)
	}
	if mails := shop.Mails(t, buyer); len(mails) != 1 {
		t.Errorf("receipts %v", mails)
	}
	keepsPromises(t, shop)
}

// keepsPromises is `shop check`.
func keepsPromises(t *testing.T, shop *apptest.Shop) {
	t.Helper()
	report, err := check.Run(t.Context(),
		check.Sources{DB: shop.Pool, ProviderURL: shop.Config.PSPURL, MailboxURL: shop.Mailbox})
	if err != nil {
		t.Fatal(err)
	}
	for _, broken := range report.Violated() {
		t.Errorf("%s against %v: %+v", broken.Invariant, broken.Source, broken.Violations)
	}
}

// proxied puts a proxy before the server at base, and returns the server's address through it.
func proxied(t *testing.T, base string) (*shoptest.Proxy, string) {
	t.Helper()
	proxy := shoptest.StartProxy(t, strings.TrimPrefix(base, "http://"))
	return proxy, "http://" + proxy.Addr()
}
