// Package apitest is the client that tests use against a running shop: it checks every answer
// against the OpenAPI document.
package apitest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/onceshop/onceshop/internal/api"
)

// Client calls a running shop and holds every answer against the OpenAPI document: an answer
// that the document does not describe fails the test. Requests are sent as they are, since tests
// send bad ones on purpose. A Client is safe for concurrent use.
type Client struct {
	t       testing.TB
	baseURL string
	token   string
	spec    *spec
	http    *http.Client
}

// Response is an answer of the shop, read to its end.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// NewClient returns a client of the shop at baseURL, such as "http://127.0.0.1:8080", that
// authenticates with token, or not at all when token is empty.
func NewClient(t testing.TB, baseURL, token string) *Client {
	t.Helper()
	s, err := loadSpec()
	if err != nil {
		t.Fatalf("load the OpenAPI document: %v", err)
	}
	return &Client{
		t:       t,
		baseURL: strings.TrimSuffix(baseURL, "/"),
		token:   token,
		spec:    s,
		http: &http.Client{
			Timeout: 30 * time.Second,
			// On a kept-alive connection that breaks, net/http would send a request with an
			// Idempotency-Key again by itself. Here one call is one request.
			Transport:     &http.Transport{DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Get reads path. It fails the test like Do.
func (c *Client) Get(ctx context.Context, path string) Response {
	c.t.Helper()
	return c.Do(ctx, http.MethodGet, path, "", nil)
}

// Post sends body to path under an idempotency key. It fails the test like Do.
func (c *Client) Post(ctx context.Context, path, key string, body any) Response {
	c.t.Helper()
	return c.Do(ctx, http.MethodPost, path, key, body)
}

// Do sends one request and returns its answer. The test fails, and goes on, when no complete answer
// came (the Response is zero then) or when the answer does not conform to the document. An empty
// key sends no Idempotency-Key. A body of type []byte or string is sent as it is, nil sends none,
// and every other value is sent as JSON.
func (c *Client) Do(ctx context.Context, method, path, key string, body any) Response {
	c.t.Helper()
	r, err := c.Try(ctx, method, path, key, body)
	if err != nil {
		c.t.Errorf("%s %s: %v", method, path, err)
	}
	return r
}

// Try is Do for tests that break connections: when no complete answer came it returns the
// error and leaves the verdict to the caller.
func (c *Client) Try(ctx context.Context, method, path, key string, body any) (Response, error) {
	c.t.Helper()
	req, err := c.request(ctx, method, path, key, body)
	if err != nil {
		return Response{}, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return Response{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return Response{}, fmt.Errorf("read the answer: %w", err)
	}
	r := Response{Status: res.StatusCode, Header: res.Header, Body: b}
	if err := c.spec.check(req, r); err != nil {
		c.t.Errorf("%s %s answered against the OpenAPI document: %v\n%d %s\n%s",
			method, path, err, r.Status, r.Header.Get("Content-Type"), r.Body)
	}
	return r, nil
}

// JSON decodes the body into a value. The test fails, and goes on, when that is not possible.
func (r Response) JSON(t testing.TB, into any) {
	t.Helper()
	if err := json.Unmarshal(r.Body, into); err != nil {
		t.Errorf("decode the answer: %v\n%d\n%s", err, r.Status, r.Body)
	}
}

func (c *Client) request(ctx context.Context, method, path, key string, body any) (*http.Request, error) {
	var content io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		content = bytes.NewReader(b)
	case string:
		content = strings.NewReader(b)
	default:
		encoded, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.baseURL+path, content)
	if err != nil {
		return nil, err
	}
	if content != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	return req, nil
}

// spec is the OpenAPI document, ready to judge answers from many goroutines. kin-openapi reads the
// document, routes, and checks statuses and headers. Bodies are checked by schemas compiled once:
// kin-openapi would compile them again for every answer, which takes milliseconds.
type spec struct {
	router routers.Router
	// unknown stands in for every operation that the document does not list.
	unknown *routers.Route
	bodies  map[*openapi3.MediaType]*jsonschema.Schema
}

var loadSpec = sync.OnceValues(func() (*spec, error) { return newSpec(api.OpenAPI) })

func newSpec(document []byte) (*spec, error) {
	doc, err := openapi3.NewLoader().LoadFromData(document)
	if err != nil {
		return nil, err
	}
	if err := doc.Validate(context.Background(), openapi3.DisableExamplesValidation()); err != nil {
		return nil, err
	}
	doc.Servers = nil // tests reach the shop under any address
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		return nil, err
	}
	unknown := openapi3.NewResponsesWithCapacity(7)
	for status, name := range map[string]string{
		"401": "Unauthorized", "404": "NotFound", "405": "MethodNotAllowed", "413": "TooLarge",
		"429": "TooManyRequests", "500": "Internal", "503": "Unavailable",
	} {
		response := doc.Components.Responses[name]
		if response == nil {
			return nil, fmt.Errorf("the document has no components/responses/%s", name)
		}
		unknown.Set(status, response)
	}
	bodies, err := compileBodies(doc)
	return &spec{
		router:  router,
		unknown: &routers.Route{Spec: doc, Operation: &openapi3.Operation{Responses: unknown}},
		bodies:  bodies,
	}, err
}

// compileBodies compiles the schema of every response body of doc as JSON Schema 2020-12, the
// dialect of OpenAPI 3.1, with formats asserted.
func compileBodies(doc *openapi3.T) (map[*openapi3.MediaType]*jsonschema.Schema, error) {
	media := responseBodies(doc)
	schemas := make([]*openapi3.SchemaRef, len(media))
	for i, m := range media {
		schemas[i] = m.Schema
	}
	// References point to #/components/schemas, so the components come along.
	encoded, err := json.Marshal(map[string]any{"components": doc.Components, "bodies": schemas})
	if err != nil {
		return nil, err
	}
	resource, err := jsonschema.UnmarshalJSON(bytes.NewReader(encoded))
	if err != nil {
		return nil, err
	}
	const url = "https://onceshop.invalid/openapi"
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.AssertFormat()
	if err := compiler.AddResource(url, resource); err != nil {
		return nil, err
	}
	bodies := make(map[*openapi3.MediaType]*jsonschema.Schema, len(media))
	for i, m := range media {
		if bodies[m], err = compiler.Compile(fmt.Sprintf("%s#/bodies/%d", url, i)); err != nil {
			return nil, err
		}
	}
	return bodies, nil
}

// responseBodies returns the media types of every response in doc. Shared responses come once
// per use, as the same pointer.
func responseBodies(doc *openapi3.T) []*openapi3.MediaType {
	var media []*openapi3.MediaType
	add := func(responses map[string]*openapi3.ResponseRef) {
		for _, response := range responses {
			media = slices.AppendSeq(media, maps.Values(response.Value.Content))
		}
	}
	add(doc.Components.Responses)
	for _, item := range doc.Paths.Map() {
		for _, operation := range item.Operations() {
			add(operation.Responses.Map())
		}
	}
	return media
}

// check reports how an answer differs from what the document says about its request.
func (s *spec) check(req *http.Request, r Response) error {
	route, params, err := s.router.FindRoute(documented(req))
	if errors.Is(err, routers.ErrPathNotFound) || errors.Is(err, routers.ErrMethodNotAllowed) {
		route = s.unknown
	} else if err != nil {
		return err
	}
	response := route.Operation.Responses.Status(r.Status)
	if response == nil {
		return fmt.Errorf("status %d is not documented", r.Status)
	}
	err = openapi3filter.ValidateResponse(req.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route},
		Status:                 r.Status,
		Header:                 r.Header,
		Options:                &openapi3filter.Options{ExcludeResponseBody: true},
	})
	if err != nil || req.Method == http.MethodHead {
		return err
	}
	return s.checkBody(response.Value.Content, r)
}

// documented returns the request whose answers the document lists: a HEAD is answered like a GET.
func documented(req *http.Request) *http.Request {
	if req.Method != http.MethodHead {
		return req
	}
	get := req.Clone(req.Context())
	get.Method = http.MethodGet
	return get
}

func (s *spec) checkBody(content openapi3.Content, r Response) error {
	if len(content) == 0 {
		if len(r.Body) > 0 {
			return errors.New("there must be no body")
		}
		return nil
	}
	contentType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return fmt.Errorf("content type: %w", err)
	}
	media := content.Get(contentType)
	if media == nil {
		return fmt.Errorf("content type %q is not documented", contentType)
	}
	var body any
	if contentType == "application/yaml" {
		body, err = openapi3filter.YamlBodyDecoder(bytes.NewReader(r.Body), r.Header, media.Schema, nil)
	} else {
		body, err = jsonschema.UnmarshalJSON(bytes.NewReader(r.Body))
	}
	if err != nil {
		return fmt.Errorf("body: %w", err)
	}
	return s.bodies[media].Validate(body)
}
