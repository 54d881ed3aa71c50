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

func TestOneStreamTooMany(t *testing.T) {
	t.Parallel()
	s := open(t, func(w *web.Web) { w.Streams = make(chan struct{}, 1) })
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
