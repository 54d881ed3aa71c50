package web_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/shoptest"
	"github.com/onceshop/onceshop/web"
)

func TestBuySomething(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	b.add("PIN-KEY")
	order := b.post("/checkout", b.checkoutForm("pm_ok")).want(200, "/orders/", "Paid, once", "alice@example.com",
		"€20.50", "The Once Mug")
	b.get("/cart").want(200, "/cart", "Your cart is empty")
	b.get("/orders").want(200, "/orders", order.path, "Paid", "€20.50")
	b.get("/").want(200, "/", "9 in stock")
	s.wantOrders(1)
	s.wantCaptures(1)
}

func TestTwinsOfACheckout(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*web.Web){
		"one node shares the execution": nil,
		"the database decides alone":    func(w *web.Web) { w.Replays = nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, change)
			b := s.browser()
			b.add("LAST-ONE")
			form := b.checkoutForm("pm_ok")
			twins := make([]*browser, 10)
			for i := range twins {
				twins[i] = b.twin()
			}
			pages := shoptest.Race(len(twins), func(i int) answer { return twins[i].post("/checkout", form) })
			for _, page := range pages {
				page.want(200, "/orders/")
				if page.path != pages[0].path {
					t.Errorf("orders at %s and %s", pages[0].path, page.path)
				}
			}
			b.get(pages[0].path).want(200, "/orders/", "Paid, once")
			s.wantOrders(1)
			s.wantCaptures(1)
		})
	}
}

func TestBackButton(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	form := b.checkoutForm("pm_ok")
	order := b.post("/checkout", form).want(200, "/orders/", "Paid, once")
	b.add("PIN-KEY")
	for _, method := range []string{"pm_ok", "pm_declined", "nonsense"} {
		form.Set("payment_method", method)
		if again := b.post("/checkout", form).want(200, "/orders/", "Paid, once"); again.path != order.path {
			t.Errorf("sent back to %s, not %s", again.path, order.path)
		}
	}
	b.get("/cart").want(200, "/cart", "Idempotency Key Pin").without("The Once Mug")
	s.wantOrders(1)
	s.wantCaptures(1)
}

func TestStaleTab(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	stale := b.checkoutForm("pm_ok")
	b.add("PIN-KEY")
	page := b.post("/checkout", stale).want(409, "/checkout", "changed in another tab", "alice@example.com", "€20.50")
	s.wantOrders(0)
	stale.Set("key", page.field("key"))
	b.post("/checkout", stale).want(409, "/checkout", "The price has changed", "€20.50")
	stale.Set("total", page.field("total"))
	b.post("/checkout", stale).want(200, "/orders/", "Paid, once", "€20.50")
	stale.Set("key", "nonsense")
	b.post("/checkout", stale).want(200, "/cart", "Nothing was ordered")
	s.wantOrders(1)
}

// The answer to the checkout never arrives, so the browser still has the cart.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	order := b.twin().post("/checkout", b.checkoutForm("pm_ok")).want(200, "/orders/", "Paid, once")
	for _, path := range []string{"/cart", "/checkout"} {
		if got := b.twin().get(path).want(200, "/orders/"); got.path != order.path {
			t.Errorf("%s leads to %s, want %s", path, got.path, order.path)
		}
	}
	b.add("PIN-KEY")
	b.get("/cart").want(200, "/cart", "Idempotency Key Pin").without("The Once Mug")
	s.wantOrders(1)
}

func TestDeclinedThenAnotherMethod(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("LAST-ONE")
	order := b.post("/checkout", b.checkoutForm("pm_insufficient_funds")).want(200, "/orders/", "declined",
		"insufficient funds", "reserved for you")
	s.wantStock("LAST-ONE", 0)
	second := url.Values{"try": {order.field("try")}, "payment_method": {"pm_declined"}}
	b.post(order.path+"/pay", second).want(200, order.path, "bank declined it")

	// The second form again, as it was and with another method: the same try, so nothing new
	// happens.
	b.post(order.path+"/pay", second).want(200, order.path, "declined").without("out of date")
	second.Set("payment_method", "pm_ok")
	b.post(order.path+"/pay", second).want(200, order.path, "nothing was charged just now")
	s.wantCaptures(0)

	third := url.Values{"try": {b.get(order.path).field("try")}, "payment_method": {"pm_ok"}}
	for _, page := range shoptest.Race(5, func(int) answer { return b.twin().post(order.path+"/pay", third) }) {
		page.want(200, order.path)
	}
	b.get(order.path).want(200, order.path, "Paid, once").without("/pay")
	third.Set("try", "7")
	b.post(order.path+"/pay", third).want(200, order.path, "Paid, once")
	s.wantOrders(1)
	s.wantCaptures(1)
}

