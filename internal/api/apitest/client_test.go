package apitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/onceshop/onceshop/internal/api"
)

const (
	orderPath = "/v1/orders/0193588e-6c00-7a3b-8f21-5d0c9e4b7a10"
	order     = `{"id":"0193588e-6c00-7a3b-8f21-5d0c9e4b7a10","status":"placed","email":"alice@example.com",` +
		`"currency":"EUR","total":2900,"lines":[{"sku":"mug-once","name":"The Once Mug","quantity":2,` +
		`"unit_price":1450,"amount":2900}],"created_at":"2026-11-23T09:41:07.512Z"}`
	notFound = `{"type":"/problems/not_found","title":"Not found","status":404,"detail":"There is nothing here.",` +
		`"code":"not_found","safe_new_key":true}`
	methodNotAllowed = `{"type":"/problems/method_not_allowed","title":"Method not allowed","status":405,` +
		`"detail":"PUT is not possible here.","code":"method_not_allowed","safe_new_key":true}`
	running = `{"type":"/problems/request_in_progress","title":"Running","status":409,"detail":"Wait.",` +
		`"code":"request_in_progress","safe_new_key":false}`
	outOfStock = `{"type":"/problems/out_of_stock","title":"Not enough stock","status":409,` +
		`"detail":"Nothing was ordered.","code":"out_of_stock","safe_new_key":true,` +
		`"items":[{"sku":"mug-once","requested":2,"available":1}]}`
)

