package browsertest

import (
	"testing"

	"github.com/onceshop/onceshop/internal/app/apptest"
)

// The provider takes the money and does not answer. The order's page is there at once, and it
// follows the payment to its end, with scripts by its stream and without them by reloading itself.
func TestOrderPageFollowsThePayment(t *testing.T) {
	t.Parallel()
	eitherWay(t, func(t *testing.T, open func(string) *tab) {
		shop := apptest.Start(t, 1)
		b := open(shop.Nodes[0])
		b.toOrderButton("pm_timeout_late_webhook")
		b.click(orderButton)
		b.awaitPage("/orders/")
		if b.shows(saysPaid) || !b.shows(saysChecking) {
			t.Errorf("the first page is not about a payment under way: %s", eval[string](b, "document.body.innerText"))
		}
		b.await("the page says that the shop is checking",
			`document.body.innerText.includes("We are checking your payment. Please do not pay again.")`)
		b.awaitPaid()
		boughtOnce(t, shop)
	})
}
