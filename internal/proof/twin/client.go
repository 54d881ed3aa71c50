package twin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	requestTimeout = 30 * time.Second
	maxAnswer      = 1 << 20 // bytes
)

// intent is what a customer wants once. Its twins have the same key.
type intent struct {
	key    string
	body   []byte
	header http.Header
	// sent is called when the whole request is written. It may be nil.
	sent func()
}

// intent returns a new one of the first customer.
func (r *run) intent() intent {
	n := r.intents.Add(1)
	unique := fmt.Sprintf("%s-%d", r.name, n)
	return intent{key: uuid.NewString(), body: render(r.Body, unique), header: r.Header}
}

// render fills in a template.
func render(template, unique string) []byte {
	return []byte(strings.ReplaceAll(template, "{{unique}}", unique))
}

// answer is what came back. If err is set, nothing did.
type answer struct {
	status int
	header http.Header
	body   []byte
	id     string
	err    error
}

// done reports whether the answer is of an effect.
func (a answer) done() bool { return a.err == nil && a.status >= 200 && a.status < 300 }

// temporary reports whether the client should ask again.
func (a answer) temporary() bool {
	switch a.status {
	case http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return a.err != nil || a.status >= 500
}

func (a answer) String() string {
	if a.err != nil {
		return "no answer"
	}
	return fmt.Sprint(a.status)
}

// withCode shows the code of an error too.
func (a answer) withCode() string {
	var problem struct {
		Code string `json:"code"`
	}
	if a.err == nil && !a.done() && json.Unmarshal(a.body, &problem) == nil && problem.Code != "" {
		return a.String() + " " + problem.Code
	}
	return a.String()
}

// withBody shows the beginning of the body too.
func (a answer) withBody() string {
	if a.err != nil {
		return "nothing (" + a.err.Error() + ")"
	}
	return fmt.Sprintf("%d %s", a.status, excerpt(a.body))
}

func excerpt(body []byte) string {
	text := strings.Join(strings.Fields(string(body)), " ")
	return fmt.Sprintf("%.200s", text)
}

// client returns a client that sends a request once: on a connection of its own, because Go repeats
// one with an Idempotency-Key if a connection that was kept alive breaks. It talks to the given
// hosts only.
func (r *run) client() *http.Client {
	return &http.Client{
		Timeout:       requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DisableKeepAlives: true, DialContext: r.dial},
	}
}

func (r *run) dial(ctx context.Context, network, to string) (net.Conn, error) {
	for _, node := range r.nodes {
		if to == address(node) {
			var d net.Dialer
			return d.DialContext(ctx, network, to)
		}
	}
	return nil, fmt.Errorf("%s is none of the given hosts", to)
}

func address(node *url.URL) string {
	port := node.Port()
	switch {
	case port != "":
	case node.Scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	return net.JoinHostPort(node.Hostname(), port)
}

// send sends one request. An empty key is no key. It comes again later if the service says that it
// got too many.
func (r *run) send(ctx context.Context, node int, i intent) answer {
	deadline := time.Now().Add(r.Patience)
	for {
		a := r.sendOnce(ctx, node, i)
		if a.status != http.StatusTooManyRequests || time.Now().After(deadline) {
			return a
		}
		seconds, _ := strconv.Atoi(a.header.Get("Retry-After"))
		if pause(ctx, time.Duration(min(max(seconds, 1), 10))*time.Second) != nil {
			return a
		}
	}
}

func (r *run) sendOnce(ctx context.Context, node int, i intent) answer {
	if r.requests.Add(1) > r.limit {
		return answer{err: errTooMany}
	}
	if i.sent != nil {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			WroteRequest: func(httptrace.WroteRequestInfo) { i.sent() }})
	}
	request, err := http.NewRequestWithContext(ctx, r.Method, r.target(node), bytes.NewReader(i.body))
	if err != nil {
		return answer{err: err}
	}
	request.GetBody = nil // nothing may send it again
	for name, values := range i.header {
		request.Header[name] = values
	}
	if host := request.Header.Get("Host"); host != "" {
		request.Host = host
	}
	if request.Header.Get("Content-Type") == "" && r.object {
		request.Header.Set("Content-Type", "application/json")
	}
	if i.key != "" {
		request.Header.Set(r.KeyHeader, i.key)
	}
	response, err := r.http.Do(request)
	if err != nil {
		return answer{err: err}
	}
	return r.read(response)
}

func (r *run) target(node int) string {
	return strings.TrimSuffix(r.nodes[node].String(), "/") + r.Path
}

func (r *run) read(response *http.Response) answer {
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = errors.New("the answer is larger than 1 MiB")
	}
	a := answer{status: response.StatusCode, header: response.Header, body: body, err: err}
	if a.done() {
		a.id = r.ID.Find(body)
	}
	return a
}

// settle repeats the request at the first node until the answer is final or the patience ends.
func (r *run) settle(ctx context.Context, i intent) answer {
	deadline := time.Now().Add(r.Patience)
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		a := r.send(ctx, 0, i)
		if !a.temporary() || time.Now().After(deadline) || errors.Is(a.err, errTooMany) {
			return a
		}
		if pause(ctx, wait) != nil {
			return a
		}
	}
}
