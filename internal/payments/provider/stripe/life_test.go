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
)

// asks are how the shop asks about a charge that may be open.
var asks = map[string]func(*testing.T, *stripe.Client, payments.CaptureRequest) (payments.Capture, error){
	"capture": func(t *testing.T, c *stripe.Client, r payments.CaptureRequest) (payments.Capture, error) {
		t.Helper()
		return c.Capture(t.Context(), r)
	},
	"find": func(t *testing.T, c *stripe.Client, r payments.CaptureRequest) (payments.Capture, error) {
		t.Helper()
		return c.FindCapture(t.Context(), r)
	},
	"cancel": func(t *testing.T, c *stripe.Client, r payments.CaptureRequest) (payments.Capture, error) {
		t.Helper()
		return c.CancelCapture(t.Context(), r)
	},
}

// Each way to ask meets each state that an intent can be in. The id may be known or not, and the
// key remembered, or forgotten while search works.
func TestStatesOfAnIntent(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		method  string
		prepare func(*testing.T, *account, *stripe.Client, payments.CaptureRequest)
		want    map[string]string // by ask, "error" for an open outcome
	}{
		"never sent": {"pm_card_visa", nil,
			map[string]string{"capture": "succeeded", "find": "", "cancel": "canceled"}},
		"unconfirmed": {"pm_card_visa", unconfirmed,
			map[string]string{"capture": "succeeded", "find": "", "cancel": "canceled"}},
		"succeeded": {"pm_card_visa", sent,
			map[string]string{"capture": "succeeded", "find": "succeeded", "cancel": "succeeded"}},
		"declined": {"pm_card_chargeDeclinedInsufficientFunds", sent,
			map[string]string{"capture": "declined", "find": "declined", "cancel": "canceled"}},
		"requires action": {"pm_card_threeDSecure2Required", sent,
			map[string]string{"capture": "requires_action", "find": "requires_action", "cancel": "canceled"}},
		"processing": {"pm_processing", sent,
			map[string]string{"capture": "error", "find": "error", "cancel": "canceled"}},
		"canceled": {"pm_card_visa", canceled,
			map[string]string{"capture": "canceled", "find": "canceled", "cancel": "canceled"}},
		"refused": {"pm_none", nil,
			map[string]string{"capture": "refused", "find": "", "cancel": "canceled"}},
	} {
		for _, memory := range []string{"id", "key", "search"} {
			for ask, want := range tc.want {
				if tc.prepare == nil && memory != "key" || memory == "search" && ask == "capture" {
					continue // without an id the shop captures only while the key lives
				}
				t.Run(name+"/"+memory+"/"+ask, func(t *testing.T) {
					t.Parallel()
					account := openAccount(t)
					client := open(t, account.url)
					r := newRequest(t, tc.method)
					if tc.prepare != nil {
						tc.prepare(t, account, client, r)
					}
					account.searchLags = memory == "key"
					switch memory {
					case "id":
						r.ID = "pi_1"
					case "search":
						account.keys = map[string]saved{}
					}
					got, err := asks[ask](t, client, r)
					switch want {
					case "error", "refused":
						if errors.Is(err, payments.ErrRefused) != (want == "refused") || err == nil {
							t.Errorf("got %+v, %v", got, err)
						}
					default:
						if err != nil || got.Status != want {
							t.Errorf("got %+v, %v", got, err)
						}
					}
					if tc.method != "pm_none" && got.ID != "pi_1" || len(account.intents) > 1 {
						t.Errorf("the id is %q of %d intents", got.ID, len(account.intents))
					}
				})
			}
		}
	}
}

// unconfirmed is what a node leaves that dies between the two calls.
func unconfirmed(t *testing.T, account *account, client *stripe.Client, r payments.CaptureRequest) {
	t.Helper()
	account.onNextAt("/confirm", func(http.ResponseWriter, *http.Request, func() saved) {
		panic(http.ErrAbortHandler)
	})
	sent(t, account, client, r)
}

func sent(t *testing.T, _ *account, client *stripe.Client, r payments.CaptureRequest) {
	t.Helper()
	_, _ = client.Capture(t.Context(), r)
}

