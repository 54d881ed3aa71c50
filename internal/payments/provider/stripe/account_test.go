package stripe_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
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
	down    bool
}

// call is one request as it arrived.
type call struct {
	method, path, key, authorization string
	form                             url.Values
}

// saved is what Stripe keeps under an idempotency key.
type saved struct {
	form   string
	status int
	body   object
}

func openAccount(t *testing.T) *account {
	t.Helper()
	a := &account{keys: map[string]saved{}}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	a.url = server.URL
	return a
}

// onNext lets the next POST go wrong. work does what was asked and returns the answer that Stripe
// would give.
func (a *account) onNext(fault fault) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next = fault
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
	if r.Method == http.MethodPost {
		a.next = nil
	}
	a.mu.Unlock()
	if down {
		panic(http.ErrAbortHandler)
	}
	work := func() saved { return a.work(r) }
	if fault == nil || r.Method != http.MethodPost {
		answer(w, work())
		return
	}
	fault(w, r, work)
}

func (a *account) work(r *http.Request) saved {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch key := r.Header.Get("Idempotency-Key"); {
	case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/v1/refunds/"):
		at := slices.IndexFunc(a.refunds, func(o object) bool {
			return strings.HasSuffix(r.URL.Path, "/"+o["id"].(string))
		})
		return saved{status: http.StatusOK, body: a.refunds[at]}
	case r.Method == http.MethodGet && r.URL.Path == "/v1/refunds":
		return page(r.Form, a.refunds, func(o object) bool {
			return o["payment_intent"] == r.Form.Get("payment_intent")
		})
	case r.Method == http.MethodGet:
		from, _ := strconv.ParseInt(r.Form.Get("created[gte]"), 10, 64)
		return page(r.Form, a.intents, func(o object) bool { return o["created"].(int64) >= from })
	case a.keys[key].form == "":
		result := a.create(r)
		result.form = r.Form.Encode()
		a.keys[key] = result
		return result
	case a.keys[key].form != r.Form.Encode():
		return saved{status: http.StatusBadRequest, body: failed("idempotency_error", "", "")}
	default:
		return a.keys[key]
	}
}

func (a *account) create(r *http.Request) saved {
	amount, _ := strconv.ParseInt(r.Form.Get("amount"), 10, 64)
	if r.URL.Path == "/v1/refunds" {
		refund := refundObject(fmt.Sprintf("re_%d", len(a.refunds)+1), r.Form.Get("payment_intent"), amount,
			"succeeded")
		a.refunds = append([]object{refund}, a.refunds...)
		return saved{status: http.StatusOK, body: refund}
	}
	method := r.Form.Get("payment_method")
	status, known := map[string]string{"pm_card_visa": "succeeded", "pm_processing": "processing",
		"pm_action": "requires_action", "pm_hold": "requires_capture",
		"pm_card_chargeDeclinedInsufficientFunds": "requires_payment_method"}[method]
	if !known {
		return saved{status: http.StatusBadRequest,
			body: failed("invalid_request_error", "resource_missing", "payment_method")}
	}
	intent := intentObject(fmt.Sprintf("pi_%d", len(a.intents)+1), status, amount, r.Form.Get("currency"),
		r.Form.Get("metadata[reference]"), r.Form.Get("metadata[order_id]"))
	a.intents = append([]object{intent}, a.intents...)
	if status != "requires_payment_method" {
		return saved{status: http.StatusOK, body: intent}
	}
	why := object{"type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds",
		"message": "Your card has insufficient funds."}
	intent["last_payment_error"] = why
	declined := failed("card_error", "card_declined", "")
	declined["error"].(object)["decline_code"], declined["error"].(object)["payment_intent"] = "insufficient_funds",
		intent
	return saved{status: http.StatusPaymentRequired, body: declined}
}

// addIntent puts a PaymentIntent into the account that this client did not make, as if an hour ago.
func (a *account) addIntent(id, status, reference string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.intents = append([]object{intentObject(id, status, 1250, "eur", reference, orderID)}, a.intents...)
}

func intentObject(id, status string, amount int64, currency, reference, order string) object {
	received := int64(0)
	if status == "succeeded" {
		received = amount
	}
	return object{"id": id, "object": "payment_intent", "amount": amount, "amount_received": received,
		"currency": currency, "status": status,
		"client_secret": id + "_secret_xyz", "created": time.Now().Unix(), "last_payment_error": nil,
		"latest_charge": "ch_1",
		"metadata":      object{"reference": reference, "order_id": order}, "payment_method": "pm_1"}
}

func refundObject(id, intent string, amount int64, status string) object {
	return object{"id": id, "object": "refund", "amount": amount, "charge": "ch_1", "created": time.Now().Unix(),
		"currency": "eur",
		"metadata": object{}, "payment_intent": intent, "reason": nil, "status": status}
}

// failed is an error's body, with the text that must not get out.
func failed(kind, code, param string) object {
	return object{"error": object{"type": kind, "code": code, "param": param,
		"message": "Invalid API Key provided: sk_test_***cret"}}
}

func page(form url.Values, all []object, keep func(object) bool) saved {
	limit, _ := strconv.Atoi(form.Get("limit"))
	after := form.Get("starting_after")
	data, more := []object{}, false
	for _, o := range all {
		switch {
		case after != "":
			if o["id"] == after {
				after = ""
			}
		case !keep(o):
		case len(data) == limit:
			more = true
		default:
			data = append(data, o)
		}
	}
	return saved{status: http.StatusOK, body: object{"object": "list", "data": data, "has_more": more, "url": "/v1"}}
}

func answer(w http.ResponseWriter, s saved) {
	body, err := json.Marshal(s.body)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Request-Id", "req_1")
	w.WriteHeader(s.status)
	_, _ = w.Write(body)
}

// The ways in which a call goes wrong.
type fault = func(w http.ResponseWriter, r *http.Request, work func() saved)

func answers(status int, body object) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ func() saved) {
		answer(w, saved{status: status, body: body})
	}
}

func says(status int, text string) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ func() saved) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text))
	}
}

// silent never answers. It returns when the client has given up.
func silent(_ http.ResponseWriter, r *http.Request, work func() saved) {
	work()
	<-r.Context().Done()
}

func cut(w http.ResponseWriter, _ *http.Request, work func() saved) {
	work()
	panic(http.ErrAbortHandler)
}

func cutInBody(w http.ResponseWriter, _ *http.Request, work func() saved) {
	body, err := json.Marshal(work().body)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(bytes.TrimSuffix(body, []byte("}")))
	panic(http.ErrAbortHandler)
}

// changed answers with one field that is not what was asked for.
func changed(field string, value any) fault {
	return func(w http.ResponseWriter, _ *http.Request, work func() saved) {
		s := work()
		s.body[field] = value
		answer(w, s)
	}
}

func newServer(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}
