package stripe_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
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
	return payments.CaptureRequest{Reference: uuid.Must(uuid.NewV7()).String(), OrderID: orderID, Amount: 1250,
		Currency: "EUR", PaymentMethod: method}
}

func TestCaptureSendsOnceWhatWasAsked(t *testing.T) {
	t.Parallel()
	account := openAccount(t)
	r := newRequest(t, "pm_card_visa")
	got, err := open(t, account.url).Capture(t.Context(), "charge_1", r)
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
	sent := []call{{http.MethodPost, "/v1/payment_intents", "charge_1", "Bearer " + secretKey, url.Values{
		"amount": {"1250"}, "currency": {"eur"}, "payment_method": {"pm_card_visa"}, "confirm": {"true"},
		"error_on_requires_action":           {"true"},
		"automatic_payment_methods[enabled]": {"true"}, "automatic_payment_methods[allow_redirects]": {"never"},
		"metadata[reference]": {r.Reference}, "metadata[order_id]": {orderID}}}}
	if diff := cmp.Diff(sent, account.posts(), cmp.AllowUnexported(call{})); diff != "" {
		t.Error(diff)
	}
}

func TestDeclines(t *testing.T) {
	t.Parallel()
	bare := failed("card_error", "card_declined", "")
	for name, tc := range map[string]struct {
		fault    fault
		method   string
		id, code string
	}{
		"insufficient funds": {nil, "pm_card_chargeDeclinedInsufficientFunds", "pi_1",
			"insufficient_funds"},
		"before there is a PaymentIntent": {answers(http.StatusPaymentRequired, bare), "pm_card_visa", "",
			"card_declined"},
		"canceled": {changed("status", "canceled"), "pm_card_visa", "pi_1", "canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			account := openAccount(t)
			account.onNext(tc.fault)
			r := newRequest(t, tc.method)
			got, err := open(t, account.url).Capture(t.Context(), "charge_1", r)
			if err != nil {
				t.Fatal(err)
			}
			if got.Status != payments.CaptureDeclined || got.DeclineCode != tc.code || got.ID != tc.id ||
				got.Reference != r.Reference || got.Amount != r.Amount {
				t.Errorf("got %+v", got)
			}
			if sent := account.posts(); len(sent) != 1 {
				t.Errorf("sent %d times", len(sent))
			}
		})
	}
}

func TestSameKeyTakesMoneyOnce(t *testing.T) {
	t.Parallel()
	account := openAccount(t)
	client := open(t, account.url)
	r := newRequest(t, "pm_card_visa")
	account.onNext(cut)
	if _, err := client.Capture(t.Context(), "charge_1", r); err == nil {
		t.Fatal("a cut connection is no answer")
	}
	first, err := client.Capture(t.Context(), "charge_1", r)
	if err != nil {
		t.Fatal(err)
	}
	second, err := client.Capture(t.Context(), "charge_1", r)
	if err != nil || second != first || len(account.captured()) != 1 {
		t.Errorf("first %+v, second %+v, %v; %d captures", first, second, err, len(account.captured()))
	}
	r.Amount++
	if _, err := client.Capture(t.Context(), "charge_1", r); err == nil || errors.Is(err, payments.ErrRefused) {
		t.Errorf("another amount under the key: %v", err)
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
		"requires action":          changed("status", "requires_action"),
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
		t.Run("capture/"+name, func(t *testing.T) { t.Parallel(); unknown(t, fault, capture) })
	}
	refunds := map[string]fault{"pending": changed("status", "pending"),
		"requires action": changed("status", "requires_action"),
		"less money":      changed("amount", int64(1)), "another's": changed("payment_intent", "pi_9")}
	for name, fault := range refunds {
		t.Run("refund/"+name, func(t *testing.T) { t.Parallel(); unknown(t, fault, refund) })
	}
	for name, fault := range notFinal {
		t.Run("capture/"+name, func(t *testing.T) { t.Parallel(); unknown(t, fault, capture) })
		t.Run("refund/"+name, func(t *testing.T) { t.Parallel(); unknown(t, fault, refund) })
	}
}

func capture(t *testing.T, client *stripe.Client) error {
	t.Helper()
	_, err := client.Capture(t.Context(), "charge_1", newRequest(t, "pm_card_visa"))
	return err
}

func refund(t *testing.T, client *stripe.Client) error {
	t.Helper()
	_, err := client.Refund(t.Context(), "refund_1", payments.RefundRequest{CaptureID: "pi_1", Amount: 400})
	return err
}

