package psp_test

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/onceshop/onceshop/internal/demo/psp"
	"github.com/onceshop/onceshop/internal/payments"
	api "github.com/onceshop/onceshop/internal/payments/provider/psp"
)

const secret = "whsec_c2VjcmV0IGZvciB0aGUgdGVzdHMgb25seSE="

// message is a webhook as it was received.
type message struct {
	id, kind, object string
	body             string
	status           int // what it was answered with
}

// receiver collects webhooks; answer decides their fate.
type receiver struct {
	url string

	mu       sync.Mutex
	received []message
}

func receive(t *testing.T, answer func(message) int) *receiver {
	t.Helper()
	rec := &receiver{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := verified(t, r)
		m.status = answer(m)
		rec.mu.Lock()
		rec.received = append(rec.received, m)
		rec.mu.Unlock()
		w.WriteHeader(m.status)
	}))
	t.Cleanup(server.Close)
	rec.url = server.URL
	return rec
}

func (rec *receiver) all() []message {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return slices.Clone(rec.received)
}

// verified reads a webhook and checks all that Standard Webhooks demands.
func verified(t *testing.T, r *http.Request) message {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	var event struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
		Data      struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &event); err != nil {
		t.Errorf("webhook %q: %v", body, err)
	}
	id := r.Header.Get("webhook-id")
	seconds, err := strconv.ParseInt(r.Header.Get("webhook-timestamp"), 10, 64)
	if err != nil || time.Since(time.Unix(seconds, 0)).Abs() > time.Minute || event.Timestamp.IsZero() {
		t.Errorf("timestamps %q and %v", r.Header.Get("webhook-timestamp"), event.Timestamp)
	}
	want, err := api.Sign(secret, id, time.Unix(seconds, 0), body)
	if got := r.Header.Get("webhook-signature"); err != nil || got != want {
		t.Errorf("signature %q, want %q (%v)", got, want, err)
	}
	return message{id: id, kind: event.Type, object: event.Data.ID, body: string(body)}
}

func accept(message) int { return http.StatusNoContent }