// recorder is a testing.TB that keeps errors instead of failing.
type recorder struct {
	testing.TB
	mu     sync.Mutex
	errors []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

// answer starts a server that gives every request the same answer.
func answer(t *testing.T, status int, header map[string]string, body string) string {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for name, value := range header {
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	})
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

func typed(contentType string, more ...string) map[string]string {
	header := map[string]string{"Content-Type": contentType}
	for i := 0; i < len(more); i += 2 {
		header[more[i]] = more[i+1]
	}
	return header
}

func TestClientHoldsAnswersAgainstTheDocument(t *testing.T) {
	t.Parallel()
	const problem, location = "application/problem+json", orderPath
	edit := func(s, old, new string) string {
		if !strings.Contains(s, old) {
			t.Fatalf("%q is not in %s", old, s)
		}
		return strings.Replace(s, old, new, 1)
	}
	post, get := "POST /v1/orders", "GET "+orderPath
	tests := []struct {
		name    string
		request string
		status  int
		header  map[string]string
		body    string
		want    string // a part of the error; empty when the answer conforms
	}{
		{"order", get, 200, typed("application/json"), order, ""},
		{"order with charset", get, 200, typed("application/json; charset=UTF-8"), order, ""},
		{"order with query", get + "?x=1", 200, typed("application/json"), order, ""},
		{"placed", post, 201, typed("application/json", "Location", location), order, ""},
		{"replayed", post, 201, typed("application/json", "Location", location, "Idempotent-Replayed", "true"), order,
			""},
		{"out of stock", post, 409, typed(problem), outOfStock, ""},
		{"running", post, 409, typed(problem, "Retry-After", "1"), running, ""},
		{"not found", get, 404, typed(problem), notFound, ""},
		{"unknown path", "GET /v1/nowhere", 404, typed(problem), notFound, ""},
		{"unknown method", "PUT /v1/orders", 405, typed(problem, "Allow", "GET, POST"), methodNotAllowed, ""},
		{"head", strings.Replace(get, "GET", "HEAD", 1), 200, typed("application/json"), "", ""},
		{"head of another status", strings.Replace(get, "GET", "HEAD", 1), 201, typed("application/json"), "",
			"status 201 is not documented"},
		{"unknown method without a body", "HEAD /v1/deliveries", 405, typed(problem), "", ""},
		{"webhook", "POST /v1/webhooks/payments", 204, nil, "", ""},
		{"document", "GET /v1/openapi.yaml", 200, typed("application/yaml"), string(api.OpenAPI), ""},

		{"undocumented status", get, 418, typed("application/json"), order, "status 418 is not documented"},
		{"status of another operation", get, 201, typed("application/json"), order, "status 201 is not documented"},
		{"redirect", get, 308, typed("application/json", "Location", "/"), "", "status 308 is not documented"},
		{"missing required field", get, 200, typed("application/json"), edit(order, `"status":"placed",`, ``),
			"missing property 'status'"},
		{"missing field of a line", get, 200, typed("application/json"), edit(order, `"quantity":2,`, ``),
			"missing property 'quantity'"},
		{"additional field", get, 200, typed("application/json"), edit(order, `{"id"`, `{"x":1,"id"`),
			"additional properties 'x'"},
		{"additional field of a line", get, 200, typed("application/json"), edit(order, `{"sku"`, `{"x":1,"sku"`),
			"additional properties 'x'"},
		{"wrong type", get, 200, typed("application/json"), edit(order, `2900`, `"2900"`), "got string, want integer"},
		{"fraction of a cent", get, 200, typed("application/json"), edit(order, `2900`, `2900.5`),
			"got number, want integer"},
		{"null", get, 200, typed("application/json"), edit(order, `"EUR"`, `null`), "got null, want string"},
		{"unknown state", get, 200, typed("application/json"), edit(order, `placed`, `lost`), "'/status'"},
		{"UUID of another version", get, 200, typed("application/json"), edit(order, `-7a3b`, `-4a3b`), "'/id'"},
		{"local time", get, 200, typed("application/json"), edit(order, `512Z`, `512+01:00`), "'/created_at'"},
		{"no such day", get, 200, typed("application/json"), edit(order, `11-23T`, `11-31T`), "'/created_at'"},
		{"wrong content type", get, 200, typed("text/html"), order, `"text/html" is not documented`},
		{"no content type", get, 200, typed(""), order, "content type"},
		{"problem as plain JSON", get, 404, typed("application/json"), notFound,
			`"application/json" is not documented`},
		{"not JSON", get, 200, typed("application/json"), "gone", "body:"},
		{"empty", get, 200, typed("application/json"), "", "body:"},
		{"trailing data", get, 200, typed("application/json"), order + "{}", "body:"},
		{"no location", post, 201, typed("application/json"), order, "Location"},
		{"odd replay header", post, 201, typed("application/json", "Location", location, "Idempotent-Replayed", "yes"),
			order, "Idempotent-Replayed"},
		{"429 without retry-after", get, 429, typed(problem), edit(notFound, "404", "429"), "Retry-After"},
		{"retry-after as a date", post, 409, typed(problem, "Retry-After", "soon"), running, "Retry-After"},
		{"problem without safe_new_key", get, 404, typed(problem), edit(notFound, `,"safe_new_key":true`, ``),
			"missing property 'safe_new_key'"},
		{"wrong safe_new_key", post, 409, typed(problem, "Retry-After", "1"), edit(running, "false", "true"),
			"'/safe_new_key'"},
		{"wrongly unsafe", get, 404, typed(problem), edit(notFound, "true", "false"), "'/safe_new_key'"},
		{"code of another status", post, 409, typed(problem), edit(notFound, "404", "409"), "'/code'"},
		{"status unlike the response", get, 404, typed(problem), edit(notFound, "404", "400"), "'/status'"},
		{"additional field of a problem", get, 404, typed(problem), edit(notFound, `{`, `{"stack":"main.go:1",`),
			"additional properties 'stack'"},
		{"out of stock without items", post, 409, typed(problem),
			outOfStock[:strings.Index(outOfStock, `,"items"`)] + "}", "missing property 'items'"},
		{"items of another problem", get, 404, typed(problem),
			edit(notFound, `{`, `{"items":[{"sku":"a","requested":1,"available":0}],`), "'not' failed"},
		{"unknown path answered", "GET /v1/nowhere", 200, typed("application/json"), "{}",
			"status 200 is not documented"},
		{"unknown path as text", "GET /v1/nowhere", 404, typed("text/plain"), "404 page not found",
			`"text/plain" is not documented`},
		{"document that is none", "GET /v1/openapi.yaml", 200, typed("application/yaml"), "openapi: 2.0.0",
			"missing properties"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			method, path, _ := strings.Cut(tt.request, " ")
			tb := &recorder{TB: t}
			r := NewClient(tb, answer(t, tt.status, tt.header, tt.body), "demo-alice").Do(t.Context(), method, path,
				"", nil)
			if r.Status != tt.status || string(r.Body) != tt.body && method != http.MethodHead {
				t.Errorf("got %d %s", r.Status, r.Body)
			}
			got := strings.Join(tb.errors, "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("reported %q, want %q in it", got, tt.want)
			}
			if tt.want != "" && (!strings.Contains(got, tt.request) || !strings.Contains(got, tt.body)) {
				t.Errorf("the report lacks the request or the body: %s", got)
			}
		})
	}
}

