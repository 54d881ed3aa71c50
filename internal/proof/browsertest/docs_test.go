package browsertest

import (
	"testing"

	"github.com/onceshop/onceshop/internal/app/apptest"
)

func TestDocsPages(t *testing.T) {
	t.Parallel()
	b := newGuest(t, apptest.Start(t, 1).Nodes[0])
	for _, v := range []visit{
		{name: "docs", path: "/docs", says: "Place an order"},
		{name: "docs-call", path: "/docs/placeOrder", says: "curl -i"},
		{name: "docs-charge", path: "/docs/chargeOrder", says: "requires_action"},
		{name: "docs-webhook", path: "/docs/receivePaymentEvent", says: "Only the payment provider"},
		{name: "docs-objects", path: "/docs/objects", says: "TimelineEvent"},
		{name: "problems", path: "/problems", says: "erased"},
		{name: "problem", path: "/problems/out_of_stock", says: "Is a new key safe?"},
	} {
		b.visit(v)
	}
}
