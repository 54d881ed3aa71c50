package payments_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/check"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// afterwards are the payment methods whose trouble begins after the first answer, each with the
// final answers to its charge and to a refund of a part. Of twenty orders of a method one half is
// refunded in part, the other is canceled.
var afterwards = []struct {
	method   string
	decision string // of the buyer at the bank
	charge   int
	refund   int
	keeps    bool // the provider returns nothing, so that what is owed waits for an operator
}{
	{"pm_timeout_late_webhook", "", 201, 201, false},
	{"pm_requires_action", "approve", 201, 201, false},
	{"pm_requires_action", "refuse", 402, 0, false},
	{"pm_requires_action", "", 402, 0, false}, // the buyer leaves, and cancels the order
	{"pm_refund_refused", "", 201, 402, true},
	{"pm_refund_pending", "", 201, 201, false},
	{"pm_refund_fails_later", "", 201, 402, true},
	{"pm_disputed", "", 201, 201, false}, // the shop wins
}

// Whatever a provider does after its first answer: a client that retries as it should gets one
// final answer, every object becomes final or stands before an operator, and the provider's log
// agrees.
func TestEveryPaymentMethodEnds(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	shop := apptest.Start(t, 2, impatient)
	t.Cleanup(func() {
		consistent(t, check.Sources{DB: shop.Pool, ProviderURL: shop.Config.PSPURL, MailboxURL: shop.Mailbox})
	})
	var lanes errgroup.Group
	lanes.SetLimit(4)
	for m := range afterwards {
		lanes.Go(func() error {
			shoptest.Race(buyers, func(i int) bool { return buyAndReturn(t, shop, m, i) })
			return nil
		})
	}
	_ = lanes.Wait() // no lane fails
	shoptest.Eventually(t, 2*within, "nothing is open", func() bool {
		// An operator would see the same after hours.
		shop.Exec(t, "UPDATE charges SET return_due = now() WHERE return_due > now() AND refund_reserved = 0")
		shop.Exec(t, "UPDATE refunds SET lease_until = least(lease_until, now() + interval '1 second') "+
			"WHERE status = 'pending'")
		return shop.Count(t, "SELECT "+open) == 0
	})
	expectLogged(t, shop)
	for m, a := range afterwards {
		like := fmt.Sprintf("%d/%%", m)
		const owing = "SELECT count(*) FROM charges WHERE idempotency_key LIKE $1 AND owes IS NOT NULL " +
			"AND owed_ended_at IS NULL AND amount_refunded < amount"
		want := int64(0)
		if a.keeps {
			want = buyers / 2
		}
		if n := shop.Count(t, owing, like); n != want {
			t.Errorf("%s %s: %d charges wait for an operator, want %d", a.method, a.decision, n, want)
		}
	}
}

// buyAndReturn pays for an order and gives a part back, or cancels it.
func buyAndReturn(t *testing.T, shop *apptest.Shop, m, i int) bool {
	a, key := afterwards[m], fmt.Sprintf("%d/%d", m, i)
	alice, admin := shop.Client(t, i%2, "demo-alice"), shop.Client(t, i%2, "demo-admin")
	order := placeOver(t, alice, key)
	body := `{"payment_method":"` + a.method + `"}`
	cancel := func() {
		if answer := persist(t, alice, "/v1/orders/"+order.ID.String()+"/cancel", key, ""); answer.Status != 200 {
			t.Errorf("%s: cancel: %d %s", a.method, answer.Status, answer.Body)
		}
	}
	if a.method == "pm_requires_action" {
		first := alice.Post(t.Context(), chargePath(order), key, body)
		var charge payments.Charge
		first.JSON(t, &charge)
		switch {
		case first.Status != http.StatusAccepted || charge.NextAction == nil:
			t.Errorf("%s: %d %s", a.method, first.Status, first.Body)
			return false
		case a.decision == "":
			cancel()
		default:
			decideAt(t, charge.NextAction.URL, a.decision)
		}
	}
	answer := persist(t, alice, chargePath(order), key, body)
	if answer.Status != a.charge {
		t.Errorf("%s %s: charge: %d %s, want %d", a.method, a.decision, answer.Status, answer.Body, a.charge)
		return false
	}
	if a.method == "pm_disputed" {
		winDispute(t, shop, admin, order, answer)
	}
	switch {
	case a.charge != http.StatusCreated:
	case i%2 == 0:
		cancel()
	default:
		var charge payments.Charge
		answer.JSON(t, &charge)
		part := persist(t, admin, "/v1/charges/"+charge.ID.String()+"/refunds", key, `{"amount":5}`)
		if part.Status != a.refund {
			t.Errorf("%s: refund: %d %s, want %d", a.method, part.Status, part.Body, a.refund)
		}
	}
	again := shop.Client(t, (i+1)%2, "demo-alice").Post(t.Context(), chargePath(order), key, body)
	if again.Status != answer.Status || !bytes.Equal(again.Body, answer.Body) {
		t.Errorf("%s again: %d %s, first %d %s", a.method, again.Status, again.Body, answer.Status, answer.Body)
	}
	return true
}

