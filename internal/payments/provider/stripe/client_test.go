package stripe_test

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/payments/provider/stripe"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const (
	secretKey = "sk_test_4eC39secret"
	orderID   = "0193588e-6c00-7a3b-8f21-5d0c9e4b7a10"
	// timeout is long enough for a server on this machine, also a busy one, unless it keeps silent.
	timeout = time.Second
)

func TestMain(m *testing.M) { shoptest.Main(m) }

func open(t *testing.T, baseURL string) *stripe.Client {
	t.Helper()
	client, err := stripe.New(secretKey, baseURL, timeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

func newRequest(t *testing.T, method string) payments.CaptureRequest {
	t.Helper()
	return payments.CaptureRequest{Key: "charge_1", Reference: uuid.Must(uuid.NewV7()).String(), OrderID: orderID,
		Amount: 1250, Currency: "EUR", PaymentMethod: method, ReturnURL: "https://shop.test/orders/1"}
}

func TestCaptureSendsOnceWhatWasAsked(t *testing.T) {
	t.Parallel()
	account := openAccount(t)
	r := newRequest(t, "pm_card_visa")
	got, err := open(t, account.url).Capture(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if time.Since(got.CreatedAt).Abs() > time.Minute {
		t.Errorf("created at %s", got.CreatedAt)
	}
	got.CreatedAt = time.Time{}
	want := payments.Capture{ID: "pi_1", Reference: r.Reference, OrderID: orderID, Status: payments.CaptureSucceeded,
		Amount: 1250, Currency: "EUR"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	sent := []call{
		{http.MethodPost, "/v1/payment_intents", "charge_1", "Bearer " + secretKey, url.Values{
			"amount": {"1250"}, "currency": {"eur"}, "payment_method": {"pm_card_visa"},
			"payment_method_types[]": {"card"},
			"metadata[reference]":    {r.Reference}, "metadata[order_id]": {orderID}}},
		{http.MethodPost, "/v1/payment_intents/pi_1/confirm", "charge_1_confirm", "Bearer " + secretKey, url.Values{
			"return_url": {"https://shop.test/orders/1"}}}}
	if diff := cmp.Diff(sent, account.posts(), cmp.AllowUnexported(call{})); diff != "" {
		t.Error(diff)
	}
}

func TestDeclines(t *testing.T) {
	t.Parallel()
	bare := answers(http.StatusPaymentRequired, failed("card_error", "card_declined", ""))
	unnamed := func(w http.ResponseWriter, r *http.Request, work func() saved) {
		work()
		bare(w, r, work)
	}
	for name, tc := range map[string]struct {
		at               string
		fault            fault
		method           string
		id, status, code string
	}{
		"insufficient funds": {"", nil, "pm_card_chargeDeclinedInsufficientFunds", "pi_1", "declined",
			"insufficient_funds"},
		"without the PaymentIntent": {"/confirm", unnamed, "pm_card_chargeDeclinedInsufficientFunds", "pi_1",
			"declined", "insufficient_funds"},
		"before there is a PaymentIntent": {"/payment_intents", bare, "pm_card_visa", "", "declined", "declined"},
		"canceled": {"/confirm", changed("status", "canceled"), "pm_card_visa", "pi_1",
			"canceled", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			account := openAccount(t)
			account.onNextAt(tc.at, tc.fault)
			r := newRequest(t, tc.method)
			got, err := open(t, account.url).Capture(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if got.Status != tc.status || got.DeclineCode != tc.code || got.ID != tc.id ||
				got.Reference != r.Reference || got.Amount != r.Amount {
				t.Errorf("got %+v", got)
			}
			if sent := account.posts(); len(sent) > 2 {
				t.Errorf("sent %+v", sent)
			}
		})
	}
}

func TestSameKeyTakesMoneyOnce(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"/payment_intents", "/confirm"} {
		for _, known := range []bool{false, true} {
			account := openAccount(t)
			client := open(t, account.url)
			r := newRequest(t, "pm_card_visa")
			account.onNextAt(at, cut)
			lost, err := client.Capture(t.Context(), r)
			if err == nil {
				t.Fatal("a cut connection is no answer")
			}
			if want := map[string]string{"/confirm": "pi_1"}[at]; lost.ID != want {
				t.Errorf("the id beside the error of %s is %q", at, lost.ID)
			}
			if known {
				r.ID = lost.ID
			}
			first, err := client.Capture(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			second, err := client.Capture(t.Context(), r)
			if err != nil || second != first || len(account.captured()) != 1 {
				t.Errorf("first %+v, second %+v, %v; %d captures", first, second, err, len(account.captured()))
			}
			if sent := account.posts(); len(slices.DeleteFunc(sent, func(c call) bool {
				return !strings.HasSuffix(c.path, "/confirm")
			})) != 1 {
				t.Errorf("after %s was cut it was confirmed again: %+v", at, sent)
			}
			r.Amount++
			if _, err := client.Capture(t.Context(), r); err == nil || errors.Is(err, payments.ErrRefused) {
				t.Errorf("another amount under the key: %v", err)
			}
		}
	}
}

// notFinal are answers after which nobody knows whether money moved. Whether it did does not matter
// here.
var notFinal = map[string]fault{
	"silence":             silent,
	"cut":                 cut,
	"cut in the body":     cutInBody,
	"500":                 answers(500, failed("api_error", "", "")),
	"500 of a card":       answers(500, failed("card_error", "processing_error", "")),
	"500 of a proxy":      says(502, "<html>Bad gateway "+secretKey+"</html>"),
	"429":                 answers(429, failed("invalid_request_error", "rate_limit", "")),
	"409 key in use":      answers(409, failed("idempotency_error", "idempotency_key_in_use", "")),
	"409 lock":            answers(409, failed("invalid_request_error", "lock_timeout", "")),
	"429 lock":            answers(429, failed("invalid_request_error", "lock_timeout", "")),
	"400 lock":            answers(400, failed("invalid_request_error", "lock_timeout", "")),
	"key of another":      answers(400, failed("idempotency_error", "", "")),
	"key of another, why": answers(400, failed("idempotency_error", "idempotency_key_in_use", "amount")),
	"400 of our making":   answers(400, failed("api_error", "made_up", "amount")),
	"400 without a cause": answers(400, failed("invalid_request_error", "", "")),
	"400 of a proxy":      says(400, "Bad request"),
	"404 of a proxy":      says(404, "Not found"),
	"401":                 answers(401, failed("invalid_request_error", "", "")),
	"403":                 answers(403, failed("invalid_request_error", "", "")),
	"unreadable":          says(200, "<html>Welcome "+secretKey+"</html>"),
	"half a JSON":         says(200, `{"id":"pi_1","status":"succ`),
	"nothing":             says(200, ``),
	"another object":      says(200, `{}`),
	"redirect": func(w http.ResponseWriter, r *http.Request, _ func() saved) {
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	},
}

func TestUnknownOutcomes(t *testing.T) {
	t.Parallel()
	captures := map[string]fault{
		"processing":               changed("status", "processing"),
		"requires no redirect":     changed("status", "requires_action"),
		"waits for a confirmation": changed("status", "requires_confirmation"),
		"waits for a method":       changed("status", "requires_payment_method"),
		"on hold":                  changed("status", "requires_capture"),
		"less money":               changed("amount_received", int64(1)),
		"other money":              changed("currency", "usd"),
		"another charge's":         changed("metadata", object{"reference": "another", "order_id": orderID}),
		"402 but it moved": answers(402, object{"error": object{"type": "card_error", "code": "card_declined",
			"payment_intent": intentObject("pi_9", "processing", 1250, "eur", "r", orderID)}}),
	}
	for name, fault := range captures {
		t.Run("confirm/"+name, func(t *testing.T) { t.Parallel(); unknown(t, "/confirm", fault, capture) })
	}
	refunds := map[string]fault{"made up": changed("status", "made_up"),
		"less money": changed("amount", int64(1)), "another's": changed("payment_intent", "pi_9"),
		"another refund": changed("metadata", object{"refund_id": orderID}), "without ours": changed("metadata", nil)}
	for name, fault := range refunds {
		t.Run("refund/"+name, func(t *testing.T) { t.Parallel(); unknown(t, "", fault, refund) })
	}
	for name, fault := range notFinal {
		t.Run("create/"+name, func(t *testing.T) { t.Parallel(); unknown(t, "/payment_intents", fault, capture) })
		t.Run("confirm/"+name, func(t *testing.T) { t.Parallel(); unknown(t, "/confirm", fault, capture) })
		t.Run("refund/"+name, func(t *testing.T) { t.Parallel(); unknown(t, "", fault, refund) })
	}
}

func capture(t *testing.T, client *stripe.Client) error {
	t.Helper()
	_, err := client.Capture(t.Context(), newRequest(t, "pm_card_visa"))
	return err
}

var refundRequest = payments.RefundRequest{Key: "refund_1", CaptureID: "pi_1", Amount: 400,
	Reference: "0193588e-6c00-7a3b-8f21-5d0c9e4b7a11"}

func refund(t *testing.T, client *stripe.Client) error {
	t.Helper()
	_, err := client.Refund(t.Context(), refundRequest)
	return err
}

// unknown expects one send, an error that is not final, and no secret in it. The connection is
// warm, which is when Go's transport would send again by itself.
func unknown(t *testing.T, at string, fault fault, ask func(*testing.T, *stripe.Client) error) {
	t.Helper()
	account := openAccount(t)
	client := open(t, account.url)
	if err := client.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	account.onNextAt(at, fault)
	err := ask(t, client)
	if err == nil || errors.Is(err, payments.ErrRefused) {
		t.Fatalf("got %v, want an unknown outcome", err)
	}
	for _, secret := range []string{secretKey, "_secret_", "***cret"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
	times := map[string]int{}
	for _, sent := range account.posts() {
		if times[sent.path]++; times[sent.path] > 1 {
			t.Errorf("sent %s again", sent.path)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	refusals := map[string]fault{
		"no such payment method": answers(400, failed("invalid_request_error", "resource_missing", "payment_method")),
		"amount too small":       answers(400, failed("invalid_request_error", "amount_too_small", "amount")),
		"refunded before":        answers(400, failed("invalid_request_error", "charge_already_refunded", "")),
		"no such object":         answers(404, failed("invalid_request_error", "resource_missing", "intent")),
	}
	for name, fault := range refusals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			account := openAccount(t)
			for at, ask := range map[string]func(*testing.T, *stripe.Client) error{
				"/payment_intents": capture, "/refunds": refund} {
				account.onNextAt(at, fault)
				if err := ask(t, open(t, account.url)); !errors.Is(err, payments.ErrRefused) {
					t.Errorf("%s: got %v", at, err)
				}
			}
		})
	}
}

func TestCurrenciesThatStripeCountsOtherwise(t *testing.T) {
	t.Parallel()
	account := openAccount(t)
	for _, currency := range []string{"ISK", "MGA", "UGX"} {
		r := newRequest(t, "pm_card_visa")
		r.Currency = currency
		if _, err := open(t, account.url).Capture(t.Context(), r); !errors.Is(err, payments.ErrRefused) {
			t.Errorf("%s: %v", currency, err)
		}
	}
	if sent := account.posts(); len(sent) != 0 {
		t.Errorf("sent %+v", sent)
	}
}

// An answer that is no list must not look like an empty one: the shop would give the charge up.
func TestNoListIsNotAnEmptyList(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`{}`, `{"object":"list","data":[`, `{"object":"payment_intent"}`, `[]`, `null`, ``} {
		server := newServer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) })
		client := open(t, server)
		if found, err := client.FindCapture(t.Context(), newRequest(t, "pm_card_visa")); err == nil {
			t.Errorf("%s: captures %v", text, found)
		}
		if found, err := client.FindRefunds(t.Context(), "pi_1"); err == nil {
			t.Errorf("%s: refunds %v", text, found)
		}
		if err := client.Ping(t.Context()); err == nil {
			t.Errorf("%s: alive", text)
		}
	}
}

func TestKeysThatCannotBe(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"", "pk_test_1", "whsec_1", "sk_test_1 ", "sk_test_1\n", "Bearer sk_test_1", "sk_1"} {
		_, err := stripe.New(key, "", timeout)
		if err == nil || !strings.Contains(err.Error(), "STRIPE_SECRET_KEY") || key != "" &&
			strings.Contains(err.Error(), key) {
			t.Errorf("%q: %v", key, err)
		}
	}
	for key, name := range map[string]string{"rk_live_1": "stripe:live", "sk_test_1": "stripe:test"} {
		if client, err := stripe.New(key, "", timeout); err != nil || client.Name() != name {
			t.Errorf("%s: %v, %v", key, client, err)
		}
	}
}