func TestBadWebhookSettingsStopTheStart(t *testing.T) {
	t.Parallel()
	for _, cfg := range []psp.Config{
		{WebhookURL: "http://127.0.0.1:1/hook", WebhookSecret: "plain"},
		{WebhookURL: "hook", WebhookSecret: secret},
	} {
		if _, err := psp.NewServer(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

func TestEventsAreRepeatedUntilAccepted(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	tries := map[string]int{}
	rec := receive(t, func(m message) int {
		mu.Lock()
		defer mu.Unlock()
		tries[m.id]++
		return []int{http.StatusInternalServerError, http.StatusConflict, http.StatusOK}[min(tries[m.id], 3)-1]
	})
	p := start(t, psp.Config{WebhookURL: rec.url, WebhookSecret: secret})
	c := p.client(patience)
	captured, err := c.Capture(t.Context(), keyedRequest("a", "ch1", "pm_ok"))
	if err != nil {
		t.Fatal(err)
	}
	declined, err := c.Capture(t.Context(), keyedRequest("b", "ch2", "pm_declined"))
	if err != nil {
		t.Fatal(err)
	}
	refunded, err := c.Refund(t.Context(), payments.RefundRequest{Key: "c", CaptureID: captured.ID, Amount: 5})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{captured.ID: "capture.succeeded", declined.ID: "capture.declined",
		refunded.ID: "refund.succeeded"}
	eventually(t, "three events were tried three times", func() bool { return len(rec.all()) == 9 })
	ids := map[string]string{}
	for _, m := range rec.all() {
		if m.kind != want[m.object] {
			t.Errorf("%s was announced as %s, want %s", m.object, m.kind, want[m.object])
		}
		if id := cmp.Or(ids[m.object], m.id); id != m.id {
			t.Errorf("%s was announced under %s and %s", m.object, id, m.id)
		}
		ids[m.object] = m.id
	}
	p.stop()
	if n := len(rec.all()); n != 9 {
		t.Errorf("%d deliveries, want 9: none after it was accepted", n)
	}
}

func TestUndeliveredEventsSurviveRestart(t *testing.T) {
	t.Parallel()
	down := receive(t, func(message) int { return http.StatusServiceUnavailable })
	p := start(t, psp.Config{WebhookURL: down.url, WebhookSecret: secret})
	p.post("/v1/captures", "k", captureBody("ch1", "pm_ok"))
	eventually(t, "one delivery failed", func() bool { return len(down.all()) > 0 })
	p.stop()

	up := receive(t, accept)
	p = start(t, psp.Config{WebhookURL: up.url, WebhookSecret: secret, LogPath: p.log})
	eventually(t, "the event was delivered", func() bool { return len(up.all()) == 1 })
	if got, want := up.all()[0].id, down.all()[0].id; got != want {
		t.Errorf("the id changed from %s to %s", want, got)
	}
	eventually(t, "the delivery is logged", func() bool { return p.logLines("delivered") == 1 })
	p.stop()

	again := receive(t, accept)
	p = start(t, psp.Config{WebhookURL: again.url, WebhookSecret: secret, LogPath: p.log})
	p.post("/v1/captures", "k2", captureBody("ch2", "pm_ok"))
	eventually(t, "the new event was delivered", func() bool { return p.logLines("delivered") == 2 })
	p.stop()
	if got := again.all(); len(got) != 1 || got[0].id == up.all()[0].id {
		t.Errorf("got %+v, want only the new event", got)
	}
}

func TestStormSendsFiveShuffledCopies(t *testing.T) {
	t.Parallel()
	rec := receive(t, accept)
	p := start(t, psp.Config{WebhookURL: rec.url, WebhookSecret: secret})
	const events = 8
	for i := range events {
		p.post("/v1/captures", fmt.Sprint(i), captureBody(fmt.Sprint("ch", i), "pm_webhook_storm"))
	}
	eventually(t, "every copy has arrived", func() bool { return len(rec.all()) == 5*events })
	p.stop()
	copies := map[string]int{}
	var order []string
	for _, m := range rec.all() {
		copies[m.id]++
		order = append(order, m.id)
	}
	for id, n := range copies {
		if n != 5 {
			t.Errorf("%s came %d times, want 5", id, n)
		}
	}
	if len(copies) != events || slices.IsSorted(order) { // ids begin with the time
		t.Errorf("%d events in the order %v, want %d shuffled", len(copies), order, events)
	}
}

func TestWebhookFirstComesBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]int{"accepted": http.StatusNoContent, "not yet": http.StatusConflict} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answers := make(chan int, 2)
			answers <- status
			answers <- http.StatusNoContent
			rec := receive(t, func(message) int { return <-answers })
			p := start(t, psp.Config{WebhookURL: rec.url, WebhookSecret: secret})
			if got := p.post("/v1/captures", "k", captureBody("ch1", "pm_webhook_first")); got.status != http.StatusOK {
				t.Fatalf("got %+v", got)
			}
			if got := rec.all(); len(got) == 0 || got[0].status != status {
				t.Errorf("before the answer came %+v, want one delivery", got)
			}
			eventually(t, "the event was accepted", func() bool {
				got := rec.all()
				return got[len(got)-1].status == http.StatusNoContent
			})
		})
	}
}

func TestHangingDeliveryDoesNotBlockOthers(t *testing.T) {
	t.Parallel()
	began := time.Now()
	free := make(chan struct{})
	var hung atomic.Bool
	rec := receive(t, func(message) int {
		if !hung.Swap(true) {
			<-free
		}
		return http.StatusNoContent
	})
	p := start(t, psp.Config{WebhookURL: rec.url, WebhookSecret: secret})
	for i := range 4 {
		p.post("/v1/captures", fmt.Sprint(i), captureBody(fmt.Sprint("ch", i), "pm_ok"))
	}
	eventually(t, "the others arrived", func() bool { return len(rec.all()) == 3 })
	if waited := time.Since(began); waited > 8*time.Second {
		t.Errorf("the others waited %v for the hanging one to be given up", waited)
	}
	close(free)
	eventually(t, "all arrived", func() bool { return len(rec.all()) == 4 })
}