func TestClientSendsWhatItIsGiven(t *testing.T) {
	t.Parallel()
	type sent struct{ method, path, auth, key, contentType, body string }
	var got sent
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = sent{
			r.Method, r.URL.String(), r.Header.Get("Authorization"), r.Header.Get("Idempotency-Key"),
			r.Header.Get("Content-Type"), string(body),
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, notFound)
	})
	ctx := t.Context()
	alice, nobody := NewClient(t, url+"/", "demo-alice"), NewClient(t, url, "")
	tests := []struct {
		send func() Response
		want sent
	}{
		{func() Response { return alice.Get(ctx, "/v1/a?b=c") },
			sent{"GET", "/v1/a?b=c", "Bearer demo-alice", "", "", ""}},
		{func() Response { return nobody.Post(ctx, "/v1/a", `"k"`, nil) }, sent{"POST", "/v1/a", "", `"k"`, "", ""}},
		{func() Response { return nobody.Post(ctx, "/v1/a", "", "{,") },
			sent{"POST", "/v1/a", "", "", "application/json", "{,"}},
		{func() Response { return nobody.Post(ctx, "/v1/a", "", []byte("{,")) },
			sent{"POST", "/v1/a", "", "", "application/json", "{,"}},
		{func() Response { return nobody.Post(ctx, "/v1/a", "", map[string]int{"b": 1}) },
			sent{"POST", "/v1/a", "", "", "application/json", `{"b":1}`}},
	}
	for _, tt := range tests {
		r := tt.send()
		if got != tt.want {
			t.Errorf("sent %+v, want %+v", got, tt.want)
		}
		var problem struct{ Code string }
		if r.JSON(t, &problem); problem.Code != "not_found" {
			t.Errorf("decoded code %q", problem.Code)
		}
	}
	tb := &recorder{TB: t}
	if (Response{Body: []byte("gone")}).JSON(tb, new(any)); len(tb.errors) != 1 {
		t.Errorf("JSON reported %q", tb.errors)
	}
}

// A broken connection is the caller's to judge in Try and a failure in Do, and in both the
// request reached the server once, although an earlier answer left the connection usable.
func TestClientReportsBrokenConnections(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		switch requests.Add(1) {
		case 1:
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, outOfStock)
			return
		case 2: // cut before the answer
		default: // cut inside the answer
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, "{")
		}
		panic(http.ErrAbortHandler)
	})
	tb := &recorder{TB: t}
	client := NewClient(tb, url, "")
	client.Post(t.Context(), "/v1/orders", "k", "{}")
	if r, err := client.Try(t.Context(), "POST", "/v1/orders", "k", "{}"); err == nil || r.Status != 0 ||
		len(tb.errors) != 0 {
		t.Errorf("Try returned %d, %v and reported %q", r.Status, err, tb.errors)
	}
	client.Post(t.Context(), "/v1/orders", "k", "{}")
	if len(tb.errors) != 1 || !strings.Contains(tb.errors[0], "POST /v1/orders") {
		t.Errorf("Do reported %q", tb.errors)
	}
	if n := requests.Load(); n != 3 {
		t.Errorf("3 calls made %d requests", n)
	}
}

