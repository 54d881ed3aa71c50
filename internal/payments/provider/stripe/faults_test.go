package stripe_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"testing"
	"time"
)

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
	if s.replayed {
		w.Header().Set("Idempotent-Replayed", "true")
	}
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
