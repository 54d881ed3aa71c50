package faults

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// The provider's event comes a hundred times at once to two nodes, while nobody knows what became
// of the charge; then once more, three days late. It has one effect. A forged one and one about
// another amount have none.
func TestProviderEvents(t *testing.T) {
	t.Parallel()
	w := setup(t, settings{})
	w.node()
	w.another()
	answers := w.visit(order, true)
	var placed struct{ ID string }
	answers[0].JSON(t, &placed)
	charged := w.Alice(t).Post(t.Context(), "/v1/orders/"+placed.ID+"/charges", "pay",
		`{"payment_method":"pm_error_after_capture"}`)
	if charged.Status != http.StatusAccepted {
		t.Fatalf("%d %s", charged.Status, charged.Body)
	}
	capture := w.Captures(t, placed.ID)[0]
	for i, status := range shoptest.Race(100, func(i int) int {
		return w.tell(i%2, "evt_"+capture.ID, apptest.WebhookSecret, time.Now(), capture)
	}) {
		if status != http.StatusNoContent {
			t.Errorf("copy %d: %d", i, status)
		}
	}
	other := capture
	other.Amount++
	for what, got := range map[string][2]int{
		"three days late": {w.tell(0, "evt_"+capture.ID, apptest.WebhookSecret, time.Now().Add(-72*time.Hour),
			capture), http.StatusNoContent},
		"late, under another id": {w.tell(0, "evt_late", apptest.WebhookSecret, time.Now().Add(-72*time.Hour),
			capture), http.StatusNoContent},
		"forged": {w.tell(0, "evt_forged", "whsec_Zm9yZ2VkIQ==", time.Now(), capture),
			http.StatusBadRequest},
		"about another amount": {w.tell(0, "evt_other", apptest.WebhookSecret, time.Now(), other),
			http.StatusNoContent},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %d, want %d", what, got[0], got[1])
		}
	}
	w.settled()
	w.expect("in the end", paid)
	if n := w.Count(t, "SELECT count(*) FROM provider_events WHERE state = 'applied'"); n != 2 {
		t.Errorf("%d events are kept as applied, want 2", n)
	}
	n := w.Count(t, "SELECT count(*) FROM provider_events WHERE state = 'quarantined' AND id = 'evt_other'")
	if n != 1 {
		t.Errorf("%d events are in quarantine, want 1", n)
	}
	w.check(0)
}

// tell sends a node an event as the provider does, and returns the answer's status.
func (w *world) tell(node int, id, secret string, at time.Time, capture payments.Capture) int {
	t := w.t
	t.Helper()
	body, err := json.Marshal(map[string]any{"type": "capture." + capture.Status, "timestamp": at, "data": capture})
	if err != nil {
		t.Error(err)
	}
	now := time.Now()
	signature, err := psp.Sign(secret, id, now, body)
	if err != nil {
		t.Error(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.Nodes[node]+"/v1/webhooks/payments",
		strings.NewReader(string(body)))
	if err != nil {
		t.Error(err)
		return 0
	}
	request.Close = true
	for name, value := range map[string]string{"id": id, "timestamp": strconv.FormatInt(now.Unix(), 10),
		"signature": signature} {
		request.Header.Set("webhook-"+name, value)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer answer.Body.Close()
	return answer.StatusCode
}

// Every way in which the provider can fail a charge, against a node that is a process of its own:
// the buyer is told to wait, never to pay again, and the money moves once.
func TestProviderFails(t *testing.T) {
	t.Parallel()
	w := setup(t, settings{})
	w.node()
	// slower than the timeout
	methods := []string{"pm_timeout_before_capture", "pm_timeout_after_capture", "pm_error_before_capture",
		"pm_error_after_capture", "pm_slow"}
	paths := shoptest.Race(len(methods), func(i int) string {
		email := fmt.Sprintf("buyer-%d@example.com", i)
		placed := w.Alice(t).Post(t.Context(), "/v1/orders", "order-"+email, apptest.OrderBody(email, "MUG-ONCE", 1))
		var made struct{ ID string }
		placed.JSON(t, &made)
		path := "/v1/orders/" + made.ID + "/charges"
		body := `{"payment_method":"` + methods[i] + `"}`
		if first := w.Alice(t).Post(t.Context(), path, "pay-"+email, body); first.Status != http.StatusAccepted {
			t.Errorf("%s: %d %s", methods[i], first.Status, first.Body)
		}
		if another := w.Alice(t).Post(t.Context(), path, "again-"+email,
			`{"payment_method":"pm_ok"}`); another.Status != http.StatusConflict {
			t.Errorf("%s, paid again: %d %s", methods[i], another.Status, another.Body)
		}
		if end := insist(t, w.Alice(t), path, "pay-"+email, body); end.Status != http.StatusCreated {
			t.Errorf("%s: %d %s in the end", methods[i], end.Status, end.Body)
		}
		return made.ID
	})
	w.settled()
	for i, id := range paths {
		if captures := w.Captures(t, id); len(captures) != 1 {
			t.Errorf("%s: %d captures", methods[i], len(captures))
		}
	}
	w.check(0)
}
