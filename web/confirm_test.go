package web_test

import (
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// atBank is where the provider's page for the buyer is.
const atBank = "/action/"

// exec changes what time or another process would change.
func (s *shop) exec(statement string) {
	s.t.Helper()
	if _, err := s.pool.Exec(s.t.Context(), statement); err != nil {
		s.t.Fatal(err)
	}
}

// reconcile works on everything that is open or owed.
func (s *shop) reconcile() {
	s.t.Helper()
	s.exec("UPDATE charges SET lease_until = now(), return_due = least(return_due, now())")
	s.exec("UPDATE refunds SET lease_until = now()")
	shoptest.Eventually(s.t, 30*time.Second, "the reconciler has worked", func() bool {
		n, err := s.pages.Payments.ReconcileOnce(s.t.Context())
		return n > 0 && err == nil
	})
}

// wantCharge fails unless the order has a single charge, with the status.
func (s *shop) wantCharge(orderPath string, want payments.Status) {
	s.t.Helper()
	id := uuid.MustParse(strings.TrimPrefix(orderPath, "/orders/"))
	charges, err := s.pages.Payments.OfOrder(s.t.Context(), id)
	if err != nil || len(charges) != 1 || charges[0].Status != want {
		s.t.Errorf("charges %+v, %v, want one that is %s", charges, err, want)
	}
}

// orderToConfirm orders a mug with a card whose bank asks, and returns the form and the order's
// page.
func (b *browser) orderToConfirm() (form url.Values, order answer) {
	b.t.Helper()
	b.add("MUG-ONCE")
	form = b.checkoutForm("pm_requires_action")
	order = b.post("/checkout", form).want(200, "/orders/", "Please confirm your payment",
		"Your bank asks you to confirm", "data-forward", `hx-sse:connect="`,
		`<noscript><meta http-equiv="refresh" content="10"></noscript>`).without("/pay", "Declined")
	b.get(order.path).want(200, order.path, `href="`+order.path+`/confirm"`).without("data-forward")
	return form, order
}

// decide goes to the bank from the order's page and answers there, which leads back to the shop.
func (b *browser) decide(s *shop, order answer, decision string) answer {
	b.t.Helper()
	page := b.get(order.path+"/confirm").want(200, atBank, "Approve", "Refuse")
	bank := &browser{t: b.t, url: s.provider, http: b.http}
	return bank.post(page.path, url.Values{"decision": {decision}}).want(200, order.path)
}

func TestConfirmedAtTheBank(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	_, order := b.orderToConfirm()
	s.wantCaptures(0)
	b.decide(s, order, "approve").want(200, order.path, "Your bank asks you to confirm",
		"will show the result in a moment")
	s.reconcile()
	b.get(order.path).want(200, order.path, "Paid, once").without("/confirm")
	b.get(order.path+"/confirm").want(200, order.path, "Paid, once")
	s.wantCaptures(1)
	s.wantCharge(order.path, payments.Succeeded)
}

func TestRefusedAtTheBank(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	_, order := b.orderToConfirm()
	b.decide(s, order, "refuse")
	s.reconcile()
	page := b.get(order.path).want(200, order.path, "it was not confirmed with the bank",
		"Nothing was charged").without("/confirm")
	s.wantCharge(order.path, payments.Declined)
	b.get(order.path+"/confirm").want(200, order.path, "it was not confirmed with the bank")
	b.post(order.path+"/pay", url.Values{"try": {page.field("try")}, "payment_method": {"pm_ok"}}).
		want(200, order.path, "Paid, once")
	s.wantCaptures(1)
}

// The old form repeats its attempt, before and after the decision.
func TestBackFromTheBank(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	form, order := b.orderToConfirm()
	b.get(order.path+"/confirm").want(200, atBank)
	b.post("/checkout", form).want(200, order.path, "Your bank asks you to confirm", "data-forward")
	b.post(order.path+"/pay", url.Values{"try": {"0"}, "payment_method": {"pm_requires_action"}}).
		want(200, order.path, "Your bank asks you to confirm", "data-forward")
	s.wantCharge(order.path, payments.RequiresAction)
	b.decide(s, order, "approve")
	s.reconcile()
	b.post("/checkout", form).want(200, order.path, "Paid, once")
	s.wantOrders(1)
	s.wantCaptures(1)
	s.wantCharge(order.path, payments.Succeeded)
}

// Another attempt finds the first one waiting at the bank, and shows the way there.
func TestSecondTabWhileTheBankAsks(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	_, order := b.orderToConfirm()
	second := b.twin()
	for try, notice := range map[string]string{
		"0": "out of date", "1": "Another payment for this order is in progress",
	} {
		second.post(order.path+"/pay", url.Values{"try": {try}, "payment_method": {"pm_ok"}}).
			want(200, order.path, notice, "nothing was charged just now", `href="`+order.path+`/confirm"`).
			without("data-forward")
	}
	s.wantCharge(order.path, payments.RequiresAction)
	second.decide(s, order, "approve")
	s.reconcile()
	for _, tab := range []*browser{b, second} {
		tab.get(order.path).want(200, order.path, "Paid, once")
	}
	s.wantCaptures(1)
}

func TestBuyerNeverReturnsFromTheBank(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	_, order := b.orderToConfirm()
	bank := b.get(order.path+"/confirm").want(200, atBank)
	deadline := regexp.MustCompile(`please confirm it by <time datetime="([^"]+)"`).FindStringSubmatch(order.body)
	if deadline == nil {
		t.Fatalf("no deadline on %s", order.body)
	}
	at, err := time.Parse(time.RFC3339, deadline[1])
	if left := time.Until(at); err != nil || left < 55*time.Minute || left > time.Hour {
		t.Errorf("the buyer has until %s, %v, want twice the time of an order", deadline[1], err)
	}
	s.expire(t)
	b.get(order.path).want(200, order.path, "not paid in time", "We are stopping its payment").without("/confirm")
	b.get(order.path+"/confirm").want(200, order.path, "not paid in time")
	s.reconcile()
	b.get(order.path).want(200, order.path, "not paid in time").without("We are stopping its payment")
	late := &browser{t: t, url: s.provider, http: b.http}
	late.post(bank.path, url.Values{"decision": {"approve"}}).want(200, bank.path, "This payment was canceled")
	s.wantCaptures(0)
	s.wantCharge(order.path, payments.Declined)
}

// expire lets the time of all orders run out.
func (s *shop) expire(t *testing.T) {
	t.Helper()
	s.exec("UPDATE orders SET expires_at = now() - interval '2 hours'")
	if n, err := s.pages.Orders.ExpireOnce(t.Context()); n != 1 || err != nil {
		t.Fatalf("%d orders expired, %v", n, err)
	}
}

func TestConfirmedTooLate(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	_, order := b.orderToConfirm()
	bank := b.get(order.path+"/confirm").want(200, atBank)
	s.expire(t)
	late := &browser{t: t, url: s.provider, http: b.http}
	late.post(bank.path, url.Values{"decision": {"approve"}}).want(200, order.path, "We are stopping its payment",
		"If you are charged after all, you will get your money back")
	s.reconcile()
	b.get(order.path).want(200, order.path, "Your payment arrived after the order had ended.", "We are refunding it.")
	s.reconcile()
	b.get(order.path).want(200, order.path, "Your payment arrived after the order had ended.", "We have refunded it.",
		"<td>Refunded</td>", "€14.00", "too late to pay for the order. It goes back.").
		without("We are refunding it", "/receipt")
	s.wantCharge(order.path, payments.Succeeded)
}

// A charge that was given up, and has succeeded since, is no attempt that a new form repeats.
func TestPayAfterMoneyCameTooLate(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	order := b.post("/checkout", b.checkoutForm("pm_declined")).want(200, "/orders/", "declined")
	s.exec(`UPDATE charges SET status = 'succeeded', decline_code = NULL, pays = false, owes = 'late'`)
	page := b.get(order.path).want(200, order.path, "A payment of €14.00 arrived too late", "We are refunding it.")
	page = b.post(order.path+"/pay", url.Values{"try": {page.field("try")}, "payment_method": {"pm_ok"}}).
		want(200, order.path, "Paid, once", "A payment of €14.00 arrived too late")
	s.exec(`UPDATE charges SET amount_refunded = amount WHERE NOT pays`)
	b.get(page.path).want(200, order.path, "Paid, once", "We have refunded it.").without("has been refunded")
	b.get(page.path+"/receipt").want(200, order.path, "€14.00").without("Refunded")
	s.exec(`UPDATE charges SET amount_refunded = 0, owed_ended_at = now() WHERE NOT pays`)
	b.get(page.path).want(200, order.path, "Paid, once", "settled it with you in another way")
}

func TestTooManyDeclines(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	pages := s.pages
	pages.Payments = s.payments(s.pool, func(p *payments.Policy) { p.PayAttempts = 2 })
	b := s.browser()
	b.url = s.serve(pages)
	b.add("MUG-ONCE")
	order := b.post("/checkout", b.checkoutForm("pm_declined")).want(200, "/orders/", "another payment method", "/pay")
	b.post(order.path+"/pay", url.Values{"try": {"1"}, "payment_method": {"pm_insufficient_funds"}}).
		want(200, order.path, "insufficient funds", "too many declined payments", "It expires on").without("/pay")
	b.post(order.path+"/pay", url.Values{"try": {"2"}, "payment_method": {"pm_ok"}}).
		want(200, order.path, "too many declined payments, so nothing was charged just now").without("/pay")
	s.wantCaptures(0)
}

func TestRefundsOnTheOrderPage(t *testing.T) {
	t.Parallel()
	for method, want := range map[string]struct{ before, after string }{
		"pm_ok":             {"<td>Refunded</td>", ""},
		"pm_refund_pending": {"On its way", "<td>Refunded</td>"},
		"pm_refund_refused": {"Failed", ""},
	} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			s := open(t, nil)
			b := s.browser()
			b.add("MUG-ONCE")
			order := b.post("/checkout", b.checkoutForm(method)).want(200, "/orders/", "Paid, once").without("Refunds")
			s.refund(strings.TrimPrefix(order.path, "/orders/"), 500)
			b.get(order.path).want(200, order.path, "Refunds", want.before, "€5.00")
			if want.after != "" {
				b.get(order.path).want(200, order.path, "The provider works on the refund")
			}
			if want.after == "" {
				return
			}
			for _, moment := range []string{"orders.created_at", "stock_movements.created_at", "outbox.created_at",
				"charges.started_at", "charges.asked_at", "charges.settled_at", "refunds.started_at",
				"refunds.asked_at"} {
				table, column, _ := strings.Cut(moment, ".")
				s.exec("UPDATE " + table + " SET " + column + " = " + column + " - interval '1 minute'")
			}
			b.get(order.path).want(200, order.path, "hx-sse:connect")
			shoptest.Eventually(t, 30*time.Second, "the provider has given the money back", func() bool {
				s.reconcile()
				return strings.Contains(b.get(order.path).body, want.after)
			})
			b.get(order.path).want(200, order.path, "€5.00 has been refunded").without(want.before)
		})
	}
}

func TestDisputesOnTheOrderPage(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	order := b.post("/checkout", b.checkoutForm("pm_ok")).want(200, "/orders/", "Paid, once").without("dispute")
	for _, step := range []struct{ dispute, want string }{
		{"open", "We cannot refund it"}, {"won", "The payment stands"}, {"lost", "It will return your money"},
	} {
		s.exec("UPDATE charges SET dispute = '" + step.dispute + "'")
		b.get(order.path).want(200, order.path, "Paid, once", step.want)
	}
	b.get(order.path+"/receipt").want(200, order.path, "the bank took it back")
}
