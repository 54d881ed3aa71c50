package docs_test

import (
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
	"github.com/onceshop/onceshop/internal/shoptest"
	"github.com/onceshop/onceshop/web/docs"
)

// Ids of the examples.
const (
	orderID  = "0193588e-6c00-7a3b-8f21-5d0c9e4b7a10"
	newerID  = "0193591c-4a40-7d18-9be2-6f1e0d5c8b27"
	chargeID = "01935890-1f40-7c55-9d02-3b8e7f6a2c41"
	refundID = "01935899-3a80-7e12-a6c4-91f0d2b85e63"
)

// patience bounds every wait, on a machine with other work.
const patience = 30 * time.Second

// sender sends the examples of the document to a shop, with the ids of real objects.
type sender struct {
	t    *testing.T
	shop *apptest.Shop
	docs.Document
	ids map[string]string
	// sent has the examples of requests and answers that were sent and compared.
	sent map[string]bool
}

// TestExamplesAreReal sends every example of the document to a fresh shop. The answers must equal
// the examples but for ids, times and addresses.
func TestExamplesAreReal(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1, func(c *app.Config) { c.ProviderTimeout = time.Second })
	s := &sender{t, shop, read(t), map[string]string{}, map[string]bool{}}
	s.send("listProducts", "", 200, "")
	s.ids[orderID] = s.send("placeOrder", "", 201, "")
	s.send("placeOrder", "", 201, "")
	shoptest.Eventually(t, patience, "the twin is recorded", func() bool {
		return shop.Count(t, "SELECT count(*) FROM stopped_twins") > 0
	})
	s.send("getTimeline", "", 200, "")
	s.ids[newerID] = s.order("newer")
	s.send("listOrders", "", 200, "")
	s.send("getOrder", "", 200, "")
	s.send("chargeOrder", "declined", 402, "declined")
	s.keyed("second", func() { s.ids[chargeID] = s.send("chargeOrder", "paid", 201, "") })
	s.ids[refundID] = s.send("refundCharge", "part", 201, "part")
	s.send("getCharge", "", 200, "")
	s.send("listRefunds", "", 200, "")
	s.send("getRefund", "", 200, "")
	s.send("receivePaymentEvent", "", 204, "")
	s.keyed("rest", func() { s.send("refundCharge", "rest", 201, "rest") })
	s.ids[orderID] = s.ids[newerID]
	s.send("cancelOrder", "", 200, "")
	s.send("receiveDelivery", "", 201, "")
	s.send("getOpenAPI", "", 200, "")

	for _, method := range []string{"unknown", "requires_action"} {
		s.ids[orderID] = s.order(method)
		s.keyed(method, func() { s.send("chargeOrder", method, 202, method) })
	}
	s.ids[orderID] = s.order("pending")
	var charge struct{ ID string }
	shop.Alice(t).Post(t.Context(), "/v1/orders/"+s.ids[orderID]+"/charges", "pending",
		`{"payment_method":"pm_refund_pending"}`).JSON(t, &charge)
	s.ids[chargeID] = charge.ID
	s.keyed("pending", func() { s.send("refundCharge", "part", 202, "") })
	s.missing()
}

// order places the example order with another key.
func (s *sender) order(key string) (id string) {
	s.keyed(key, func() { id = s.send("placeOrder", "", 201, "") })
	return id
}

// keyed runs send with another idempotency key.
func (s *sender) keyed(key string, send func()) {
	s.ids["cart-7f3a"] = key
	send()
	delete(s.ids, "cart-7f3a")
}

func (s *sender) real(text string) string {
	for example, id := range s.ids {
		text = strings.ReplaceAll(text, example, id)
	}
	return text
}

// send sends an example request of a call, by its name, and compares the answer with an example of
// that status, by its name. It returns the id in the answer.
func (s *sender) send(id, name string, status int, answerName string) string {
	s.t.Helper()
	call, _ := s.Call(id)
	for i, r := range call.Requests {
		if r.Name == name {
			call.Requests = call.Requests[i : i+1]
		}
	}
	s.sent[id+" "+name] = true
	token := "demo-alice"
	if call.Token == "admin" {
		token = "demo-admin"
	}
	got, body := s.do(call.Request(token))
	if got != status {
		s.t.Errorf("%s %s: %d %s, want %d", id, name, got, body, status)
		return ""
	}
	for _, response := range call.Responses {
		if response.Status != strconv.Itoa(status) {
			continue
		}
		for _, kind := range response.Problems {
			if kind.Code == answerName {
				s.compare(id, string(kind.Example().Body()), body)
			}
		}
		for _, example := range response.Examples {
			if example.Name == answerName {
				s.sent[id+" "+response.Status+" "+answerName] = true
				s.compare(id, example.JSON, body)
			}
		}
	}
	var object struct{ ID string }
	_ = json.Unmarshal([]byte(body), &object) // the document is YAML
	return object.ID
}

func (s *sender) do(r docs.Request) (status int, body string) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), r.Method, s.shop.Nodes[0]+s.real(r.Target),
		strings.NewReader(r.Body))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Close = true
	if r.Token != "" {
		request.Header.Set("Authorization", "Bearer "+r.Token)
	}
	for _, h := range r.Header {
		request.Header.Set(h.Name, s.real(h.Example))
	}
	if request.Header.Get("webhook-signature") != "" {
		now := time.Now()
		signature, err := psp.Sign(apptest.WebhookSecret, request.Header.Get("webhook-id"), now, []byte(r.Body))
		if err != nil {
			s.t.Fatal(err)
		}
		request.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
		request.Header.Set("webhook-signature", signature)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

var changing = regexp.MustCompile(
	`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT[0-9:.]+Z|https?://[^"]+`)

// compare compares an answer with an example. A list in an example has a part of the real one.
func (s *sender) compare(call, example, answer string) {
	s.t.Helper()
	var want, got map[string]any
	for _, body := range []struct {
		text string
		into *map[string]any
	}{{example, &want}, {answer, &got}} {
		if err := json.Unmarshal([]byte(changing.ReplaceAllString(body.text, "…")), body.into); err != nil {
			s.t.Fatalf("%s: %v\n%s", call, err, body.text)
		}
	}
	for name, value := range want {
		if shown, isList := value.([]any); isList {
			all, _ := got[name].([]any)
			got[name] = slices.DeleteFunc(all, func(item any) bool {
				return !slices.ContainsFunc(shown, func(other any) bool { return cmp.Equal(item, other) })
			})
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("%s: the example (-) and the answer (+) differ:\n%s", call, diff)
	}
}

// missing reports the examples that were not sent or compared.
func (s *sender) missing() {
	for _, group := range s.Groups {
		for _, call := range group.Calls {
			if strings.HasSuffix(call.Path, "/stripe") {
				continue
			}
			for _, request := range call.Requests {
				if !s.sent[call.ID+" "+request.Name] {
					s.t.Errorf("%s: the example %q was not sent", call.ID, request.Name)
				}
			}
			for _, response := range call.Responses {
				for _, example := range response.Examples {
					if !s.sent[call.ID+" "+response.Status+" "+example.Name] {
						s.t.Errorf("%s: the example %q of %s was not compared", call.ID, example.Name, response.Status)
					}
				}
			}
		}
	}
}
