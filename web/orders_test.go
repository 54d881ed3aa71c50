package web_test

import (
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
)

func TestReceipt(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	b.add("PIN-KEY")
	order := b.post("/checkout", b.checkoutForm("pm_declined")).want(200, "/orders/", "declined").without("/receipt")
	b.get(order.path+"/receipt").want(404, order.path)
	order = b.post(order.path+"/pay", url.Values{"try": {"1"}, "payment_method": {"pm_ok"}}).want(200, "/orders/",
		`href="`+order.path+`/receipt"`)
	id := strings.TrimPrefix(order.path, "/orders/")
	b.get(order.path+"/receipt").want(200, order.path, "Receipt", id, "The Once Mug", "€14.00", "Idempotency Key Pin",
		"€6.50", "€20.50", "alice@example.com").
		without("Refunded")

	s.refund(id, 500)
	b.get(order.path).want(200, order.path, "€5.00 has been refunded")
	b.get(order.path+"/receipt").want(200, order.path, "€20.50", "−€5.00", "€15.50")
	s.refund(id, 1550)
	b.get(order.path).want(200, order.path, "We have refunded €20.50", "<td>Refunded</td>",
		`href="`+order.path+`/receipt"`)
	b.get(order.path+"/receipt").want(200, order.path, "−€20.50", "€0.00")
}

var (
	folded   = regexp.MustCompile(`(?s)<details class="ids">.*?</details>|<[^>]*>`)
	ownUUIDs = regexp.MustCompile(`(^|[^_])[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`) // the provider's have a prefix
)

// Pages show orders, charges and refunds to people with short numbers. The UUIDs are in folds and
// titles.
func TestPeopleReadNumbers(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	id := s.buy(b, "MUG-ONCE", "pm_ok")
	s.refund(id, 500)
	order, charge := orders.Number(uuid.MustParse(id)), s.chargeOf(id)
	refunds, err := s.pages.Payments.RefundsOfOrder(t.Context(), uuid.MustParse(id))
	if err != nil || len(refunds) != 1 {
		t.Fatalf("%d refunds, %v", len(refunds), err)
	}
	s.exec(`INSERT INTO receipts (order_id, kind, lease_until, failures, dead_at, last_error)
		VALUES ('` + id + `', 'paid', now(), 24, now(), 'no such user')`)
	for path, numbers := range map[string][]string{
		"/orders":                    {order},
		"/orders/" + id:              {order},
		"/orders/" + id + "/receipt": {order, orders.Number(charge.ID)},
		"/admin/orders":              {order},
		"/admin/orders/" + id:        {order, orders.Number(charge.ID), orders.Number(refunds[0].ID)},
		"/admin/charges":             {orders.Number(charge.ID)},
		"/admin/stock/MUG-ONCE":      {order},
		"/admin/letters":             {order},
	} {
		page := b.get(path).want(200, path, numbers...)
		if shown := ownUUIDs.FindString(folded.ReplaceAllString(page.body, " ")); shown != "" {
			t.Errorf("%s shows the id %s", path, shown)
		}
	}
}

// refund gives so much of the order's charge back.
func (s *shop) refund(orderID string, amount int64) {
	s.t.Helper()
	charges, err := s.pages.Payments.OfOrder(s.t.Context(), uuid.MustParse(orderID))
	if err != nil {
		s.t.Fatal(err)
	}
	admin := uuid.New()
	if err := s.pages.Accounts.EnsureGuest(s.t.Context(), admin); err != nil {
		s.t.Fatal(err)
	}
	_, err = s.pages.Payments.Refund(s.t.Context(),
		payments.RefundCharge{CustomerID: admin, Key: dedup.Key(uuid.NewString()),
			ChargeID: charges[len(charges)-1].ID, Amount: &amount})
	if err != nil {
		s.t.Fatal(err)
	}
}

