package security_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// The finer points are in internal/api; here a provider's events meet a whole shop whose secret was
// rotated, while a charge waits for them.
func TestWebhooks(t *testing.T) {
	t.Parallel()
	const old = "whsec_b2xkIHNlY3JldCBmb3IgdGVzdHM="
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(silent.Close)
	shop := apptest.Start(t, 1, func(c *app.Config) { c.PSPURL = silent.URL })
	alice := shop.Alice(t)
	order := place(t, alice, "k")
	path := "/v1/orders/" + order.ID.String()
	charged := alice.Post(t.Context(), path+"/charges", "k", `{"payment_method":"pm_ok"}`)
	expect(t, "charge", charged, http.StatusAccepted, "")
	var charge payments.Charge
	charged.JSON(t, &charge)

	now := time.Now()
	event := func(amount int64, currency string) string {
		body, err := json.Marshal(map[string]any{"type": "capture.succeeded", "timestamp": now,
			"data": payments.Capture{ID: "cap_1", Reference: charge.ID.String(),
				OrderID: order.ID.String(), Status: payments.CaptureSucceeded, Amount: amount, Currency: currency,
				CreatedAt: now}})
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	// deliver signs one body and sends another, if a change says so.
	deliver := func(what string, want int, secret, body string, at time.Time,
		change func(header http.Header, body string) string) {
		t.Helper()
		signature, err := psp.Sign(secret, "evt "+what, at, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		header := http.Header{"Webhook-Id": {"evt " + what}, "Webhook-Timestamp": {strconv.FormatInt(at.Unix(), 10)},
			"Webhook-Signature": {signature}}
		if change != nil {
			body = change(header, body)
		}
		code := ""
		if want == http.StatusBadRequest {
			code = "invalid_request"
		}
		expect(t, what, send(t, http.MethodPost, shop.Nodes[0]+"/v1/webhooks/payments", header, []byte(body)), want,
			code)
	}
	good := event(order.Total, order.Currency)
	deliver("unsigned", 400, apptest.WebhookSecret, good, now, func(header http.Header, body string) string {
		header.Del("Webhook-Signature")
		return body
	})
	deliver("wrongly signed", 400, apptest.WebhookSecret, good, now, func(header http.Header, body string) string {
		header.Set("Webhook-Signature", "v1,AAAA"+header.Get("Webhook-Signature")[7:])
		return body
	})
	deliver("old secret", 400, old, good, now, nil)
	deliver("-301 s", 400, apptest.WebhookSecret, good, time.Now().Add(-301*time.Second), nil)
	// A second and more may pass until it is read, and then it would be in time.
	deliver("+301 s", 400, apptest.WebhookSecret, good, time.Now().Add(360*time.Second), nil)
	deliver("one space", 400, apptest.WebhookSecret, good, now, func(_ http.Header, body string) string {
		return strings.Replace(body, ":", ": ", 1)
	})
	if n := shop.Count(t, "SELECT count(*) FROM provider_events"); n != 0 {
		t.Errorf("%d events of nobody are kept", n)
	}

	deliver("another amount", 204, apptest.WebhookSecret, event(order.Total-1, order.Currency), now, nil)
	deliver("another currency", 204, apptest.WebhookSecret, event(order.Total, "JPY"), now, nil)
	// An event is answered once it is stored. The shop's worker may be the one that applies it, a
	// moment later.
	shoptest.Eventually(t, 30*time.Second, "two events are in quarantine", func() bool {
		return shop.Count(t, "SELECT count(*) FROM provider_events WHERE state = 'quarantined' AND reason <> ''") == 2
	})
	alice.Get(t.Context(), path).JSON(t, &order)
	if order.Status != orders.Paying {
		t.Errorf("the order is %s", order.Status)
	}
	deliver("the real one", 204, apptest.WebhookSecret, good, time.Now(), nil)
	shoptest.Eventually(t, 30*time.Second, "the order is paid", func() bool {
		alice.Get(t.Context(), path).JSON(t, &order)
		return order.Status == orders.Paid
	})
}