func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	order := b.post("/checkout", b.checkoutForm("pm_error_after_capture")).want(200, "/orders/",
		"do not pay again").without("/pay")
	order.want(200, order.path, `<noscript><meta http-equiv="refresh" content="3"></noscript>`,
		`hx-sse:connect="`+order.path+`/events"`)
	b.post(order.path+"/pay", url.Values{"try": {"1"}, "payment_method": {"pm_ok"}}).want(200, order.path,
		"do not pay again")
	s.wantCaptures(1)
}

func TestOrdersAreTheirGuestsAlone(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	alice, bob := s.browser(), s.browser()
	alice.add("MUG-ONCE")
	order := alice.post("/checkout", alice.checkoutForm("pm_declined")).want(200, "/orders/", "declined")
	bob.add("PIN-KEY")
	const missing = "/orders/01942f00-0000-7000-8000-000000000000"
	for _, b := range []*browser{bob, s.browser()} {
		theirs, none := b.get(order.path).want(404, order.path), b.get(missing).want(404, missing)
		if theirs.body != none.body {
			t.Error("another's order is not answered like a missing one")
		}
		pay := url.Values{"try": {"1"}, "payment_method": {"pm_ok"}}
		b.post(order.path+"/pay", pay).want(404, order.path)
		b.get("/orders").want(200, "/orders", "No orders yet")
		b.get("/orders?after="+strings.TrimPrefix(order.path, "/orders/")).want(200, "/orders", "No orders yet")
	}
	s.wantCaptures(0)
}

func TestOutOfStockKeepsEverything(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	slow, fast := s.browser(), s.browser()
	slow.add("LAST-ONE")
	slow.add("MUG-ONCE")
	form := slow.checkoutForm("pm_ok")
	fast.add("LAST-ONE")
	fast.post("/checkout", fast.checkoutForm("pm_ok")).want(200, "/orders/", "Paid, once")

	slow.post("/checkout", form).want(200, "/cart", "Nothing was ordered", "Sold out. Please remove it", "The Last One",
		"The Once Mug")
	s.wantOrders(1)
	s.wantStock("MUG-ONCE", 10)
	s.deliver("second,1,LAST-ONE,1")
	page := slow.get("/checkout").want(200, "/checkout", "alice@example.com")
	if page.field("key") != form.Get("key") {
		t.Error("the key did not survive")
	}
	slow.post("/checkout", form).want(200, "/orders/", "Paid, once")
	s.wantCaptures(2)
}

func TestWrongEntriesAreKept(t *testing.T) {
	t.Parallel()
	s := open(t, func(w *web.Web) { w.Demo = false })
	b := s.browser()
	b.add("MUG-ONCE")
	form := b.checkoutForm("pm_ok")
	form.Set("email", "alice@")
	page := b.post("/checkout", form).want(422, "/checkout", `value="alice@"`, "Please enter a valid email address",
		`aria-invalid="true"`)
	if page.field("key") != form.Get("key") {
		t.Error("a mistyped email made a new key")
	}
	form.Set("email", "alice@example.com")
	form.Set("payment_method", "pm_declined")
	b.post("/checkout", form).want(422, "/checkout", "Please choose a payment method").
		without("Simulate a payment failure")
	s.wantOrders(0)
	form.Set("payment_method", "pm_ok")
	b.post("/checkout", form).want(200, "/orders/", "Paid, once")
}

// The database goes away in the middle: nobody knows what happened, and the same form is safe to
// send again.
func TestUnavailableAfterTheClick(t *testing.T) {
	t.Parallel()
	for name, breaks := range map[string]func(s *shop, w *web.Web){
		"before the order": func(s *shop, w *web.Web) {
			gone := shoptest.Pool(s.t, s.database)
			gone.Close()
			w.Orders = orders.New(gone, orders.DefaultExpiry, time.Now, w.Log)
		},
		"before the charge": func(s *shop, w *web.Web) {
			gone := shoptest.Pool(s.t, s.database)
			gone.Close()
			w.Payments = s.payments(gone)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, nil)
			b := s.browser()
			b.add("MUG-ONCE")
			form := b.checkoutForm("pm_ok")
			broken := s.pages
			broken.Replays = nil
			breaks(s, &broken)

			b.url = s.serve(broken)
			page := b.post("/checkout", form).want(503, "/checkout", "may have gone through",
				"Pressing this button again is safe")
			if page.header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			again := url.Values{}
			for _, name := range []string{"key", "email", "payment_method", "total", "currency"} {
				again.Set(name, page.field(name))
			}
			if again.Encode() != form.Encode() {
				t.Errorf("the form offers %v, want %v", again, form)
			}

			b.url = s.url
			b.post("/checkout", again).want(200, "/orders/", "Paid, once")
			s.wantOrders(1)
			s.wantCaptures(1)
		})
	}
}

