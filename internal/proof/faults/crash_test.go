package faults

import (
	"bytes"
	"encoding/json"
	"net/http"
	"syscall"
	"testing"

	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/proof/fleet"
	"github.com/onceshop/onceshop/internal/proof/kill"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// visit is what a buyer does: order, pay unless method is empty, and then perhaps refund or cancel.
type visit struct {
	method, after string
}

// count is what there is of each thing.
type count map[string]int64

// death is a crash point: what the buyer was doing, what the dead node leaves, and what there is in
// the end.
type death struct {
	visit    visit
	webhooks bool
	// web says that the doomed node has no workers, which could have a mail in hand when it dies.
	web  bool
	left count
	// fresh says that the last request has its effect in the retry: nothing of it was there.
	fresh bool
	ends  count
	twins int64
}

var (
	order = visit{}
	pay   = visit{method: "pm_ok"}
	// The event arrives before the answer, which would settle the charge.
	early  = visit{method: "pm_webhook_first"}
	refund = visit{method: "pm_ok", after: "refund"}
	cancel = visit{method: "pm_ok", after: "cancel"}

	ordered  = count{"orders": 1, "reserved": 1, "captures": 0, "mails": 0}
	paid     = count{"orders": 1, "reserved": 1, "captures": 1, "refunds": 0, "mails": 1}
	refunded = count{"orders": 1, "reserved": 1, "captures": 1, "refunds": 1, "mails": 1}
)

var deaths = map[crash.Point]death{
	crash.PlaceBeforeCommit: {visit: order, left: count{"orders": 0, "reserved": 0, "events": 0}, fresh: true,
		ends: ordered},
	crash.PlaceCommitted: {visit: order, left: count{"orders": 1, "reserved": 1, "events": 1}, ends: ordered},
	crash.ChargeStarted:  {visit: pay, left: count{"unsettled charges": 1, "captures": 0}, ends: paid},
	crash.ChargeCaptured: {visit: pay, left: count{"unsettled charges": 1, "captures": 1}, ends: paid},
	crash.ChargeSettled: {visit: pay, web: true, left: count{"unsettled charges": 0, "captures": 1},
		ends: paid},
	crash.RefundStarted: {visit: refund, left: count{"unsettled refunds": 1, "refunds": 0}, ends: refunded},
	crash.RefundGiven:   {visit: refund, left: count{"unsettled refunds": 1, "refunds": 1}, ends: refunded},
	crash.RefundSettled: {visit: refund, left: count{"unsettled refunds": 0, "refunds": 1}, ends: refunded},
	crash.CancelCommitted: {visit: cancel, left: count{"owed": 1, "refunds": 0, "returned": 1},
		ends: refunded},
	crash.WebhookStored: {visit: early, webhooks: true, web: true,
		left: count{"events to apply": 1, "unsettled charges": 1, "captures": 1}, ends: paid},
	crash.WebhookApplied: {visit: early, webhooks: true, web: true,
		left: count{"provider events": 1, "unsettled charges": 0, "captures": 1}, ends: paid},
	crash.ReconcileBegun: {visit: visit{method: "pm_error_before_capture"},
		left: count{"unsettled charges": 1, "captures": 0}, ends: paid},
	crash.RelayClaimed: {visit: order, left: count{"events": 1, "unsent": 1, "messages": 0},
		ends: count{"orders": 1, "events": 1, "messages": 1}},
	crash.RelayPublished: {visit: order, left: count{"events": 1, "unsent": 1, "messages": 1},
		ends: count{"orders": 1, "events": 1, "messages": 1}},
	crash.ReceiptClaimed: {visit: pay, left: count{"receipts": 0, "mails": 0}, ends: paid},
	// The one window that no guard covers: a twin of the mail, with the same Message-ID.
	crash.ReceiptAccepted: {visit: pay, left: count{"receipts": 0, "mails": 1},
		ends: count{"captures": 1, "receipts": 1, "mails": 2, "message ids": 1}, twins: 1},
	crash.ReceiptRecorded: {visit: pay, left: count{"receipts": 1, "mails": 1}, ends: paid},
}

const buyer = "buyer@example.com"

// A node dies at each of the crash points; another takes its place, the client sends the same
// again, and everything has happened once.
func TestCrash(t *testing.T) {
	t.Parallel()
	if len(deaths) != len(kill.Points()) {
		t.Errorf("%d crash points are tested, there are %d", len(deaths), len(kill.Points()))
	}
	for _, point := range kill.Points() {
		t.Run(string(point), func(t *testing.T) {
			t.Parallel()
			die(t, point, deaths[point], overNATS)
		})
	}
}

func die(t *testing.T, point crash.Point, d death, broker string) {
	t.Helper()
	w := setup(t, settings{webhooks: d.webhooks, broker: broker})
	environ := []string{kill.Env + "=" + string(point)}
	if d.web {
		environ = append(environ, onlyWeb+"=1")
	}
	doomed := w.node(environ...)
	seen := w.visit(d.visit, false)
	if status := doomed.AwaitExit(); status.Signal() != syscall.SIGKILL {
		t.Fatalf("the node has ended with %d", status)
	}
	w.expect("what the dead node has left", d.left)

	w.node()
	w.leasesEnd()
	again := w.visit(d.visit, true)
	for i, answer := range seen {
		if !bytes.Equal(answer.Body, again[i].Body) || answer.Status != again[i].Status {
			t.Errorf("request %d was answered %d %s, its repeat %d %s", i, answer.Status, answer.Body, again[i].Status,
				again[i].Body)
		}
	}
	last := again[len(again)-1]
	if replayed := last.Header.Get("Idempotent-Replayed") != ""; replayed == d.fresh && len(seen) < len(again) {
		t.Errorf("the repeat of what was cut is marked as a replay: %t", replayed)
	}
	w.settled()
	w.expect("what there is in the end", d.ends)
	w.check(d.twins)
}

// visit sends the requests of a visit, always under the same keys, and returns their answers. If it
// does not insist, it stops at the first that is not answered for good.
func (w *world) visit(v visit, insisting bool) (answers []apitest.Response) {
	t := w.t
	t.Helper()
	alice, admin := w.Alice(t), w.Admin(t)
	send := func(client *apitest.Client, path, key, body string) bool {
		if insisting {
			answers = append(answers, insist(t, client, path, key, body))
			return true
		}
		answer, err := client.Try(t.Context(), http.MethodPost, path, key, body)
		if err != nil || !final(answer) {
			return false
		}
		answers = append(answers, answer)
		return true
	}
	if !send(alice, "/v1/orders", "order", apptest.OrderBody(buyer, "MUG-ONCE", 1)) || v.method == "" {
		return answers
	}
	var made struct{ ID string }
	answers[0].JSON(t, &made)
	if !send(alice, "/v1/orders/"+made.ID+"/charges", "pay", `{"payment_method":"`+v.method+`"}`) {
		return answers
	}
	orderPath := "/v1/orders/" + made.ID
	answers[1].JSON(t, &made)
	if v.after != "" {
		// A node that dies for another reason in the midst of the SMTP window may send a twin.
		shoptest.Eventually(t, fleet.Soon, "the receipt is recorded", func() bool { return w.count("receipts") == 1 })
	}
	switch v.after {
	case "refund":
		send(admin, "/v1/charges/"+made.ID+"/refunds", "refund", `{}`)
	case "cancel":
		send(alice, orderPath+"/cancel", "cancel", `{}`)
	}
	return answers
}

var counts = map[string]string{
	"orders":            "SELECT count(*) FROM orders",
	"reserved":          "SELECT count(*) FROM stock_movements WHERE kind = 'reserved'",
	"returned":          "SELECT count(*) FROM stock_movements WHERE kind = 'returned'",
	"events":            "SELECT count(*) FROM outbox",
	"unsent":            "SELECT count(*) FROM outbox WHERE sent_at IS NULL",
	"unsettled charges": "SELECT count(*) FROM charges WHERE settled_at IS NULL",
	"unsettled refunds": "SELECT count(*) FROM refunds WHERE status IN ('pending', 'unknown')",
	"owed":              "SELECT count(*) FROM charges WHERE return_due IS NOT NULL",
	"provider events":   "SELECT count(*) FROM provider_events",
	"events to apply":   "SELECT count(*) FROM provider_events WHERE state = 'received'",
	"receipts":          "SELECT count(*) FROM receipts WHERE sent_at IS NOT NULL",
}

// expect compares with what the database, the provider, the broker and the mailbox hold.
func (w *world) expect(what string, want count) {
	t := w.t
	t.Helper()
	for name, n := range want {
		if got := w.count(name); got != n {
			t.Errorf("%s: %d %s, want %d", what, got, name, n)
		}
	}
}

func (w *world) count(name string) int64 {
	t := w.t
	t.Helper()
	switch name {
	case "messages":
		return w.broker.messages()
	case "mails":
		return int64(len(w.Mails(t, buyer)))
	case "message ids":
		ids := map[string]bool{}
		for _, id := range w.Mails(t, buyer) {
			ids[id] = true
		}
		return int64(len(ids))
	case "captures", "refunds":
		return w.witnessed(name)
	default:
		return w.Count(t, counts[name])
	}
}

// witnessed is how many captures or refunds the provider holds.
func (w *world) witnessed(what string) int64 {
	t := w.t
	t.Helper()
	_, body, err := fleet.Get(t, w.Config.PSPURL+"/v1/"+what)
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string][]json.RawMessage
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatal(err)
	}
	return int64(len(answer[what]))
}
