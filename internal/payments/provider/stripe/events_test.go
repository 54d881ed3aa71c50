package stripe_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/payments/provider/stripe"
)

const (
	oldSecret = "whsec_old"
	newSecret = "whsec_new"
	reference = "0193588e-6c00-7a3b-8f21-5d0c9e4b7a12"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// eventBody is an event as Stripe sends it, with an API version that is not the library's.
func eventBody(t *testing.T, kind string, about object) []byte {
	t.Helper()
	body, err := json.MarshalIndent(object{"id": "evt_1", "object": "event", "api_version": "2024-10-28.acacia",
		"created": now.Unix(), "type": kind,
		"livemode": false, "pending_webhooks": 1, "request": object{"id": "req_1", "idempotency_key": "charge_1"},
		"data": object{"object": about}}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func sign(secret string, at time.Time, body []byte) http.Header {
	return http.Header{"Stripe-Signature": {fmt.Sprintf("t=%d,v1=%s,v0=00", at.Unix(), signature(secret, at, body))}}
}

// signature is what Stripe's documentation prescribes.
func signature(secret string, at time.Time, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%d.%s", at.Unix(), body)
	return hex.EncodeToString(mac.Sum(nil))
}

func receiver(t *testing.T, secrets string) *stripe.Receiver {
	t.Helper()
	r, err := open(t, "").NewReceiver(secrets, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSignatures(t *testing.T) {
	t.Parallel()
	body := eventBody(t, "payment_intent.succeeded", intentObject("pi_1", "succeeded", 1250, "eur", reference, orderID))
	spaced := []byte(strings.Replace(string(body), `": `, `":  `, 1))
	twoTimes := sign(newSecret, now.Add(-time.Hour), body)
	twoTimes.Set("Stripe-Signature", fmt.Sprintf("t=%d,%s", now.Unix(), twoTimes.Get("Stripe-Signature")))
	rolled := sign(oldSecret, now, body)
	second := signature(newSecret, now, body)
	rolled.Set("Stripe-Signature", rolled.Get("Stripe-Signature")+",v1="+second)
	for name, tc := range map[string]struct {
		secrets string
		header  http.Header
		body    []byte
		valid   bool
	}{
		"signed now":                     {newSecret, sign(newSecret, now, body), body, true},
		"old secret while it is rotated": {newSecret + " " + oldSecret, sign(oldSecret, now, body), body, true},
		"new secret while it is rotated": {oldSecret + "\n" + newSecret, sign(newSecret, now, body), body, true},
		"signed with both":               {newSecret, rolled, body, true},
		"old secret after the rotation":  {newSecret, sign(oldSecret, now, body), body, false},
		"foreign secret":                 {newSecret, sign("whsec_foreign", now, body), body, false},
		"299 s old":                      {newSecret, sign(newSecret, now.Add(-299*time.Second), body), body, true},
		"301 s old":                      {newSecret, sign(newSecret, now.Add(-301*time.Second), body), body, false},
		"299 s ahead":                    {newSecret, sign(newSecret, now.Add(299*time.Second), body), body, true},
		"301 s ahead":                    {newSecret, sign(newSecret, now.Add(301*time.Second), body), body, false},
		"one space more":                 {newSecret, sign(newSecret, now, body), spaced, false},
		"another time before the signed": {newSecret, twoTimes, body, false},
		"no signature":                   {newSecret, http.Header{}, body, false},
		"only a time": {newSecret,
			http.Header{"Stripe-Signature": {fmt.Sprintf("t=%d", now.Unix())}}, body, false},
		"nonsense":         {newSecret, http.Header{"Stripe-Signature": {"t=,v1=zz"}}, body, false},
		"no secret at all": {"", sign("", now, body), body, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			event, err := receiver(t, tc.secrets).Read(tc.header, tc.body)
			if tc.valid && (err != nil || event.ID != "evt_1") {
				t.Errorf("got %+v, %v", event, err)
			}
			if !tc.valid && !errors.Is(err, payments.ErrNotSigned) {
				t.Errorf("got %v, want ErrNotSigned", err)
			}
		})
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	declined := intentObject("pi_1", "requires_payment_method", 1250, "eur", reference, orderID)
	declined["last_payment_error"] = object{"type": "card_error", "code": "card_declined", "decline_code": "lost_card"}
	created := time.Unix(time.Now().Unix(), 0).UTC()
	intent := func(status string) object {
		o := intentObject("pi_1", status, 1250, "eur", reference, orderID)
		o["created"] = created.Unix()
		return o
	}
	declined["created"] = created.Unix()
	back := func(status string) object {
		o := refundObject("re_1", "pi_1", 400, status)
		o["created"], o["metadata"] = created.Unix(), object{"refund_id": reference}
		return o
	}
	capture := func(status, code string) *payments.Capture {
		return &payments.Capture{ID: "pi_1", Reference: reference, OrderID: orderID, Status: status, DeclineCode: code,
			Amount: 1250, Currency: "EUR", CreatedAt: created}
	}
	given := func(status, code string) *payments.ProviderRefund {
		return &payments.ProviderRefund{ID: "re_1", CaptureID: "pi_1", Reference: reference, Status: status,
			FailureCode: code, Amount: 400, Currency: "EUR", CreatedAt: created}
	}
	objection := func(status string) object {
		return object{"id": "du_1", "object": "dispute", "payment_intent": "pi_1", "charge": "ch_1", "status": status,
			"amount": 1250, "currency": "eur", "created": created.Unix()}
	}
	opened := func(status string) payments.Event {
		return payments.Event{Shared: true, Dispute: &payments.Dispute{ID: "du_1", CaptureID: "pi_1", Status: status,
			Amount: 1250, Currency: "EUR", CreatedAt: created}}
	}
	with := func(o object, field string, value any) object {
		o[field] = value
		return o
	}
	for _, tc := range []struct {
		kind  string
		about object
		want  payments.Event
	}{
		{"payment_intent.succeeded", intent("succeeded"), payments.Event{Capture: capture("succeeded", "")}},
		{"payment_intent.payment_failed", declined, payments.Event{Capture: capture("declined", "lost_card")}},
		{"payment_intent.canceled", intent("canceled"), payments.Event{Capture: capture("canceled", "")}},
		{"payment_intent.succeeded", with(intent("succeeded"), "metadata", object{}), payments.Event{Ignored: true}},
		{"payment_intent.succeeded", with(intent("succeeded"), "metadata", object{"order_id": "7"}),
			payments.Event{Ignored: true}},
		{"payment_intent.payment_failed", intent("processing"), payments.Event{Unreadable: "?"}},
		{"payment_intent.canceled", intent("requires_confirmation"), payments.Event{Unreadable: "?"}},
		{"payment_intent.succeeded", with(intent("succeeded"), "created", int64(1e15)),
			payments.Event{Unreadable: "?"}},
		{"payment_intent.succeeded", with(intent("succeeded"), "id", "pi_\u0000"), payments.Event{Unreadable: "?"}},
		{"payment_intent.succeeded", object{"amount": "many"}, payments.Event{Unreadable: "?"}},
		{"refund.created", back("succeeded"), payments.Event{Refund: given("succeeded", "")}},
		{"refund.updated", back("succeeded"), payments.Event{Refund: given("succeeded", "")}},
		{"refund.created", back("pending"), payments.Event{Refund: given("pending", "")}},
		{"refund.updated", with(back("failed"), "failure_reason", "lost_or_stolen_card"),
			payments.Event{Refund: given("failed", "lost_or_stolen_card")}},
		{"refund.failed", back("failed"), payments.Event{Refund: given("failed", "failed")}},
		{"refund.updated", back("made_up"), payments.Event{Unreadable: "?"}},
		{"refund.created", with(back("succeeded"), "payment_intent", nil), payments.Event{Ignored: true}},
		{"charge.refund.updated", back("failed"), payments.Event{Ignored: true}},
		{"charge.dispute.created", objection("needs_response"), opened("open")},
		{"charge.dispute.funds_withdrawn", objection("needs_response"), opened("open")},
		{"charge.dispute.updated", objection("under_review"), opened("open")},
		{"charge.dispute.created", objection("warning_needs_response"), opened("open")},
		{"charge.dispute.closed", objection("warning_closed"), opened("won")},
		{"charge.dispute.closed", objection("won"), opened("won")},
		{"charge.dispute.funds_reinstated", objection("won"), opened("won")},
		{"charge.dispute.closed", objection("lost"), opened("lost")},
		{"charge.dispute.closed", objection("prevented"), payments.Event{Unreadable: "?"}},
		{"charge.dispute.created", with(objection("needs_response"), "payment_intent", nil),
			payments.Event{Ignored: true}},
		{"charge.refunded", object{"id": "ch_1", "object": "charge", "amount_refunded": 400},
			payments.Event{Ignored: true}},
		{"payment_intent.created", intent("requires_payment_method"), payments.Event{Ignored: true}},
		{"customer.created", object{"id": "cus_1", "object": "customer"}, payments.Event{Ignored: true}},
		{"made.up.tomorrow", object{"id": "x_1", "object": "x"}, payments.Event{Ignored: true}},
	} {
		t.Run(tc.kind+"/"+fmt.Sprint(tc.about["status"]), func(t *testing.T) {
			t.Parallel()
			body := eventBody(t, tc.kind, tc.about)
			got, err := receiver(t, newSecret).Read(sign(newSecret, now, body), body)
			if err != nil {
				t.Fatal(err)
			}
			if got.Unreadable != "" && tc.want.Unreadable != "" {
				tc.want.Unreadable = got.Unreadable
			}
			tc.want.ID, tc.want.Type, tc.want.Payload = "evt_1", tc.kind, body
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The sender is known, the content is not. Every delivery of a body has the same id.
func TestSignedNonsense(t *testing.T) {
	t.Parallel()
	ids := map[string]bool{}
	bodies := []string{``, `null`, `{}`, `[]`, `{"id":"evt\u0000","type":"payment_intent.succeeded"}`,
		`{"id":"evt_1","object":"event","type":"payment_intent.succeeded"}`,
		`{"id":"evt_2","type":"payment_intent.succeeded","data":{"object":{"amount":1e200000}}}`,
		`{"id":"evt_3","type":"payment_intent.succeeded","data":{"object":null}}`}
	for _, body := range bodies {
		for range 2 {
			event, err := receiver(t, newSecret).Read(sign(newSecret, now, []byte(body)), []byte(body))
			if err != nil || event.Unreadable == "" || event.ID == "" || string(event.Payload) != body {
				t.Errorf("%q: %+v, %v", body, event, err)
			}
			ids[event.ID] = true
		}
	}
	if len(ids) != len(bodies) {
		t.Errorf("%d bodies have the ids %v", len(bodies), ids)
	}
}

func TestEventOfTheOtherMode(t *testing.T) {
	t.Parallel()
	body := eventBody(t, "payment_intent.succeeded", intentObject("pi_1", "succeeded", 1250, "eur", reference, orderID))
	body = []byte(strings.Replace(string(body), `"livemode": false`, `"livemode": true`, 1))
	event, err := receiver(t, newSecret).Read(sign(newSecret, now, body), body)
	if err != nil || !strings.Contains(event.Unreadable, "wrong mode") || event.Capture != nil || event.ID != "evt_1" {
		t.Errorf("got %+v, %v", event, err)
	}
}

func TestSecretsThatCannotBe(t *testing.T) {
	t.Parallel()
	for _, secrets := range []string{"sk_test_1", "whsec_1 and", "c2VjcmV0"} {
		if _, err := open(t, "").NewReceiver(secrets, time.Now); err == nil ||
			!strings.Contains(err.Error(), "STRIPE_WEBHOOK_SECRET") {
			t.Errorf("%q: %v", secrets, err)
		}
	}
}