// The price on the button is the price charged, or a question comes first.
func TestPriceOnTheButton(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	form := b.checkoutForm("pm_ok")
	s.exec("UPDATE products SET unit_price = 199800 WHERE sku = 'MUG-ONCE'")
	page := b.post("/checkout", form).want(409, "/checkout", "The price has changed", "Order and pay €1,998.00",
		"alice@example.com")
	b.post("/checkout", form).want(409, "/checkout", "The price has changed") // a reload is no yes
	s.wantOrders(0)
	s.wantCaptures(0)
	agreed := url.Values{"email": form["email"], "payment_method": form["payment_method"]}
	for _, name := range []string{"key", "total", "currency"} {
		agreed.Set(name, page.field(name))
	}
	b.post("/checkout", agreed).want(200, "/orders/", "Paid, once", "€1,998.00")
	s.wantOrders(1)

	// A cheaper price is a question too, and so is another currency.
	b.add("PIN-KEY")
	form = b.checkoutForm("pm_ok")
	s.exec("UPDATE products SET currency = 'USD' WHERE sku = 'PIN-KEY'")
	b.post("/checkout", form).want(409, "/checkout", "The price has changed", "Order and pay $6.50")
	s.wantOrders(1)
}

// A tab that still shows another total does not pay for an order that stands and was not charged.
func TestStandingOrderAtAnotherTotal(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	form := b.checkoutForm("pm_ok")
	broken := s.pages
	broken.Replays = nil
	gone := shoptest.Pool(t, s.database)
	gone.Close()
	broken.Payments = s.payments(gone)
	b.url = s.serve(broken)
	b.post("/checkout", form).want(503, "/checkout", "may have gone through")
	s.wantOrders(1)

	b.url = s.url
	form.Set("total", "1399")
	b.twin().post("/checkout", form).want(200, "/orders/", "nothing was charged just now")
	s.wantCaptures(0)
	form.Set("total", "1400")
	b.post("/checkout", form).want(200, "/orders/", "Paid, once")
	s.wantOrders(1)
	s.wantCaptures(1)
}

// One guest cannot reserve the whole stock, and neither can the guests of one address.
func TestUnpaidOrdersOfGuests(t *testing.T) {
	t.Parallel()
	s := open(t, func(w *web.Web) { w.Unpaid = orders.UnpaidLimit{Customer: 3, Network: 5} })
	place := func(b *browser) answer {
		b.add("PIN-KEY")
		form := b.checkoutForm("pm_declined")
		page := b.post("/checkout", form)
		if strings.Contains(page.body, "second time?") {
			form.Set("again", page.field("again"))
			page = b.post("/checkout", form)
		}
		return page
	}
	first := s.browser()
	for range 3 {
		place(first).want(200, "/orders/", "declined")
	}
	order := place(first).want(429, "/checkout", "Nothing was ordered", "still unpaid", "Unpaid",
		`href="/orders/`)
	if order.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	first.get("/cart").want(200, "/cart", "Idempotency Key Pin")
	others := 0
	for range 4 { // cookies cost nothing
		if place(s.browser()).status == 200 {
			others++
		}
	}
	if others != 2 {
		t.Errorf("%d more orders from the same address, want 2", others)
	}
	s.wantOrders(5)
	s.wantStock("PIN-KEY", 5)
}

func TestTwoCurrenciesInOneCart(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	s.exec("UPDATE products SET currency = 'JPY' WHERE sku = 'PIN-KEY'")
	b := s.browser()
	b.add("MUG-ONCE")
	form := b.checkoutForm("pm_ok")
	b.add("PIN-KEY")
	b.get("/cart").want(200, "/cart", "€14.00", "¥650", "different currencies").
		without("Total", "2,050", "Go to checkout")
	b.get("/checkout").want(200, "/cart", "different currencies")
	b.post("/checkout", form).want(200, "/cart", "different currencies")
	b.post("/cart", url.Values{"action": {"remove"}, "sku": {"MUG-ONCE"}}).
		want(200, "/cart", "Total", "Go to checkout").without("different currencies")

	// The currency changes between the page and the button.
	b.add("MUG-ONCE")
	s.exec("UPDATE products SET currency = 'EUR'")
	form = b.checkoutForm("pm_ok")
	s.exec("UPDATE products SET currency = 'JPY' WHERE sku = 'PIN-KEY'")
	b.post("/checkout", form).want(200, "/cart", "different currencies")
	s.wantOrders(0)
}

func TestRefusedCheckoutLeavesNoGuest(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	form := b.checkoutForm("pm_ok")
	for _, email := range []string{"", "root@localhost", "a@[127.0.0.1]", strings.Repeat("a", 65) + "@example.com"} {
		form.Set("email", email)
		b.post("/checkout", form).want(422, "/checkout", "Please enter a valid email address")
	}
	var guests int
	if err := s.pool.QueryRow(t.Context(), "SELECT count(*) FROM customers").Scan(&guests); err != nil || guests != 0 {
		t.Errorf("%d guests, %v", guests, err)
	}
	form.Set("email", "alice@example.com")
	b.post("/checkout", form).want(200, "/orders/", "Paid, once")
}