func TestClientServesManyGoroutines(t *testing.T) {
	t.Parallel()
	client := NewClient(t, answer(t, 200, typed("application/json"), order), "demo-alice")
	gate := make(chan struct{})
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			<-gate
			client.Get(t.Context(), orderPath)
		})
	}
	close(gate)
	wg.Wait()
}

// Every example of the document conforms to the document, and stops conforming when a required
// field goes, an unknown one comes or one has the wrong type.
func TestExamplesConform(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromData(api.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	bodies, err := compileBodies(doc)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context(), openapi3.EnableExamplesValidation()); err != nil {
		t.Errorf("examples of requests and parameters: %v", err)
	}
	codes := map[string]bool{}
	for media, values := range responseExamples(doc) {
		schema := bodies[media]
		for _, value := range values {
			example := value.(map[string]any)
			if err := schema.Validate(example); err != nil {
				t.Errorf("example %v: %v", example, err)
			}
			if code, ok := example["code"].(string); ok {
				codes[code] = true
				if example["type"] != "/problems/"+code {
					t.Errorf("problem %s has type %v", code, example["type"])
				}
			}
			for name, changed := range broken(example) {
				if schema.Validate(changed) == nil {
					t.Errorf("example %v conforms %s", example, name)
				}
			}
		}
	}
	for _, code := range doc.Components.Schemas["Problem"].Value.Properties["code"].Value.Enum {
		if !codes[code.(string)] {
			t.Errorf("no example shows the problem %s", code)
		}
	}
}

// The check of the examples can fail: a wrong one in a request is found.
func TestWrongExampleIsFound(t *testing.T) {
	t.Parallel()
	for old, wrong := range map[string]string{
		"{ sku: PIN-KEY, quantity: 1 }": "{ sku: PIN-KEY, quantity: 0 }",
		"payment_method: pm_ok }":       "payment_method: pm-ok }",
		"example: cart-7f3a":            "example: cart 7f3a",
	} {
		if !bytes.Contains(api.OpenAPI, []byte(old)) {
			t.Fatalf("%q is not in the document", old)
		}
		doc, err := openapi3.NewLoader().LoadFromData(bytes.Replace(api.OpenAPI, []byte(old), []byte(wrong), 1))
		if err != nil {
			t.Fatal(err)
		}
		if doc.Validate(t.Context(), openapi3.EnableExamplesValidation()) == nil {
			t.Errorf("%q was accepted as an example", wrong)
		}
	}
}

func responseExamples(doc *openapi3.T) map[*openapi3.MediaType][]any {
	examples := map[*openapi3.MediaType][]any{}
	for _, media := range responseBodies(doc) {
		if examples[media] != nil {
			continue
		}
		if media.Example != nil {
			examples[media] = append(examples[media], media.Example)
		}
		for _, example := range media.Examples {
			examples[media] = append(examples[media], example.Value.Value)
		}
	}
	return examples
}

// broken returns copies of an example that must not conform, by what was done to them.
func broken(example map[string]any) map[string]map[string]any {
	copies := map[string]map[string]any{}
	with := func(name string, change func(map[string]any)) {
		c := maps.Clone(example)
		change(c)
		copies[name] = c
	}
	optional := []string{"decline_code"}
	if example["code"] == "order_already_paid" {
		optional = append(optional, "charge_id")
	}
	with("with one more field", func(c map[string]any) { c["surprise"] = true })
	for field := range example {
		with("with another type of "+field, func(c map[string]any) { c[field] = json.Number("-0.5") })
		if !slices.Contains(optional, field) {
			with("without "+field, func(c map[string]any) { delete(c, field) })
		}
	}
	return copies
}
