package web_test

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/shoptest"
	"github.com/onceshop/onceshop/web"
)

// events opens a stream and returns its events as they come, "message: html" if they have no name.
// It is closed when the stream has ended.
func (b *browser) events(path string) <-chan string {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.url+path, http.NoBody)
	if err != nil {
		b.t.Fatal(err)
	}
	resp, err := (&http.Client{Jar: b.http.Jar, Transport: b.http.Transport}).Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = resp.Body.Close() })
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || got != "text/event-stream" ||
		resp.Header.Get("Cache-Control") != "no-store" {
		b.t.Fatalf("%s: %s %v", path, resp.Status, resp.Header)
	}
	events := make(chan string, 100)
	go func() {
		defer close(events)
		name, data := "message", ""
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			field, value, _ := strings.Cut(lines.Text(), ":")
			switch field {
			case "event":
				name = strings.TrimPrefix(value, " ")
			case "data":
				data += strings.TrimPrefix(value, " ") + "\n"
			case "":
				if data != "" { // else it was a comment, to keep the line warm
					events <- name + ": " + data
				}
				name, data = "message", ""
			}
		}
	}()
	return events
}

// next is the next event of a stream, "" when it has ended.
func next(t *testing.T, events <-chan string) string {
	t.Helper()
	select {
	case event := <-events:
		return event
	case <-time.After(30 * time.Second):
		t.Fatal("the stream is silent")
		return ""
	}
}

func TestNewsOfAnOrder(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	order := b.post("/checkout", b.checkoutForm("pm_error_before_capture")).want(200, "/orders/", "do not pay again",
		`hx-sse:connect="`)
	events := b.events(order.path + "/events")
	if first := next(t, events); !strings.HasPrefix(first, "message: <title>") ||
		!strings.Contains(first, "do not pay again") || strings.Contains(first, "<html") {
		t.Errorf("the first event is %s", first)
	}
	if _, err := s.pool.Exec(t.Context(), "UPDATE charges SET lease_until = now()"); err != nil {
		t.Fatal(err)
	}
	shoptest.Eventually(t, 30*time.Second, "the charge is settled", func() bool {
		n, err := s.pages.Payments.ReconcileOnce(t.Context())
		return n > 0 && err == nil
	})
	paid := next(t, events)
	for !strings.Contains(paid, "Paid, once") && paid != "" {
		paid = next(t, events)
	}
	if !strings.Contains(paid, "<title>Thank you") || !strings.Contains(paid, order.path+"/receipt") ||
		!strings.Contains(paid, "Why this happened once") {
		t.Errorf("the news is %s", paid)
	}
	// After a while nothing more is awaited.
	if _, err := s.pool.Exec(t.Context(), "UPDATE orders SET created_at = created_at - interval '1 hour'"); err != nil {
		t.Fatal(err)
	}
	last := paid
	for event := paid; event != ""; event = next(t, events) {
		last = event
	}
	if !strings.HasPrefix(last, "done: ") {
		t.Errorf("the last event is %s", last)
	}
}

func TestStreamsEndWithTheDrain(t *testing.T) {
	t.Parallel()
	draining := make(chan struct{})
	s := open(t, func(w *web.Web) { w.Draining = draining })
	b := s.browser()
	b.add("MUG-ONCE")
	order := b.post("/checkout", b.checkoutForm("pm_error_before_capture")).want(200, "/orders/", "do not pay again")
	events := b.events(order.path + "/events")
	next(t, events)
	close(draining)
	for event := next(t, events); event != ""; event = next(t, events) {
		if strings.HasPrefix(event, "done") {
			t.Error("the page is told that there is no more news, and would not ask another node")
		}
	}
}

