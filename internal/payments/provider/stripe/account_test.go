package stripe_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

type object = map[string]any

// account is a Stripe account as far as the shop can see it: PaymentIntents, refunds and
// idempotency keys. Its answers follow the bodies in Stripe's documentation.
type account struct {
	url string

	mu      sync.Mutex
	calls   []call
	keys    map[string]saved
	intents []object // newest first, as they are listed
	refunds []object
	next    fault
	nextAt  string // the end of the path that the fault waits for
	down    bool
	live    bool
	// searchLags is whether search finds nothing yet.
	searchLags   bool
	refundStatus string // of new refunds, succeeded if empty
}

// call is one request as it arrived.
type call struct {
	method, path, key, authorization string
	form                             url.Values
}

// saved is what Stripe keeps under an idempotency key.
type saved struct {
	form     string
	status   int
	body     object
	executed bool // an error that is kept
	replayed bool
}

func openAccount(t *testing.T) *account {
	t.Helper()
	a := &account{keys: map[string]saved{}}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	a.url = server.URL
	return a
}

// onNextAt lets the next POST whose path ends with suffix go wrong. work does what was asked and
// returns the answer that Stripe would give.
func (a *account) onNextAt(suffix string, fault fault) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next, a.nextAt = fault, suffix
}

// posts are the calls that can move money, so far.
func (a *account) posts() []call {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(a.calls), func(c call) bool { return c.method != http.MethodPost })
}

// captured are the PaymentIntents that took money.
func (a *account) captured() []object {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(a.intents), func(o object) bool { return o["status"] != "succeeded" })
}

func (a *account) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		answer(w, saved{status: http.StatusBadRequest, body: failed("invalid_request_error", "", "")})
		return
	}
	a.mu.Lock()
	a.calls = append(a.calls, call{r.Method, r.URL.Path, r.Header.Get("Idempotency-Key"),
		r.Header.Get("Authorization"), r.Form})
	fault, down := a.next, a.down
	if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, a.nextAt) {
		fault = nil
	}
	if fault != nil {
		a.next = nil
	}
	a.mu.Unlock()
	if down {
		panic(http.ErrAbortHandler)
	}
	work := func() saved { return a.work(r) }
	if fault == nil {
		answer(w, work())
		return
	}
	fault(w, r, work)
}

func (a *account) work(r *http.Request) saved {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := r.Header.Get("Idempotency-Key")
	if strings.Contains(r.Header.Get("Authorization"), "_live_") != a.live {
		a = &account{keys: map[string]saved{}} // the other mode has none of this one's objects
	}
	switch {
	case r.Method == http.MethodGet:
		return a.read(r)
	case a.keys[key].form == "":
		result := a.write(r)
		result.form = r.URL.Path + "?" + r.Form.Encode()
		if result.status != http.StatusBadRequest && result.status != http.StatusNotFound || result.executed {
			a.keys[key] = result
		}
		return result
	case a.keys[key].form != r.URL.Path+"?"+r.Form.Encode():
		return saved{status: http.StatusBadRequest, body: failed("idempotency_error", "", "")}
	default:
		result := a.keys[key]
		result.replayed = true
		return result
	}
}

func (a *account) read(r *http.Request) saved {
	id, _ := strings.CutPrefix(r.URL.Path, "/v1/payment_intents/")
	switch {
	case r.URL.Path == "/v1/refunds":
		return page(r.Form, a.refunds, func(o object) bool {
			return !r.Form.Has("payment_intent") || o["payment_intent"] == r.Form.Get("payment_intent")
		})
	case r.URL.Path == "/v1/payment_intents":
		return page(r.Form, a.intents, func(object) bool { return true })
	case id == "search":
		return saved{status: http.StatusOK, body: object{"object": "search_result", "has_more": false,
			"data": slices.DeleteFunc(append([]object{}, a.intents...), func(o object) bool {
				reference := o["metadata"].(object)["reference"].(string)
				return a.searchLags || r.Form.Get("query") != "metadata['reference']:'"+reference+"'"
			})}}
	default:
		return a.find(id, func(o object) saved { return saved{status: http.StatusOK, body: maps.Clone(o)} })
	}
}

