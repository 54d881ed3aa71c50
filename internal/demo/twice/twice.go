// Package twice lets a visitor of the demo send a call of the API twice, from the call's page.
package twice

import (
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/api"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/web"
	"github.com/onceshop/onceshop/web/docs"
)

//go:embed twice.html button.html
var files embed.FS

var (
	page       = web.ParsePage(files, nil, "twice.html")
	buttonPart = template.Must(template.ParseFS(files, "button.html"))
)

// path is where a call is sent twice, without its operationId.
const path = "/docs/twice/"

// timeout bounds all requests of one press of the button.
const timeout = 20 * time.Second

// maxAnswer is in bytes.
const maxAnswer = 64 << 10

// Section returns the section for the demo's node.
func Section() app.Section {
	return app.Section{Section: web.Section{Path: path}, Start: func(e *echo.Echo, shop *web.Web, _ app.Node) func() {
		document, err := docs.Read(api.OpenAPI)
		if err != nil {
			panic("twice: " + err.Error()) // the document is part of the program
		}
		client := &http.Client{
			Transport:     &http.Transport{DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		s := &sender{shop: shop, document: document, client: client}
		shop.CallPanel = s.button
		e.POST(path+":call", s.sendTwice, web.Public()...)
		return client.CloseIdleConnections
	}}
}

type sender struct {
	shop     *web.Web
	document docs.Document
	client   *http.Client
}

// button returns the form that sends a call twice, or nothing if the call takes no key.
func (s *sender) button(operation string) template.HTML {
	call, ok := s.document.Call(operation)
	if !ok || !call.Keyed() {
		return ""
	}
	var html bytes.Buffer
	if err := buttonPart.Execute(&html, path+call.ID); err != nil {
		return ""
	}
	return template.HTML(html.String()) //nolint:gosec // html/template made it
}

// answer is what a request got.
type answer struct {
	Status  string
	Headers []string
	Body    string
	// Replayed reports that the shop answered from the first request.
	Replayed bool

	body   []byte
	status int
}

// result is the content of the page.
type result struct {
	docs.Call
	Key, Curl     string
	First, Second answer
	// Same reports that both answers have the same status and the same bytes.
	Same bool
}

func (s *sender) sendTwice(c echo.Context) error {
	call, ok := s.document.Call(c.Param("call"))
	if !ok || !call.Keyed() {
		return echo.ErrNotFound
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), timeout)
	defer cancel()
	to, err := nodeOf(c)
	if err != nil {
		return err
	}
	id, err := s.prepare(ctx, to, call)
	if err != nil {
		return err
	}
	shown := result{Call: call, Key: rand.Text()}
	request := request(call, shown.Key, id)
	shown.Curl = request.Curl("http://" + to.host)
	if shown.First, err = s.send(ctx, to, request); err != nil {
		return err
	}
	if shown.Second, err = s.send(ctx, to, request); err != nil {
		return err
	}
	shown.Same = shown.First.status == shown.Second.status && bytes.Equal(shown.First.body, shown.Second.body)
	return s.shop.Render(c, http.StatusOK, page, "Sent twice", shown)
}

// node is the node that serves the page, as its visitor reached it.
type node struct{ address, host string }

func nodeOf(c echo.Context) (node, error) {
	at, ok := c.Request().Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return node{}, errors.New("twice: the address of this node is not known")
	}
	return node{at.String(), c.Request().Host}, nil
}

// prepare makes what the call needs, and returns its id: an order to pay or to cancel, or a charge
// to refund.
func (s *sender) prepare(ctx context.Context, to node, call docs.Call) (id string, err error) {
	var steps []string
	switch {
	case strings.HasPrefix(call.Path, "/v1/orders/{id}"):
		steps = []string{"placeOrder"}
	case strings.HasPrefix(call.Path, "/v1/charges/{id}"):
		steps = []string{"placeOrder", "chargeOrder"}
	}
	for _, step := range steps {
		before, _ := s.document.Call(step)
		made, err := s.send(ctx, to, request(before, rand.Text(), id))
		if err != nil {
			return "", err
		}
		var object struct{ ID string }
		if err := json.Unmarshal(made.body, &object); err != nil || made.status != http.StatusCreated {
			return "", fmt.Errorf("twice: %s answered %s: %s", step, made.Status, made.Body)
		}
		id = object.ID
	}
	return id, nil
}

// request returns the call's example with this key, about the object with this id.
func request(call docs.Call, key, id string) docs.Request {
	call.Parameters = slices.Clone(call.Parameters)
	for i, p := range call.Parameters {
		switch p.In {
		case "path":
			call.Parameters[i].Example = id
		case "header":
			call.Parameters[i].Example = key
		}
	}
	token := accounts.DemoAlice
	if call.Token == "admin" {
		token = accounts.DemoAdmin
	}
	return call.Request(token)
}

// send sends the request to the API of the node.
func (s *sender) send(ctx context.Context, to node, r docs.Request) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, r.Method, "http://"+to.address+r.Target, strings.NewReader(r.Body))
	if err != nil {
		return answer{}, fmt.Errorf("twice: %w", err)
	}
	request.Host = to.host
	request.Header.Set("Authorization", "Bearer "+r.Token)
	for _, h := range r.Header {
		request.Header.Set(h.Name, h.Example)
	}
	got, err := s.client.Do(request)
	if err != nil {
		return answer{}, fmt.Errorf("twice: %w", err)
	}
	defer got.Body.Close()
	body, err := io.ReadAll(io.LimitReader(got.Body, maxAnswer))
	if err != nil {
		return answer{}, fmt.Errorf("twice: read the answer: %w", err)
	}
	a := answer{Status: got.Status, Replayed: got.Header.Get("Idempotent-Replayed") != "", body: body,
		status: got.StatusCode}
	for _, name := range []string{"Location", "Idempotent-Replayed", "Retry-After"} {
		if value := got.Header.Get(name); value != "" {
			a.Headers = append(a.Headers, name+": "+value)
		}
	}
	var indented bytes.Buffer
	if json.Indent(&indented, body, "", "  ") == nil {
		a.Body = indented.String()
	}
	return a, nil
}
