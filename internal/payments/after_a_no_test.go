package payments_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// shopper is a client of a whole shop who retries as a real one does. Every request is repeated at
// the other node in the end, and its answer must be the same.
type shopper struct {
	t     *testing.T
	shop  *apptest.Shop
	i     int
	order orders.Order
}

// post sends the request until its answer is final, and expects its status and code.
func (s shopper) post(token, path, body string, status int, code string) apitest.Response {
	s.t.Helper()
	key := fmt.Sprint(s.i, path, body)
	answer := persist(s.t, s.shop.Client(s.t, s.i%2, token), path, key, body)
	var p struct{ Code string }
	answer.JSON(s.t, &p)
	if answer.Status != status || p.Code != code {
		s.t.Errorf("%s %s: %d %s, want %d %s", path, body, answer.Status, answer.Body, status, code)
	}
	if status != http.StatusConflict {
		again := persist(s.t, s.shop.Client(s.t, (s.i+1)%2, token), path, key, body)
		if again.Status != answer.Status || string(again.Body) != string(answer.Body) {
			s.t.Errorf("%s again: %d %s, first %d %s", path, again.Status, again.Body, answer.Status, answer.Body)
		}
	}
	return answer
}

// pay charges the order and returns the charge that the answer shows.
func (s shopper) pay(method string, status int, code string) (charge payments.Charge) {
	s.t.Helper()
	answer := s.post("demo-alice", chargePath(s.order), `{"payment_method":"`+method+`"}`, status, code)
	if code != "" {
		var p struct{ Charge payments.Charge }
		answer.JSON(s.t, &p)
		return p.Charge
	}
	answer.JSON(s.t, &charge)
	return charge
}

func (s shopper) refund(charge payments.Charge, status int, code string) {
	s.t.Helper()
	s.post("demo-admin", "/v1/charges/"+charge.ID.String()+"/refunds", `{}`, status, code)
}

func (s shopper) cancel() {
	s.t.Helper()
	s.post("demo-alice", "/v1/orders/"+s.order.ID.String()+"/cancel", `{}`, http.StatusOK, "")
}

// challenged pays with 3-D Secure: the buyer approves, refuses, or leaves and cancels the order.
func (s shopper) challenged() {
	s.t.Helper()
	const body = `{"payment_method":"pm_requires_action"}`
	key := fmt.Sprint(s.i, chargePath(s.order), body) // the same as in post
	asked := s.shop.Client(s.t, s.i%2, "demo-alice").Post(s.t.Context(), chargePath(s.order), key, body)
	var charge payments.Charge
	if asked.JSON(s.t, &charge); asked.Status != http.StatusAccepted || charge.NextAction == nil {
		s.t.Errorf("%d %s, want an action", asked.Status, asked.Body)
		return
	}
	switch s.i % 3 {
	case 0:
		s.decide(charge.NextAction.URL, "approve")
		s.pay("pm_requires_action", http.StatusCreated, "")
	case 1:
		s.decide(charge.NextAction.URL, "refuse")
		s.pay("pm_requires_action", http.StatusPaymentRequired, "declined")
	default:
		s.cancel()
		s.pay("pm_requires_action", http.StatusPaymentRequired, "declined")
	}
}