func (a *account) find(id string, then func(object) saved) saved {
	at := slices.IndexFunc(a.intents, func(o object) bool { return o["id"] == id })
	if at < 0 {
		return saved{status: http.StatusNotFound, body: failed("invalid_request_error", "resource_missing", "intent")}
	}
	return then(a.intents[at])
}

func (a *account) write(r *http.Request) saved {
	path := strings.Split(r.URL.Path, "/") // "", v1, payment_intents, id, verb
	switch {
	case r.URL.Path == "/v1/refunds":
		return a.refund(r)
	case len(path) == 3:
		return a.create(r)
	case path[4] == "confirm":
		return a.find(path[3], func(o object) saved { return confirm(o, r.Form.Get("return_url")) })
	default:
		return a.find(path[3], cancel)
	}
}

func (a *account) refund(r *http.Request) saved {
	amount, _ := strconv.ParseInt(r.Form.Get("amount"), 10, 64)
	status := a.refundStatus
	if status == "" {
		status = "succeeded"
	}
	refund := refundObject(fmt.Sprintf("re_%d", len(a.refunds)+1), r.Form.Get("payment_intent"), amount, status)
	refund["metadata"] = object{"refund_id": r.Form.Get("metadata[refund_id]")}
	a.refunds = append([]object{refund}, a.refunds...)
	return saved{status: http.StatusOK, body: maps.Clone(refund)}
}

// outcomes are what confirming an intent with a payment method leads to.
var outcomes = map[string]string{"pm_card_visa": "succeeded", "pm_processing": "processing",
	"pm_card_threeDSecure2Required": "requires_action", "pm_hold": "requires_capture",
	"pm_card_chargeDeclinedInsufficientFunds": "requires_payment_method"}

func (a *account) create(r *http.Request) saved {
	amount, _ := strconv.ParseInt(r.Form.Get("amount"), 10, 64)
	method := r.Form.Get("payment_method")
	if outcomes[method] == "" {
		return saved{status: http.StatusBadRequest,
			body: failed("invalid_request_error", "resource_missing", "payment_method")}
	}
	intent := intentObject(fmt.Sprintf("pi_%d", len(a.intents)+1), "requires_confirmation", amount,
		r.Form.Get("currency"), r.Form.Get("metadata[reference]"), r.Form.Get("metadata[order_id]"))
	intent["payment_method"] = method
	a.intents = append([]object{intent}, a.intents...)
	return saved{status: http.StatusOK, body: maps.Clone(intent)}
}

func confirm(intent object, returnURL string) saved {
	if intent["status"] != "requires_confirmation" {
		return unexpected()
	}
	status := outcomes[intent["payment_method"].(string)]
	intent["status"] = status
	switch status {
	case "succeeded":
		intent["amount_received"] = intent["amount"]
	case "requires_action":
		intent["next_action"] = object{"type": "redirect_to_url", "redirect_to_url": object{
			"url": "https://hooks.stripe.com/3d_secure_2/" + intent["id"].(string), "return_url": returnURL}}
	case "requires_payment_method":
		decline(intent, "card_declined", "insufficient_funds")
		declined := failed("card_error", "card_declined", "")
		declined["error"].(object)["decline_code"] = "insufficient_funds"
		declined["error"].(object)["payment_intent"] = maps.Clone(intent)
		return saved{status: http.StatusPaymentRequired, body: declined}
	}
	return saved{status: http.StatusOK, body: maps.Clone(intent)}
}

func decline(intent object, code, declineCode string) {
	intent["status"], intent["payment_method"], intent["next_action"] = "requires_payment_method", nil, nil
	intent["last_payment_error"] = object{"type": "card_error", "code": code, "decline_code": declineCode,
		"message": "Your card was declined."}
}

func cancel(intent object) saved {
	if intent["status"] == "succeeded" || intent["status"] == "canceled" {
		return unexpected()
	}
	intent["status"], intent["next_action"] = "canceled", nil
	return saved{status: http.StatusOK, body: maps.Clone(intent)}
}

func unexpected() saved {
	return saved{status: http.StatusBadRequest, executed: true,
		body: failed("invalid_request_error", "payment_intent_unexpected_state", "")}
}

// change lets time pass: the buyer acts, or a bank does.
func (a *account) change(what func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	what()
}