func TestTheSameAgainIsAskedFirst(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	b.add("PIN-KEY")
	first := b.checkoutForm("pm_ok")
	order := b.post("/checkout", first).want(200, "/orders/", "Paid, once")

	b.add("PIN-KEY")
	b.add("MUG-ONCE")
	second := b.checkoutForm("pm_ok")
	ask := b.post("/checkout", second).want(409, "/checkout", "You ordered exactly the same", "a moment ago",
		order.path, "Do you want it a second time?")
	b.post("/checkout", second).want(409, "/checkout", "Do you want it a second time?") // a reload is no yes
	b.post("/checkout", first).want(200, order.path).without("second time")             // nor is a replay asked
	s.wantOrders(1)

	yes := url.Values{}
	for _, name := range []string{"key", "email", "payment_method", "again", "total", "currency"} {
		yes.Set(name, ask.field(name))
	}
	stolen := url.Values{"again": {uuid.NewString()}}
	for _, name := range []string{"key", "email", "payment_method"} {
		stolen.Set(name, yes.Get(name))
	}
	b.post("/checkout", stolen).want(409, "/checkout", "Do you want it a second time?") // a yes to another order
	s.wantOrders(1)
	again := b.twin()
	twice := b.post("/checkout", yes).want(200, "/orders/", "Paid, once")
	if replay := again.post("/checkout", yes).want(200, "/orders/"); replay.path != twice.path ||
		twice.path == order.path {
		t.Errorf("orders %s, %s and its replay %s", order.path, twice.path, replay.path)
	}
	s.wantOrders(2)
	s.wantCaptures(2)
}

func TestNobodyIsAskedAboutAnotherOrder(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	buy := func(b *browser, skus ...string) answer {
		t.Helper()
		for _, sku := range skus {
			b.add(sku)
		}
		return b.post("/checkout", b.checkoutForm("pm_ok"))
	}
	exec := func(sql string) {
		t.Helper()
		if _, err := s.pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	buy(b, "MUG-ONCE").want(200, "/orders/")
	buy(s.browser(), "MUG-ONCE").want(200, "/orders/")   // another customer
	buy(b, "MUG-ONCE", "MUG-ONCE").want(200, "/orders/") // more of it
	buy(b, "MUG-ONCE", "PIN-KEY").want(200, "/orders/")  // something beside it
	buy(b, "PIN-KEY").want(200, "/orders/")              // a part of it
	exec(`UPDATE orders SET created_at = created_at - interval '601 seconds'`)
	order := buy(b, "MUG-ONCE").want(200, "/orders/") // long ago
	exec(`UPDATE orders SET created_at = created_at - interval '125 seconds'`)
	b.add("MUG-ONCE")
	b.post("/checkout", b.checkoutForm("pm_ok")).want(409, "/checkout", "2 minutes ago", order.path)
	for _, status := range []string{"canceled", "expired", "refunded"} {
		exec(`UPDATE orders SET status = '` + status + `'`)
		b.post("/checkout", b.checkoutForm("pm_ok")).want(200, "/orders/")
		exec(`UPDATE orders SET status = 'paid'`)
		b.add("MUG-ONCE")
		b.post("/checkout", b.checkoutForm("pm_ok")).want(409, "/checkout")
	}
}

func TestTheSameIntoANewCart(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	b.add("PIN-KEY")
	form := b.checkoutForm("pm_ok")
	order := b.post("/checkout", form).want(200, "/orders/", "Paid, once")
	b.add("MUG-ONCE")
	b.post(order.path+"/again", url.Values{}).want(200, "/cart", "€34.50", "The Once Mug", "Idempotency Key Pin")
	if b.checkoutForm("pm_ok").Get("key") == form.Get("key") {
		t.Error("the new cart has the key of the order")
	}
	s.browser().post(order.path+"/again", url.Values{}).want(404, order.path)
	s.wantOrders(1)
}

func TestGuestsNeverMeet(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	alice, bob := s.browser(), s.browser()
	alice.add("MUG-ONCE")
	order := alice.post("/checkout", alice.checkoutForm("pm_ok")).want(200, "/orders/", "Why this happened once")
	alice.add("LAST-ONE")
	bob.add("PIN-KEY")
	bobs := bob.post("/checkout", bob.checkoutForm("pm_ok")).want(200, "/orders/")
	const missing = "/orders/01942f00-0000-7000-8000-000000000000"
	for name, b := range map[string]*browser{"bob": bob, "a stranger": s.browser()} {
		for _, page := range []string{"", "/receipt", "/events"} {
			theirs, none := b.get(order.path+page).want(404, order.path), b.get(missing+page).want(404, missing)
			if theirs.body != none.body {
				t.Errorf("%s: another's %s is not answered like a missing one", name, page)
			}
		}
		for _, form := range []string{"/pay", "/again"} {
			b.post(order.path+form, url.Values{"try": {"0"}, "payment_method": {"pm_ok"}}).want(404, order.path)
		}
		b.get("/cart").want(200, "/cart").without("The Last One", "The Once Mug")
		b.get("/orders").want(200, "/orders").without(order.path, "The Once Mug")
	}
	alice.get("/cart").want(200, "/cart", "The Last One").without("Idempotency Key Pin")
	alice.get("/orders").want(200, "/orders", order.path).without(bobs.path)
}
