package pages_test

import (
	"bufio"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/nats-io/nats.go"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/proof/lab"
	"github.com/onceshop/onceshop/internal/proof/lab/pages"
	"github.com/onceshop/onceshop/internal/redisclient"
	"github.com/onceshop/onceshop/internal/shoptest"
	"github.com/onceshop/onceshop/web"
)

func TestMain(m *testing.M) { shoptest.Main(m) }

const doubleClick = "unique-double-click"

// site is a shop with a lab, on a socket.
type site struct {
	t        *testing.T
	url      string
	client   *http.Client
	draining chan struct{}
}

// open starts a demo with a lab on servers of its own. change may alter the shop.
func open(t *testing.T, change func(*web.Web)) *site {
	t.Helper()
	provider := shoptest.Provider(t, shoptest.ProviderOptions{})
	smtp, mailbox := shoptest.Mailbox(t)
	witnesses := lab.Witnesses{
		Provider: func() (string, func(), error) { return provider, func() {}, nil },
		Mailbox:  func() (string, string, func(), error) { return smtp, mailbox, func() {}, nil },
	}
	cache := shoptest.Miniredis(t)
	broker := shoptest.NATS(t, t.TempDir())
	client, err := redisclient.Open(cache)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	conn, err := nats.Connect(broker.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	l := lab.New(shoptest.DB(t), client, conn, witnesses, slog.New(slog.NewTextHandler(t.Output(), nil)))
	t.Cleanup(l.Close)
	return serve(t, l, change)
}

// withoutWitnesses returns a lab that cannot run an experiment.
func withoutWitnesses() *lab.Lab {
	return lab.New(nil, nil, nil, lab.Witnesses{}, slog.New(slog.DiscardHandler))
}

func serve(t *testing.T, l *lab.Lab, change func(*web.Web)) *site {
	t.Helper()
	s := &site{t: t, draining: make(chan struct{})}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	shop := &web.Web{Signer: accounts.NewSigner(strings.Repeat("s", 32)), Demo: true, Draining: s.draining, Log: log}
	if change != nil {
		change(shop)
	}
	p := pages.New(shop, l, log)
	t.Cleanup(p.Close)
	e := echo.New()
	e.HTTPErrorHandler = func(err error, c echo.Context) { shop.WriteError(c, err) }
	p.Register(e)
	listening := httptest.NewServer(e)
	t.Cleanup(listening.Close)
	s.url = listening.URL
	s.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return s
}

// ask returns the status, the headers and the body of an answer.
func (s *site) ask(method, path string, headers ...string) (int, http.Header, string) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(""))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	answer, err := s.client.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.StatusCode, answer.Header, string(body)
}

