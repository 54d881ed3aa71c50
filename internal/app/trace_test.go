package app_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// One trace leads from an order to its mail, over the outbox and the broker.
func TestTraceFromOrderToMail(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewInMemoryExporter()
	shop := apptest.Start(t, 1, func(c *app.Config) {
		c.Traces = sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	})
	// One customer at a time: orders or charges that share a transaction have its statements in the
	// trace of one of them.
	form := guestCheckout(t, shop, "guest@example.com")
	t.Run("Browser", func(t *testing.T) {
		t.Parallel()
		way := awaitWay(t, shop, spans, "guest@example.com", "POST /checkout", "")
		way.want(t, "POST /checkout", "redis set", "batch query Enqueue", "batch query InsertCharges",
			"batch query ChangeStatuses", "query ClaimReceipt")
		way.without(t, "guest@example.com", form.Get("key"), "pm_ok")
	})
	// The event that pays for the order comes by a webhook, before the answer to its charge.
	t.Run("ClientWithATrace", func(t *testing.T) {
		t.Parallel()
		const id = "0af7651916cd43dd8448eb211c80319c"
		header := http.Header{"Traceparent": {"00-" + id + "-b7ad6b7169203331-01"}, "Tracestate": {"a=secret"},
			"Authorization": {"Bearer demo-alice"}, "Content-Type": {"application/json"}}
		header.Set("Idempotency-Key", "the-key-of-an-order")
		order, _ := send(t, http.DefaultClient, shop.Nodes[0]+"/v1/orders", header,
			apptest.OrderBody("alice@example.com", "MUG-ONCE", 1))
		header.Set("Idempotency-Key", "the-key-of-a-charge")
		send(t, http.DefaultClient, shop.Nodes[0]+order.Get("Location")+"/charges", header,
			`{"payment_method":"pm_webhook_first"}`)
		way := awaitWay(t, shop, spans, "alice@example.com", "POST /v1/orders/:id/charges", id)
		way.want(t, "POST /v1/orders/:id/charges", "POST /v1/orders")
		way.without(t, "alice@example.com", "the-key-of", "pm_webhook_first", "secret")
		if !strings.Contains(shop.Log.String(), `"trace_id":"`+id+`"`) {
			t.Error("no line of the log has the trace's id")
		}
	})
	t.Run("Metrics", func(t *testing.T) {
		t.Parallel()
		metrics := ""
		shoptest.Eventually(t, within, "there is a consumer", func() bool {
			_, metrics = read(t, shop.Ops[0]+"/metrics")
			return strings.Contains(metrics, `onceshop_consumer_lag_events{consumer="receipts"} `)
		})
		for _, want := range []string{"onceshop_build_info{", "onceshop_unpaid_orders ", "onceshop_unpaid_units ",
			`onceshop_receipts_open{state="waiting"} `, `onceshop_receipts_open{state="dead"} 0`,
			"onceshop_dead_letters 0", `onceshop_money_outcomes_total{kind="charge",status="succeeded"} `} {
			if !strings.Contains(metrics, want) {
				t.Errorf("the metrics miss %s", want)
			}
		}
	})
}

// guestCheckout buys a mug with a browser and returns the form.
func guestCheckout(t *testing.T, shop *apptest.Shop, email string) url.Values {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, Transport: &http.Transport{DisableKeepAlives: true}}
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	send(t, browser, shop.Nodes[0]+"/cart", header,
		url.Values{"action": {"add"}, "sku": {"MUG-ONCE"}, "quantity": {"1"}}.Encode())
	_, page := send(t, browser, shop.Nodes[0]+"/checkout", nil, "")
	key := regexp.MustCompile(`name="key" value="([^"]*)"`).FindSubmatch(page)
	if key == nil {
		t.Fatalf("no key on the checkout: %s", page)
	}
	form := url.Values{"key": {string(key[1])}, "email": {email}, "payment_method": {"pm_ok"}}
	send(t, browser, shop.Nodes[0]+"/checkout", header, form.Encode())
	return form
}

// send posts the body, or gets the page if there is no header. It fails the test unless the answer
// is a success.
func send(t *testing.T, client *http.Client, address string, header http.Header,
	body string) (answered http.Header, page []byte) {
	t.Helper()
	method := http.MethodPost
	if header == nil {
		method, header = http.MethodGet, http.Header{}
	}
	request, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header.Clone()
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if page, err = io.ReadAll(answer.Body); err != nil || answer.StatusCode >= http.StatusBadRequest {
		t.Fatalf("%s: %s, %v", address, answer.Status, err)
	}
	return answer.Header, page
}

// way is the spans of one trace, by their ids.
type way map[trace.SpanID]tracetest.SpanStub

// awaitWay waits for the mail and returns the trace of the request, which has the id unless that is
// "".
func awaitWay(t *testing.T, shop *apptest.Shop, spans *tracetest.InMemoryExporter, email, request, id string) way {
	t.Helper()
	shoptest.Eventually(t, within, "the receipt arrives", func() bool { return len(shop.Mails(t, email)) > 0 })
	found := way{}
	shoptest.Eventually(t, within, "the handling of the event ends", func() bool {
		all := spans.GetSpans()
		for _, span := range all {
			if span.Name == request && id == "" {
				id = span.SpanContext.TraceID().String()
			}
		}
		for _, span := range all {
			if span.SpanContext.TraceID().String() == id {
				found[span.SpanContext.SpanID()] = span
			}
		}
		return slices.Contains(found.names(), "process order.paid") && slices.Contains(found.names(), request)
	})
	return found
}

func (w way) names() (names []string) {
	for _, span := range w {
		names = append(names, span.Name)
	}
	slices.Sort(names)
	return names
}

// want fails unless the mail was sent for the event of the request, and the trace has the spans.
func (w way) want(t *testing.T, request string, names ...string) {
	t.Helper()
	all := w.names()
	for _, name := range append(names, "orders.look", "orders.place", "payments.start", "provider capture",
		"payments.settle", "publish order.placed", "publish order.paying", "publish order.paid") {
		if !slices.Contains(all, name) {
			t.Errorf("no span %q among %q", name, all)
		}
	}
	var up []string
	for _, span := range w {
		if span.Name != "smtp send" {
			continue
		}
		for found := true; found; span, found = w[span.Parent.SpanID()], w[span.Parent.SpanID()].Name != "" {
			up = append(up, span.Name)
		}
	}
	if len(up) < 4 || !slices.Equal(up[:3], []string{"smtp send", "process order.paid", "publish order.paid"}) ||
		up[len(up)-1] != request {
		t.Errorf("the mail's span is below %q, not the event of %s", up, request)
	}
}

// without fails if a span holds one of the texts.
func (w way) without(t *testing.T, texts ...string) {
	t.Helper()
	for _, span := range w {
		content := fmt.Sprint(span.Name, span.Attributes, span.Events, span.Status, span.Links,
			span.SpanContext.TraceState())
		for _, text := range texts {
			if strings.Contains(content, text) {
				t.Errorf("%s is in the span %s", text, content)
			}
		}
	}
}