// unknown expects one send, an error that is not final, and no secret in it. The connection is
// warm, which is when Go's transport would send again by itself.
func unknown(t *testing.T, fault fault, ask func(*testing.T, *stripe.Client) error) {
	t.Helper()
	account := openAccount(t)
	client := open(t, account.url)
	if err := client.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	account.onNext(fault)
	err := ask(t, client)
	if err == nil || errors.Is(err, payments.ErrRefused) {
		t.Fatalf("got %v, want an unknown outcome", err)
	}
	for _, secret := range []string{secretKey, "_secret_", "***cret"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
	if sent := account.posts(); len(sent) != 1 {
		t.Errorf("sent %d times: %+v", len(sent), sent)
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
			for _, ask := range []func(*testing.T, *stripe.Client) error{capture, refund} {
				account.onNext(fault)
				if err := ask(t, open(t, account.url)); !errors.Is(err, payments.ErrRefused) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	for _, status := range []string{"failed", "canceled"} {
		account := openAccount(t)
		account.onNext(changed("status", status))
		if err := refund(t, open(t, account.url)); !errors.Is(err, payments.ErrRefused) {
			t.Errorf("a %s refund: %v", status, err)
		}
	}
}

func TestCurrenciesThatStripeCountsOtherwise(t *testing.T) {
	t.Parallel()
	account := openAccount(t)
	for _, currency := range []string{"ISK", "MGA", "UGX"} {
		r := newRequest(t, "pm_card_visa")
		r.Currency = currency
		if _, err := open(t, account.url).Capture(t.Context(), "charge_1", r); !errors.Is(err, payments.ErrRefused) {
			t.Errorf("%s: %v", currency, err)
		}
	}
	if sent := account.posts(); len(sent) != 0 {
		t.Errorf("sent %+v", sent)
	}
}

func TestFindCaptures(t *testing.T) {
	t.Parallel()
	account := openAccount(t)
	client := open(t, account.url)
	reference := uuid.Must(uuid.NewV7())
	find := func() ([]payments.Capture, error) { return client.FindCaptures(t.Context(), reference.String()) }
	for i := range 120 {
		account.addIntent(fmt.Sprintf("pi_before%d", i), "succeeded", "another")
	}
	if found, err := find(); err != nil || len(found) != 0 {
		t.Fatalf("before: %+v, %v", found, err)
	}
	account.addIntent("pi_ours", "succeeded", reference.String())
	for i := range 120 {
		account.addIntent(fmt.Sprintf("pi_after%d", i), "processing", "another")
	}
	found, err := find()
	if err != nil || len(found) != 1 || found[0].ID != "pi_ours" || found[0].Status != payments.CaptureSucceeded ||
		found[0].Reference != reference.String() ||
		found[0].Amount != 1250 || found[0].Currency != "EUR" {
		t.Fatalf("got %+v, %v", found, err)
	}
	seconds, _ := reference.Time().UnixTime()
	if from := account.calls[0].form.Get("created[gte]"); from != strconv.FormatInt(seconds-300, 10) {
		t.Errorf("looked from %s on, the reference is of %d", from, seconds)
	}
	account.addIntent("pi_open", "processing", reference.String())
	if found, err := find(); err == nil {
		t.Errorf("one that is open: %+v", found)
	}
	if _, err := client.FindCaptures(t.Context(), uuid.NewString()); err == nil {
		t.Error("a reference without a time was looked for")
	}
}

// An answer that is no list must not look like an empty one: the shop would give the charge up.
func TestNoListIsNotAnEmptyList(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`{}`, `{"object":"list","data":[`, `{"object":"payment_intent"}`, `[]`, `null`, ``} {
		server := newServer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) })
		client := open(t, server)
		if found, err := client.FindCaptures(t.Context(), uuid.Must(uuid.NewV7()).String()); err == nil {
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

func TestRefund(t *testing.T) {
	t.Parallel()
	account := openAccount(t)
	client := open(t, account.url)
	got, err := client.Refund(t.Context(), "refund_1", payments.RefundRequest{CaptureID: "pi_1", Amount: 400})
	if err != nil || got.ID != "re_1" || got.CaptureID != "pi_1" || got.Amount != 400 || got.Currency != "EUR" {
		t.Fatalf("got %+v, %v", got, err)
	}
	sent := []call{{http.MethodPost, "/v1/refunds", "refund_1", "Bearer " + secretKey,
		url.Values{"amount": {"400"}, "payment_intent": {"pi_1"}}}}
	if diff := cmp.Diff(sent, account.posts(), cmp.AllowUnexported(call{})); diff != "" {
		t.Error(diff)
	}
}

// Under its key Stripe goes on to answer that the refund is pending.
func TestPendingRefundIsLookedUp(t *testing.T) {
	t.Parallel()
	account := openAccount(t)
	client := open(t, account.url)
	r := payments.RefundRequest{CaptureID: "pi_1", Amount: 400}
	account.onNext(changed("status", "pending"))
	if got, err := client.Refund(t.Context(), "refund_1", r); err == nil {
		t.Fatalf("pending: %+v", got)
	}
	account.mu.Lock()
	pending := account.keys["refund_1"]
	account.refunds[0] = refundObject("re_1", "pi_1", 400, "succeeded")
	account.mu.Unlock()
	if pending.body["status"] != "pending" {
		t.Fatal("the account has forgotten its first answer")
	}
	if got, err := client.Refund(t.Context(), "refund_1", r); err != nil || got.ID != "re_1" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestFindRefunds(t *testing.T) {
	t.Parallel()
	account := openAccount(t)
	for i := range 130 {
		account.refunds = append(account.refunds, refundObject(fmt.Sprintf("re_%d", i), "pi_1", 3, "succeeded"),
			refundObject(fmt.Sprintf("re_other%d", i), "pi_2", 3, "succeeded"))
	}
	account.refunds = append(account.refunds, refundObject("re_failed", "pi_1", 3, "failed"))
	found, err := open(t, account.url).FindRefunds(t.Context(), "pi_1")
	if err != nil || len(found) != 130 || found[129].ID != "re_129" || found[0].CaptureID != "pi_1" ||
		found[0].Amount != 3 {
		t.Errorf("got %d, %v", len(found), err)
	}
}

func TestKeysThatCannotBe(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"", "pk_test_1", "whsec_1", "sk_test_1 ", "sk_test_1\n", "Bearer sk_test_1"} {
		_, err := stripe.New(key, "", timeout)
		if err == nil || !strings.Contains(err.Error(), "STRIPE_SECRET_KEY") || key != "" &&
			strings.Contains(err.Error(), key) {
			t.Errorf("%q: %v", key, err)
		}
	}
	if _, err := stripe.New("rk_live_1", "", timeout); err != nil {
		t.Error(err)
	}
}