func (s *site) page(path string) string {
	s.t.Helper()
	status, header, body := s.ask(http.MethodGet, path)
	if status != http.StatusOK {
		s.t.Fatalf("GET %s: %d", path, status)
	}
	if policy := header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'self';") {
		s.t.Errorf("GET %s: policy %q", path, policy)
	}
	inline := regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|<script(?:\s+defer)?>`).FindString(body)
	if inline != "" {
		s.t.Errorf("GET %s: %q is inline", path, inline)
	}
	return body
}

// event is a message of a stream.
type event struct{ id, name, data string }

// watch reads a stream to its end.
func (s *site) watch(path string, headers ...string) []event {
	s.t.Helper()
	status, header, body := s.ask(http.MethodGet, path, headers...)
	if status != http.StatusOK || !strings.HasPrefix(header.Get("Content-Type"), "text/event-stream") {
		s.t.Fatalf("%s: %d %s", path, status, header.Get("Content-Type"))
	}
	var events []event
	var e event
	for scanner := bufio.NewScanner(strings.NewReader(body)); scanner.Scan(); {
		field, value, _ := strings.Cut(scanner.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "":
			events = append(events, e)
			e = event{}
		case "id":
			e.id = value
		case "event":
			e.name = value
		case "data":
			e.data += value + "\n"
		}
	}
	return events
}

func wantAll(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in\n%s", part, text)
		}
	}
}

// cell returns what the matrix says about a twin.
func cell(t *testing.T, overview, id string) string {
	t.Helper()
	_, rest, found := strings.Cut(overview, `<td id="`+id+`">`)
	if !found {
		t.Fatalf("no cell %s", id)
	}
	text, _, _ := strings.Cut(rest, "</td>")
	return text
}

func TestWithoutJavaScript(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	before := s.page("/lab/" + doubleClick)
	if strings.Contains(before, `class="step`) || strings.Count(before, "not run yet") != 2 ||
		strings.Contains(before, "sse:connect") {
		t.Errorf("before it ran:\n%s", before)
	}
	status, header, _ := s.ask(http.MethodPost, "/lab/"+doubleClick)
	if to := header.Get("Location"); status != http.StatusSeeOther || to != "/lab/"+doubleClick {
		t.Fatalf("%d %q", status, to)
	}
	after := s.page("/lab/" + doubleClick)
	wantAll(t, after, `<span class="verdict duplicates">duplicates</span>`, `<span class="verdict holds">holds</span>`,
		`class="off"`,
		`<span class="unseen">Buyer to Node A: </span>`, "func (s *naiveShop)", "internal/orders/place.go:",
		"<h2 id=\"why\">")
	if strings.Contains(after, "sse:connect") || len(after) > 40<<10 {
		t.Errorf("%d bytes, watching: %v", len(after), strings.Contains(after, "sse:connect"))
	}

	matrix := s.page("/lab")
	wantAll(t, cell(t, matrix, doubleClick+"-naive"), "duplicates", "instead of 1")
	wantAll(t, cell(t, matrix, doubleClick+"-guarded"), "holds")
	wantAll(t, cell(t, matrix, "unique-two-tabs-naive"), "not run yet")
	wantAll(t, matrix, "not measured yet")
}

func TestWatching(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	status, header, _ := s.ask(http.MethodPost, "/lab/"+doubleClick, "HX-Request", "true")
	to, err := url.Parse(header.Get("Location"))
	if status != http.StatusSeeOther || err != nil || to.Query().Get("watch") == "" {
		t.Fatalf("%d %q", status, header.Get("Location"))
	}
	stream := "/lab/runs/" + to.Query().Get("watch") + "/events"
	if page := s.page(to.String()); !strings.Contains(page, `hx-sse:connect="`+stream+`"`) ||
		strings.Contains(page, `class="step`) {
		t.Errorf("the page does not watch:\n%s", page)
	}

	events := s.watch(stream)
	var all strings.Builder
	steps := map[string]int{}
	for _, e := range events {
		all.WriteString(e.data)
		for _, side := range []string{"naive", "guarded"} {
			steps[side] += strings.Count(e.data, `hx-target="#`+side+`-steps"`)
		}
	}
	wantAll(t, all.String(), `hx-target="#naive-verdict"`, `hx-target="#guarded-verdict"`, "duplicates", "holds",
		`hx-target="#naive-counts"`)
	if events[len(events)-1].name != "done" || steps["naive"] < 2 || steps["guarded"] < 2 {
		t.Errorf("%d events, the last is %q; steps %v", len(events), events[len(events)-1].name, steps)
	}

	// Most runs end before the page that watches them is there; it draws them all the same.
	if !strings.Contains(s.page(to.String()), stream) || strings.Contains(s.page(to.Path), stream) {
		t.Error("whoever started the run does not see it drawn, or everybody does")
	}

	// A browser that lost the connection is told the rest, and nothing twice.
	middle := events[len(events)/2]
	if got, want := drawn(s.watch(stream, "Last-Event-ID", middle.id)),
		drawn(events[len(events)/2+1:]); !slices.Equal(got, want) {
		t.Errorf("after %s:\n%s\nwant\n%s", middle.id, got, want)
	}
	forgotten := s.watch("/lab/runs/NEVER/events")
	if len(forgotten) != 2 || !strings.Contains(forgotten[0].data, "not kept") || forgotten[1].name != "done" {
		t.Errorf("of a run that is not kept: %v", forgotten)
	}
}