// decide presses a button of the bank's page, twice.
func (s shopper) decide(action, decision string) {
	s.t.Helper()
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	for range 2 {
		answer, err := client.PostForm(action, url.Values{"decision": {decision}})
		if err != nil {
			s.t.Error(err)
			return
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusSeeOther {
			s.t.Errorf("%s: %s", decision, answer.Status)
		}
	}
}

// disputed waits for the dispute, is refused a refund, and sees the dispute end.
func (s shopper) disputed() {
	s.t.Helper()
	charge := s.pay("pm_disputed", http.StatusCreated, "")
	is := func(state string) func() bool {
		return func() bool {
			s.shop.Alice(s.t).Get(s.t.Context(), "/v1/charges/"+charge.ID.String()).JSON(s.t, &charge)
			return charge.Dispute == state
		}
	}
	shoptest.Eventually(s.t, within, "the dispute is open", is("open"))
	s.post("demo-admin", "/v1/charges/"+charge.ID.String()+"/refunds", `{"amount":1}`, 409, "charge_disputed")
	outcome := []string{"won", "lost"}[s.i%2]
	capture := s.shop.Captures(s.t, s.order.ID.String())[0].ID
	answer, err := http.Get(s.shop.Config.PSPURL + "/v1/disputes?capture_id=" + capture)
	if err != nil {
		s.t.Error(err)
		return
	}
	defer answer.Body.Close()
	var held struct{ Disputes []struct{ ID string } }
	if err := json.NewDecoder(answer.Body).Decode(&held); err != nil || len(held.Disputes) != 1 {
		s.t.Errorf("the provider holds %d disputes of the capture, %v", len(held.Disputes), err)
		return
	}
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost,
		s.shop.Config.PSPURL+"/v1/disputes/"+held.Disputes[0].ID+"/close", strings.NewReader(`{"outcome":"`+outcome+`"}`))
	if err != nil {
		s.t.Error(err)
		return
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", held.Disputes[0].ID)
	closed, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Error(err)
		return
	}
	closed.Body.Close()
	shoptest.Eventually(s.t, within, "the dispute is "+outcome, is(outcome))
	if outcome == "won" {
		s.refund(charge, http.StatusCreated, "")
	} else {
		s.post("demo-admin", "/v1/charges/"+charge.ID.String()+"/refunds", `{}`, 409, "refund_exceeds_charge")
	}
}

// Every way in which a provider says no, later or not at all: a client that retries as it should
// learns the end, twenty times each. In the end nothing is open but what is owed and has a next try,
// and the provider's log agrees.
func TestEveryPaymentMethodAfterANo(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 2, impatient)
	ways := map[string]func(shopper){
		"pm_timeout_late_webhook": func(s shopper) { s.pay("pm_timeout_late_webhook", http.StatusCreated, "") },
		"pm_requires_action":      shopper.challenged,
		"pm_refund_refused": func(s shopper) {
			s.refund(s.pay("pm_refund_refused", http.StatusCreated, ""), http.StatusPaymentRequired, "refund_failed")
			s.cancel()
		},
		"pm_refund_pending": func(s shopper) {
			s.refund(s.pay("pm_refund_pending", http.StatusCreated, ""), http.StatusCreated, "")
		},
		"pm_refund_fails_later": func(s shopper) {
			s.refund(s.pay("pm_refund_fails_later", http.StatusCreated, ""), http.StatusPaymentRequired, "refund_failed")
		},
		"pm_disputed": shopper.disputed,
	}
	t.Run("ways", func(t *testing.T) { //nolint:paralleltest // the end is looked at after all of them
		for method, way := range ways {
			t.Run(method, func(t *testing.T) {
				t.Parallel()
				shoptest.Race(buyers, func(i int) struct{} {
					order := placeOver(t, shop.Client(t, i%2, "demo-alice"), fmt.Sprint(method, i))
					way(shopper{t, shop, i, order})
					return struct{}{}
				})
			})
		}
	})
	const open = `SELECT (SELECT count(*) FROM charges WHERE settled_at IS NULL)
		+ (SELECT count(*) FROM refunds WHERE settled_at IS NULL)
		+ (SELECT count(*) FROM provider_events WHERE state <> 'applied')
		+ (SELECT count(*) FROM charges WHERE owes IS NOT NULL AND amount_refunded < amount AND return_due IS NULL)`
	shoptest.Eventually(t, within, "nothing is open", func() bool { return shop.Count(t, open) == 0 })
	if n := shop.Count(t, "SELECT count(*) FROM charges WHERE owes = 'canceled' AND return_due IS NOT NULL"); n != buyers {
		t.Errorf("%d charges owe money and have a next try, want %d", n, buyers)
	}
	agree(t, shop)
}
