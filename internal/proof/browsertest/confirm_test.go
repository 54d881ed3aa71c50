package browsertest

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/onceshop/onceshop/internal/app/apptest"
)

const (
	saysConfirm = "Your bank asks you to confirm this payment."

	toBank = `main a[href$="/confirm"]`
	atBank = "/action/"
)

func decision(value string) string {
	return `form[action^="` + atBank + `"] button[value="` + value + `"]`
}

// toTheBank orders with a card whose bank asks. A script leads on to the bank; without scripts the
// order's page has a link.
func (b *tab) toTheBank() {
	b.t.Helper()
	b.toOrderButton("pm_requires_action")
	b.click(orderButton)
	if b.scriptless {
		b.awaitPage("/orders/")
		b.follow(toBank)
	}
	b.awaitPage(atBank)
}

func TestConfirmAtTheBank(t *testing.T) {
	t.Parallel()
	eitherWay(t, func(t *testing.T, open func(string) *tab) {
		shop := apptest.Start(t, 1)
		b := open(shop.Nodes[0])
		b.toTheBank()
		b.click(decision("approve"))
		b.awaitPaid()
		boughtOnce(t, shop)
	})
}

func TestRefuseAtTheBankAndPayAnew(t *testing.T) {
	t.Parallel()
	eitherWay(t, func(t *testing.T, open func(string) *tab) {
		shop := apptest.Start(t, 1)
		b := open(shop.Nodes[0])
		b.toTheBank()
		b.click(decision("refuse"))
		b.await("the order can be paid anew", `document.querySelector('form[action$="/pay"] button') != null`)
		if !b.shows("it was not confirmed with the bank") {
			t.Errorf("the page does not give the reason: %s", eval[string](b, "document.body.innerText"))
		}
		b.click(`form[action$="/pay"] button`)
		b.awaitPaid()
		boughtOnce(t, shop)
	})
}

// The order's page waits where the buyer comes back without a decision, and in a second tab. It
// does not lead on by itself again.
func TestBackFromTheBank(t *testing.T) {
	t.Parallel()
	eitherWay(t, func(t *testing.T, open func(string) *tab) {
		shop := apptest.Start(t, 1)
		b := open(shop.Nodes[0])
		b.toTheBank()
		b.step(-1)
		b.awaitPage("/orders/")
		if !b.shows(saysConfirm) {
			t.Errorf("the page does not say %q: %s", saysConfirm, eval[string](b, "document.body.innerText"))
		}
		path := eval[string](b, "location.pathname")
		second := b.another(shop.Nodes[0])
		second.goTo(path)
		second.follow(toBank)
		second.click(decision("approve"))
		second.awaitPaid()
		if b.scriptless { // a page from the browser's memory does not reload by itself
			b.goTo(path)
		}
		b.awaitPaid()
		boughtOnce(t, shop)
	})
}

// TestPagesAfterANo looks at what the other page tests do not show.
func TestPagesAfterANo(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	b := newGuest(t, shop.Nodes[0])
	b.toTheBank()
	b.inspect("bank")
	b.step(-1)
	b.awaitPage("/orders/")
	b.inspect("order-confirm")
	path := eval[string](b, "location.pathname")
	id := strings.TrimPrefix(path, "/orders/")
	b.follow(toBank)
	bank := b.where()
	b.click(decision("approve"))
	b.awaitPaid()
	b.do("go to the bank again", chromedp.Navigate(bank))
	b.inspect("bank-approved")

	// How these come about is not what is tested here.
	shop.Exec(t, `INSERT INTO refunds
			(id, charge_id, cause, status, amount, currency, lease_until, created_at, settled_at)
		SELECT gen_random_uuid(), c.id, 'outside', s.status, 500, c.currency, now() + interval '1 hour', now(),
			CASE WHEN s.status <> 'pending' THEN now() END
		FROM charges c, unnest(ARRAY['succeeded', 'failed', 'pending']) AS s(status) WHERE c.order_id = $1`, id)
	shop.Exec(t, `UPDATE charges SET amount_refunded = 500, refund_reserved = 500, dispute = 'open'
		WHERE order_id = $1`, id)
	b.visit(visit{name: "order-refunds-disputed", path: path, says: "You have disputed this payment"})
	shop.Exec(t, "UPDATE charges SET pays = false, owes = 'late', dispute = NULL WHERE order_id = $1", id)
	shop.Exec(t, "UPDATE orders SET status = 'expired' WHERE id = $1", id)
	b.visit(visit{name: "order-late", path: path, says: "We are refunding it."})
}