// One guest holds no more than a share of the streams, and one address no more than a larger one. A
// stream that ends gives its place back.
func TestShareOfTheStreams(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	draining := make(chan struct{})
	s := open(t, func(w *web.Web) { w.Streams, w.Draining = web.NewStreams(100), draining })
	buyer := func() (*browser, string) {
		b := s.browser()
		b.add("PIN-KEY")
		page := b.post("/checkout", b.checkoutForm("pm_error_before_capture")).want(200, "/orders/", "do not pay again")
		return b, page.path + "/events"
	}
	lasts := func(b *browser, path string) bool {
		events := b.events(path)
		next(t, events)
		select {
		case event := <-events:
			return !strings.HasPrefix(event, "full: ")
		case <-time.After(300 * time.Millisecond):
			return true
		}
	}
	greedy, path := buyer()
	for n := range 6 {
		if got := lasts(greedy, path); got != (n < 4) {
			t.Errorf("stream %d of one guest lasts: %t", n+1, got)
		}
	}
	total := 4
	for range 5 {
		b, path := buyer()
		for range 4 {
			if lasts(b, path) {
				total++
			}
		}
	}
	if total != 20 || s.pages.Streams.Open() != 20 {
		t.Errorf("%d streams of one address last, want 20", total)
	}
	close(draining)
	shoptest.Eventually(t, 30*time.Second, "every place is free", func() bool { return s.pages.Streams.Open() == 0 })
}

// A timeline of any length is one page of bounded size, for the stream too, with a way to the rest.
func TestLongTimeline(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	page := b.post("/checkout", b.checkoutForm("pm_error_before_capture")).want(200, "/orders/").without("Older events")
	id := strings.TrimPrefix(page.path, "/orders/")
	if _, err := s.pool.Exec(t.Context(), `INSERT INTO outbox (id, type, order_id, payload, created_at)
		SELECT gen_random_uuid(), 'order.paying', $1, '{}', now() - n * interval '1 second'
		FROM generate_series(1, 1500) n`, id); err != nil {
		t.Fatal(err)
	}
	items := func(text string) int { return strings.Count(text, "<time datetime=") }
	first := b.get(page.path).want(200, page.path, "Older events")
	if n := items(first.body); n < 100 || n > 110 || len(first.body) > 100<<10 {
		t.Errorf("the page has %d events and %d bytes", n, len(first.body))
	}
	if news := next(t, b.events(page.path+"/events")); items(news) > 110 || len(news) > 100<<10 {
		t.Errorf("the stream sends %d events and %d bytes", items(news), len(news))
	}
	second := b.get(page.path+"?timeline=2").want(200, page.path, "Older events").without("hx-sse:connect")
	if second.body == first.body || items(second.body) < 100 {
		t.Error("the second page is not another")
	}
	b.get(page.path+"?timeline=10").want(200, page.path).without("Older events")
	for _, wrong := range []string{"0", "-1", "x", "99999999999"} {
		if n := items(b.get(page.path+"?timeline="+wrong).want(200, page.path).body); n > 110 {
			t.Errorf("page %s has %d events", wrong, n)
		}
	}
	if n := items(b.get("/admin/orders/"+id).want(200, "/admin/orders/", "Older events").body); n > 110 {
		t.Errorf("the operators' page has %d events", n)
	}
}

func TestOneStreamTooMany(t *testing.T) {
	t.Parallel()
	s := open(t, func(w *web.Web) { w.Streams = web.NewStreams(1) })
	b := s.browser()
	b.add("MUG-ONCE")
	order := b.post("/checkout", b.checkoutForm("pm_error_before_capture")).want(200, "/orders/", "do not pay again")
	lasting := b.events(order.path + "/events")
	next(t, lasting)
	short := b.events(order.path + "/events")
	if got := next(t, short); !strings.Contains(got, "do not pay again") {
		t.Errorf("the page without a place gets %s", got)
	}
	if got := next(t, short); !strings.HasPrefix(got, "full: ") {
		t.Errorf("then it gets %s", got)
	}
	if got := next(t, short); got != "" {
		t.Errorf("then it gets %s", got)
	}
}