func canceled(t *testing.T, account *account, client *stripe.Client, r payments.CaptureRequest) {
	t.Helper()
	unconfirmed(t, account, client, r)
	if got, err := client.CancelCapture(t.Context(), r); err != nil || got.Status != payments.CaptureCanceled {
		t.Fatalf("cancel: %+v, %v", got, err)
	}
}

// A confirmation that was on its way while the charge was given up finds it canceled.
func TestCanceledInTime(t *testing.T) {
	t.Parallel()
	account := openAccount(t)
	client := open(t, account.url)
	r := newRequest(t, "pm_card_visa")
	account.onNextAt("/confirm", func(w http.ResponseWriter, q *http.Request, work func() saved) {
		if got, err := client.CancelCapture(q.Context(), r); err != nil || got.Status != payments.CaptureCanceled {
			t.Errorf("cancel: %+v, %v", got, err)
		}
		answer(w, work())
	})
	got, err := client.Capture(t.Context(), r)
	if err != nil || got.Status != payments.CaptureCanceled || len(account.captured()) != 0 {
		t.Errorf("got %+v, %v; captured %v", got, err, account.captured())
	}
}

// The buyer's confirmation arrives between the look and the cancellation.
func TestCanceledTooLate(t *testing.T) {
	t.Parallel()
	account := openAccount(t)
	client := open(t, account.url)
	r := newRequest(t, "pm_card_threeDSecure2Required")
	sent(t, account, client, r)
	account.onNextAt("/cancel", func(w http.ResponseWriter, _ *http.Request, work func() saved) {
		account.change(func() {
			account.intents[0]["status"], account.intents[0]["amount_received"] = "succeeded", int64(1250)
		})
		answer(w, work())
	})
	got, err := client.CancelCapture(t.Context(), r)
	if err != nil || got.Status != payments.CaptureSucceeded || got.ID != "pi_1" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestThreeDSecure(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		act          func(intent object)
		status, code string
	}{
		"passed": {func(o object) { o["status"], o["amount_received"] = "succeeded", int64(1250) }, "succeeded", ""},
		"failed": {func(o object) { decline(o, "payment_intent_authentication_failure", "") }, "declined",
			"payment_intent_authentication_failure"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			account := openAccount(t)
			client := open(t, account.url)
			r := newRequest(t, "pm_card_threeDSecure2Required")
			asked, err := client.Capture(t.Context(), r)
			want := &payments.NextAction{Type: "redirect", URL: "https://hooks.stripe.com/3d_secure_2/pi_1"}
			if err != nil || asked.Status != payments.CaptureRequiresAction || !cmp.Equal(asked.NextAction, want) {
				t.Fatalf("got %+v, %v", asked, err)
			}
			r.ID = asked.ID
			account.change(func() { tc.act(account.intents[0]) })
			got, err := client.FindCapture(t.Context(), r)
			if err != nil || got.Status != tc.status || got.DeclineCode != tc.code {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

// What the other mode's key does not find may exist.
func TestKeyOfTheOtherMode(t *testing.T) {
	t.Parallel()
	account := openAccount(t)
	r := newRequest(t, "pm_card_visa")
	sent(t, account, open(t, account.url), r)
	r.ID = "pi_1"
	other, err := stripe.New("sk_live_1", account.url, timeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.CloseIdleConnections)
	for name, ask := range asks {
		if got, err := ask(t, other, r); err == nil || errors.Is(err, payments.ErrRefused) || got.Status != "" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestTwoIntentsOfACharge(t *testing.T) {
	t.Parallel()
	account := openAccount(t)
	client := open(t, account.url)
	r := newRequest(t, "pm_card_visa")
	for range 2 {
		account.keys = map[string]saved{}
		sent(t, account, client, r)
	}
	if got, err := client.FindCapture(t.Context(), r); err == nil {
		t.Errorf("got %+v", got)
	}
}

func TestRefund(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]payments.ProviderRefund{
		"succeeded":       {Status: payments.RefundSucceeded},
		"pending":         {Status: payments.RefundPending},
		"requires_action": {Status: payments.RefundPending},
		"failed":          {Status: payments.RefundFailed, FailureCode: "failed"},
		"canceled":        {Status: payments.RefundFailed, FailureCode: "canceled"},
	} {
		account := openAccount(t)
		account.refundStatus = status
		got, err := open(t, account.url).Refund(t.Context(), refundRequest)
		want.ID, want.CaptureID, want.Reference, want.Amount, want.Currency, want.CreatedAt = "re_1", "pi_1",
			refundRequest.Reference, 400, "EUR", got.CreatedAt
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", status, err, diff)
		}
		asked := []call{{http.MethodPost, "/v1/refunds", "refund_1", "Bearer " + secretKey, url.Values{
			"amount": {"400"}, "payment_intent": {"pi_1"}, "metadata[refund_id]": {refundRequest.Reference}}}}
		if diff := cmp.Diff(asked, account.posts(), cmp.AllowUnexported(call{})); diff != "" {
			t.Error(diff)
		}
	}
}

// A refund fails days after it was pending, or after it had succeeded. Under its key Stripe goes on
// to give the first answer.
func TestRefundFailsLater(t *testing.T) {
	t.Parallel()
	for _, first := range []string{payments.RefundPending, payments.RefundSucceeded} {
		account := openAccount(t)
		account.refundStatus = first
		client := open(t, account.url)
		if got, err := client.Refund(t.Context(), refundRequest); err != nil || got.Status != first {
			t.Fatalf("got %+v, %v", got, err)
		}
		account.change(func() {
			account.refunds[0]["status"], account.refunds[0]["failure_reason"] = "failed", "lost_or_stolen_card"
		})
		if got, err := client.Refund(t.Context(), refundRequest); err != nil || got.Status != first {
			t.Fatalf("under the key: %+v, %v", got, err)
		}
		found, err := client.FindRefunds(t.Context(), "pi_1")
		if err != nil || len(found) != 1 || found[0].Status != payments.RefundFailed ||
			found[0].FailureCode != "lost_or_stolen_card" || found[0].Reference != refundRequest.Reference {
			t.Errorf("got %+v, %v", found, err)
		}
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
	if err != nil || len(found) != 131 || found[129].ID != "re_129" || found[0].CaptureID != "pi_1" ||
		found[0].Amount != 3 || found[130].Status != payments.RefundFailed || found[0].Reference != "" {
		t.Errorf("got %d, %v", len(found), err)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	server := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"object":"list","data":[],"x":"` + strings.Repeat("x", 5<<20) + `"}`))
	})
	if err := open(t, server).Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("got %v", err)
	}
}

// The lists have several pages, and what others who use the account have is left out.
func TestLists(t *testing.T) {
	t.Parallel()
	account := openAccount(t)
	for i := range 130 {
		id := strconv.Itoa(i)
		ours := intentObject("pi_"+id, "succeeded", 1250, "eur", uuid.NewString(), orderID)
		ours["amount_received"] = 1250
		mine := refundObject("re_"+id, "pi_"+id, 3, "succeeded")
		mine["metadata"] = object{"refund_id": uuid.NewString()}
		account.intents = append(account.intents, ours,
			intentObject("pi_other"+id, "succeeded", 1250, "eur", "invoice-"+id, orderID),
			intentObject("pi_open"+id, "processing", 1250, "eur", uuid.NewString(), orderID))
		account.refunds = append(account.refunds, mine, refundObject("re_other"+id, "pi_2", 3, "succeeded"))
	}
	client := open(t, account.url)
	captures, refunds := map[string]int64{}, map[string]int64{}
	if err := client.ListCaptures(t.Context(), time.Unix(1, 0), func(c payments.Capture) error {
		captures[c.ID] += c.Amount
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := client.ListRefunds(t.Context(), time.Unix(1, 0), func(r payments.ProviderRefund) error {
		refunds[r.ID] += r.Amount
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(captures) != 130 || captures["pi_129"] != 1250 || len(refunds) != 130 || refunds["re_129"] != 3 {
		t.Errorf("%d captures, %d refunds", len(captures), len(refunds))
	}
	enough := errors.New("enough")
	if err := client.ListCaptures(t.Context(), time.Unix(1, 0), func(payments.Capture) error {
		return enough
	}); !errors.Is(err, enough) {
		t.Errorf("a list that was ended: %v", err)
	}
}
