package pages_test

import (
	"bufio"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/nats-io/nats.go"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/proof/lab"
	"github.com/onceshop/onceshop/internal/proof/lab/brokers"
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
	signer := accounts.NewSigner(strings.Repeat("s", 32), "demo")
	shop := &web.Web{Signer: signer, Demo: true, Draining: s.draining, Log: log}
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

// A reader predicts, runs both twins, and sees what came, without JavaScript.
func TestPredictAndRun(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	before := s.page("/lab/" + doubleClick)
	wantAll(t, before, `<form method="get"`, `name="guess" value="1" required> 1 order<`, "2 orders",
		"Skip and run both")
	if strings.Contains(before, `class="step`) || strings.Contains(before, "the last run") {
		t.Errorf("before it ran:\n%s", before)
	}
	wantAll(t, s.page("/lab/"+doubleClick+"?guess=1"), "Your prediction: 1 order",
		`action="/lab/`+doubleClick+`?guess=1"`)
	wantAll(t, s.page("/lab/"+doubleClick+"?guess=7"), "First, predict")

	status, header, _ := s.ask(http.MethodPost, "/lab/"+doubleClick+"?guess=1")
	to := header.Get("Location")
	if status != http.StatusSeeOther || !strings.HasPrefix(to, "/lab/"+doubleClick+"?guess=1&run=") ||
		!strings.HasSuffix(to, "#run") {
		t.Fatalf("%d %q", status, to)
	}
	after := s.page(to)
	wantAll(t, after, `<span class="verdict duplicates">duplicates</span>`, `<span class="verdict holds">holds</span>`,
		`class="off"`, `<span class="unseen">Buyer to Node A: </span>`, "You predicted <b>1 order</b>",
		"ends with <b>2 orders</b>", "Here they part: the duplicate gets through",
		"Here they part: the duplicate is stopped")
	if strings.Count(after, `class="parting"`) != 2 {
		t.Errorf("the twins part %d times", strings.Count(after, `class="parting"`))
	}
	again := s.page("/lab/" + doubleClick)
	wantAll(t, again, "First, predict", "Show the last run")
	if strings.Contains(again, `class="step`) {
		t.Error("the page shows the run before the prediction")
	}

	matrix := s.page("/lab")
	wantAll(t, cell(t, matrix, doubleClick+"-naive"), "duplicates", "instead of 1")
	wantAll(t, cell(t, matrix, doubleClick+"-guarded"), "holds")
	wantAll(t, cell(t, matrix, "unique-two-tabs-naive"), "not run yet")
	wantAll(t, matrix, "not measured yet")
}

// Where both twins hold, the page marks no point at which they part.
func TestTwinsThatDoNotPart(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	_, header, _ := s.ask(http.MethodPost, "/lab/memory-one-process?guess=1")
	page := s.page(header.Get("Location"))
	wantAll(t, page, "You are right.", "Both programs hold here")
	if strings.Contains(page, `class="parting"`) {
		t.Errorf("they part:\n%s", page)
	}
}

// Every page shows what its experiment names, colored, and is small.
func TestSources(t *testing.T) {
	t.Parallel()
	s := serve(t, withoutWitnesses(), nil)
	for _, e := range lab.Experiments() {
		page := s.page("/lab/" + e.ID)
		for _, twin := range []lab.Twin{e.Naive, e.Guarded} {
			for _, ref := range slices.Concat(twin.Constraint, twin.Statement, twin.Code) {
				source, err := lab.SourceOf(ref)
				if err != nil {
					t.Fatal(err)
				}
				wantAll(t, page, "<code>"+source.Place+"</code>", string(pages.Highlighted(source)))
			}
		}
		wantAll(t, page, `<h2 id="constraint">`, `<h2 id="statement">`, `<h2 id="code">`, `<h2 id="why">`)
		if e.Strategy == lab.Unique {
			wantAll(t, page, "<mark>UNIQUE ", "<mark>ON CONFLICT ", "DO NOTHING</mark>",
				"<b>INSERT</b> <b>INTO</b>", "<b>func</b>")
		}
		if len(page) > 50_000 {
			t.Errorf("%s takes %d bytes", e.ID, len(page))
		}
	}
}

// The source comes through unchanged, and every tag is closed.
func TestHighlighted(t *testing.T) {
	t.Parallel()
	for source, want := range map[lab.Source]string{
		{Text: "// A < b\nfunc f() { return `x` + \"<\" } /* c */"}: "<i>// A &lt; b</i>\n<b>func</b> f() { " +
			"<b>return</b> <u>`x`</u> + <u>&#34;&lt;&#34;</u> } <i>/* c */</i>",
		{SQL: true, Text: "-- A\nSELECT 'it''s' FROM t\nON CONFLICT (a) DO NOTHING;"}: "<i>-- A</i>\n<b>SELECT</b> " +
			"<u>&#39;it&#39;&#39;s&#39;</u> <b>FROM</b> t\n<mark>ON CONFLICT (a) DO NOTHING</mark>;",
		{SQL: true, Text: "    id uuid PRIMARY KEY,\n    …\n    UNIQUE (a, b)"}: "    id uuid <b>PRIMARY</b> " +
			"<b>KEY</b>,\n    …\n    <mark>UNIQUE (a, b)</mark>",
	} {
		if got := string(pages.Highlighted(source)); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// The script follows all experiments in the matrix.
func TestAllInTurn(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	if status, header, _ := s.ask(http.MethodPost, "/lab?watch=1"); status != http.StatusSeeOther ||
		header.Get("Location") != "/lab?watch#matrix" {
		t.Fatalf("%d %q", status, header.Get("Location"))
	}
	before := s.page("/lab?watch")
	wantAll(t, before, `data-events="/lab/events"`, "<button disabled>")
	for _, column := range brokers.Recorded() {
		wantAll(t, before, column.Broker+" <small>recorded "+column.On+"</small>")
	}
	events := s.watch("/lab/events")
	var all strings.Builder
	for _, e := range events {
		all.WriteString(e.data)
	}
	for _, e := range lab.Experiments() {
		wantAll(t, all.String(), `<div id="`+e.ID+`-naive">`, `<div id="`+e.ID+`-guarded">`)
	}
	const twin = `<span class="verdict holds">dropped, told</span> <small>measured now</small>`
	wantAll(t, all.String(), "1 of ", "have run", `<div id="latency-broker">`, `<div id="broker-nats-at-once">`+twin)
	if events[len(events)-1].name != "done" {
		t.Errorf("the last event is %v", events[len(events)-1])
	}

	// A browser that lost the connection gets the rest, and nothing twice.
	middle := len(events) / 2
	if rest := s.watch("/lab/events", "Last-Event-ID", events[middle].id); !slices.Equal(rest, events[middle+1:]) {
		t.Errorf("after %s: %v", events[middle].id, rest)
	}
	after := s.page("/lab")
	wantAll(t, after, twin)
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
	_, header, _ := s.ask(http.MethodPost, "/lab?watch=1")
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
	status, header, _ := s.ask(http.MethodPost, "/lab/"+doubleClick)
	if status != http.StatusSeeOther {
		t.Errorf("POST: %d", status)
	}
	wantAll(t, s.page(header.Get("Location")), "built without the demo")
}