// drawn is what the page takes in, in any order: a browser that comes back may draw one twin ahead
// of the other.
func drawn(events []event) []string {
	var all []string
	for _, e := range events {
		all = append(all, e.data)
	}
	slices.Sort(all)
	return all
}

func TestAllInTurn(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	if status, header, _ := s.ask(http.MethodPost, "/lab", "HX-Request", "true"); status != http.StatusSeeOther ||
		header.Get("Location") != "/lab?watch" {
		t.Fatalf("%d %q", status, header.Get("Location"))
	}
	wantAll(t, s.page("/lab?watch"), `hx-sse:connect="/lab/events"`, "<button disabled>")
	var all strings.Builder
	for _, e := range s.watch("/lab/events") {
		all.WriteString(e.data)
	}
	for _, e := range lab.Experiments() {
		wantAll(t, all.String(), `hx-target="#`+e.ID+`-naive"`, `hx-target="#`+e.ID+`-guarded"`)
	}
	wantAll(t, all.String(), "1 of ", "have run", `hx-target="#latency-broker"`)
	after := s.page("/lab")
	for _, missing := range []string{"not run yet", "not measured yet", "<button disabled>"} {
		if strings.Contains(after, missing) {
			t.Errorf("%q after all have run:\n%s", missing, after)
		}
	}
}

// A node that stops does not wait for those who watch.
func TestStreamsEndWithTheNode(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	_, header, _ := s.ask(http.MethodPost, "/lab", "HX-Request", "true")
	close(s.draining)
	events := s.watch("/lab/events")
	if n := len(events); n > 0 && events[n-1].name == "done" {
		t.Errorf("%s: the stream went on to its end", header.Get("Location"))
	}
}

func TestWhoMayExperiment(t *testing.T) {
	t.Parallel()
	s := serve(t, withoutWitnesses(), func(shop *web.Web) { shop.Demo = false })
	for _, path := range []string{"/lab", "/lab/" + doubleClick, "/lab/events"} {
		if status, header, _ := s.ask(http.MethodGet, path); status != http.StatusSeeOther ||
			!strings.HasPrefix(header.Get("Location"), "/admin/login") {
			t.Errorf("GET %s: %d %q", path, status, header.Get("Location"))
		}
	}
	for _, path := range []string{"/lab", "/lab/" + doubleClick} {
		if status, _, _ := s.ask(http.MethodPost, path); status != http.StatusForbidden {
			t.Errorf("POST %s: %d", path, status)
		}
	}
	demo := serve(t, nil, nil)
	if status, _, _ := demo.ask(http.MethodGet, "/lab/no-such"); status != http.StatusNotFound {
		t.Errorf("no such experiment: %d", status)
	}
}

func TestFormsOfOtherSites(t *testing.T) {
	t.Parallel()
	s := serve(t, withoutWitnesses(), nil)
	for _, path := range []string{"/lab", "/lab/" + doubleClick} {
		if status, _, _ := s.ask(http.MethodPost, path, "Sec-Fetch-Site",
			"cross-site"); status != http.StatusForbidden {
			t.Errorf("POST %s from another site: %d", path, status)
		}
	}
}

// A node without Redis and a broker says so, and has nothing to press.
func TestNodeWithoutALab(t *testing.T) {
	t.Parallel()
	s := serve(t, nil, nil)
	for _, path := range []string{"/lab", "/lab/" + doubleClick} {
		if strings.Contains(s.page(path), "<form") {
			t.Errorf("%s has a form", path)
		}
	}
	wantAll(t, s.page("/lab"), "no Redis and no broker")
	if status, _, _ := s.ask(http.MethodPost, "/lab/"+doubleClick); status != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", status)
	}
}

// A program that is built without the demo answers what it lacks.
func TestLabWithoutWitnesses(t *testing.T) {
	t.Parallel()
	s := serve(t, withoutWitnesses(), nil)
	if status, _, _ := s.ask(http.MethodPost, "/lab/"+doubleClick); status != http.StatusSeeOther {
		t.Errorf("POST: %d", status)
	}
	wantAll(t, s.page("/lab/"+doubleClick), "built without the demo")
}
