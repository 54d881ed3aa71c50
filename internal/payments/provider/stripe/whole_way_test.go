package stripe_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const within = 20 * time.Second

// startShop runs a shop whose provider is a Stripe account, with none of the simulator's settings.
func startShop(t *testing.T) (*apptest.Shop, *account) {
	t.Helper()
	account := openAccount(t)
	return apptest.Start(t, 1, func(c *app.Config) {
		c.StripeSecretKey, c.StripeWebhookSecret, c.StripeURL = secretKey, newSecret, account.url
		c.PSPURL, c.PSPWebhookSecret = "", ""
		c.ProviderTimeout = 500 * time.Millisecond
	}), account
}

// chargeInSilence places an order and charges it while Stripe takes the money and never answers.
func chargeInSilence(t *testing.T, shop *apptest.Shop, account *account) (order orders.Order, charge payments.Charge) {
	t.Helper()
	alice := shop.Alice(t)
	alice.Post(t.Context(), "/v1/orders", "order", apptest.OrderBody("alice@example.com", "MUG-ONCE", 1)).JSON(t,
		&order)
	account.onNextAt("/confirm", silent)
	path := "/v1/orders/" + order.ID.String() + "/charges"
	first := alice.Post(t.Context(), path, "pay", `{"payment_method":"pm_card_visa"}`)
	if first.Status != http.StatusAccepted || first.Header.Get("Retry-After") == "" {
		t.Fatalf("charge: %d %s", first.Status, first.Body)
	}
	first.JSON(t, &charge)
	if charge.Status != payments.Unknown {
		t.Fatalf("the charge is %s", charge.Status)
	}
	second := alice.Post(t.Context(), path, "pay-again", `{"payment_method":"pm_card_visa"}`)
	if second.Status != http.StatusConflict {
		t.Fatalf("another key's charge: %d %s", second.Status, second.Body)
	}
	return order, charge
}

// paidOnce expects one PaymentIntent for what the order costs, a settled charge under the first
// key, and nothing in quarantine.
func paidOnce(t *testing.T, shop *apptest.Shop, account *account, order orders.Order) {
	t.Helper()
	shop.Alice(t).Get(t.Context(), "/v1/orders/"+order.ID.String()).JSON(t, &order)
	captured := account.captured()
	if order.Status != orders.Paid || len(captured) != 1 || captured[0]["amount_received"] != order.Total {
		t.Errorf("the order is %s, captured %+v", order.Status, captured)
	}
	replay := shop.Alice(t).Post(t.Context(), "/v1/orders/"+order.ID.String()+"/charges", "pay",
		`{"payment_method":"pm_card_visa"}`)
	if replay.Status != http.StatusCreated || replay.Header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("replay: %d %s", replay.Status, replay.Body)
	}
	if n := shop.Count(t, "SELECT count(*) FROM provider_events WHERE state <> 'applied'"); n != 0 {
		t.Errorf("%d events in quarantine", n)
	}
}

func TestReconcilerSettlesWhatStripeDidNotTell(t *testing.T) {
	t.Parallel()
	shop, account := startShop(t)
	order, charge := chargeInSilence(t, shop, account)
	shoptest.Eventually(t, within, "the order is paid", func() bool {
		return shop.Count(t, "SELECT count(*) FROM orders WHERE status = 'paid'") == 1
	})
	paidOnce(t, shop, account, order)
	if sent := account.posts(); len(sent) != 2 || sent[0].key != "charge_"+charge.ID.String() ||
		sent[1].key != sent[0].key+"_confirm" || sent[0].form.Get("metadata[reference]") != charge.ID.String() {
		t.Errorf("sent %+v", sent)
	}
	refund := shop.Admin(t).Post(t.Context(), "/v1/charges/"+charge.ID.String()+"/refunds", "back", `{"amount":100}`)
	if refund.Status != http.StatusCreated || len(account.refunds) != 1 {
		t.Errorf("refund: %d %s, %d at Stripe", refund.Status, refund.Body, len(account.refunds))
	}
}

func TestWebhookSettlesWhatStripeDidNotTell(t *testing.T) {
	t.Parallel()
	shop, account := startShop(t)
	order, charge := chargeInSilence(t, shop, account)
	// The reconciler would be quicker than this test on a slow machine.
	shop.Exec(t, "UPDATE charges SET lease_until = now() + interval '1 hour' WHERE id = $1", charge.ID)
	event, err := json.Marshal(object{"id": "evt_1", "object": "event", "api_version": "2026-03-25.dahlia",
		"created": time.Now().Unix(),
		"type":    "payment_intent.succeeded", "data": object{"object": account.captured()[0]}})
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Replace(event, []byte("payment_intent.succeeded"), []byte("charge.updated"), 1)
	for _, tc := range []struct {
		name, path string
		header     http.Header
		body       []byte
		want       int
	}{
		{"forged", "/v1/webhooks/stripe", sign(oldSecret, time.Now(), event), event, http.StatusBadRequest},
		{"the simulator's path", "/v1/webhooks/payments", sign(newSecret, time.Now(), event), event,
			http.StatusNotFound},
		{"of no concern", "/v1/webhooks/stripe", sign(newSecret, time.Now(), other), other, http.StatusNoContent},
		{"the news", "/v1/webhooks/stripe", sign(newSecret, time.Now(), event), event, http.StatusNoContent},
		{"the news again", "/v1/webhooks/stripe", sign(newSecret, time.Now(), event), event, http.StatusNoContent},
	} {
		if got := post(t, shop.Nodes[0]+tc.path, tc.header, tc.body); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
	paidOnce(t, shop, account, order)
	if n := shop.Count(t, "SELECT count(*) FROM provider_events"); n != 1 {
		t.Errorf("%d events kept", n)
	}
}

// Stripe's outage takes no node out: orders can be placed without it.
func TestReadyWithoutStripe(t *testing.T) {
	t.Parallel()
	shop, account := startShop(t)
	account.mu.Lock()
	account.down = true
	account.mu.Unlock()
	shoptest.Eventually(t, within, "the node is ready", func() bool {
		return get(t, shop.Nodes[0]+"/readyz") == http.StatusOK
	})
}

func post(t *testing.T, address string, header http.Header, body []byte) int {
	t.Helper()
	return do(t, http.MethodPost, address, header, body)
}

func get(t *testing.T, address string) int {
	t.Helper()
	return do(t, http.MethodGet, address, http.Header{}, nil)
}

func do(t *testing.T, method, address string, header http.Header, body []byte) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, address, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header, request.Close = header, true
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	return answer.StatusCode
}

func TestSettingsOfStripeReplaceTheSimulators(t *testing.T) {
	t.Parallel()
	config, err := app.ConfigFrom([]string{"STRIPE_SECRET_KEY=" + secretKey})
	if err != nil {
		t.Fatal(err)
	}
	missing := config.Require(app.Everything)
	if missing == nil || strings.Contains(missing.Error(), "PSP_") ||
		!strings.Contains(missing.Error(), "STRIPE_WEBHOOK_SECRET") {
		t.Errorf("with Stripe: %v", missing)
	}
	if missing := config.Require(app.OnlyWorker); missing == nil || strings.Contains(missing.Error(), "STRIPE") {
		t.Errorf("workers get no webhooks: %v", missing)
	}
	config.StripeSecretKey = ""
	if missing := config.Require(app.Everything); missing == nil ||
		!strings.Contains(missing.Error(), "PSP_URL, PSP_WEBHOOK_SECRET") ||
		strings.Contains(missing.Error(), "STRIPE") {
		t.Errorf("without Stripe: %v", missing)
	}
}