// decideAt presses a button of the bank's page.
func decideAt(t testing.TB, page, decision string) {
	t.Helper()
	browser := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := browser.PostForm(page, url.Values{"decision": {decision}})
	if err != nil {
		t.Error(err)
		return
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusSeeOther {
		t.Errorf("%s at the bank: %s", decision, answer.Status)
	}
}

// winDispute waits for the dispute, finds that no refund is possible meanwhile, and wins it.
func winDispute(t *testing.T, shop *apptest.Shop, admin *apitest.Client, order orders.Order, paid apitest.Response) {
	t.Helper()
	var charge payments.Charge
	paid.JSON(t, &charge)
	is := func(dispute string) func() bool {
		return func() bool {
			return shop.Count(t, "SELECT count(*) FROM charges WHERE id = $1 AND dispute = $2", charge.ID, dispute) == 1
		}
	}
	shoptest.Eventually(t, within, "the dispute is known", is("open"))
	refused := admin.Post(t.Context(), "/v1/charges/"+charge.ID.String()+"/refunds", uuid.NewString(), `{}`)
	if refused.Status != http.StatusConflict || !strings.Contains(string(refused.Body), `"charge_disputed"`) {
		t.Errorf("refund of a disputed charge: %d %s", refused.Status, refused.Body)
	}
	captureID := shop.Captures(t, order.ID.String())[0].ID
	answer, err := http.Get(shop.Config.PSPURL + "/v1/disputes?capture_id=" + captureID)
	if err != nil {
		t.Error(err)
		return
	}
	defer answer.Body.Close()
	var held struct{ Disputes []payments.Dispute }
	if err := json.NewDecoder(answer.Body).Decode(&held); err != nil || len(held.Disputes) != 1 {
		t.Errorf("the provider's disputes: %+v, %v", held, err)
		return
	}
	won, err := http.PostForm(shop.Config.PSPURL+"/disputes/"+held.Disputes[0].ID, url.Values{"outcome": {"won"}})
	if err != nil {
		t.Error(err)
		return
	}
	won.Body.Close()
	shoptest.Eventually(t, within, "the dispute is won", is("won"))
}

// expectLogged compares what the shop has written down with the provider's log, order by order.
func expectLogged(t *testing.T, shop *apptest.Shop) {
	t.Helper()
	took := captured(t, shop.PSPLog)
	gave := returned(t, shop.PSPLog)
	rows, err := shop.Pool.Query(t.Context(), `SELECT c.order_id::text, c.provider_id, c.status,
		CASE WHEN c.status = 'succeeded' THEN c.amount ELSE 0 END, c.amount_refunded FROM charges c`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var order, status string
		var capture *string
		var amount, refunded int64
		if err := rows.Scan(&order, &capture, &status, &amount, &refunded); err != nil {
			t.Fatal(err)
		}
		back := int64(0)
		if capture != nil {
			back = gave[*capture]
		}
		if took[order] != amount || back != refunded {
			t.Errorf("the %s charge of order %s took %d and gave back %d, the provider's log has %d and %d", status,
				order, amount, refunded, took[order], back)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}

// returned is what the provider's log says it gave back of each capture. A refund has a line for
// each of its states.
func returned(t *testing.T, path string) map[string]int64 {
	t.Helper()
	log, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]payments.ProviderRefund{}
	lines := bufio.NewScanner(bytes.NewReader(log))
	for lines.Scan() {
		var line struct{ Refund payments.ProviderRefund }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Refund.ID != "" {
			last[line.Refund.ID] = line.Refund
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	sums := map[string]int64{}
	for _, refund := range last {
		if refund.Status == payments.RefundSucceeded {
			sums[refund.CaptureID] += refund.Amount
		}
	}
	return sums
}
