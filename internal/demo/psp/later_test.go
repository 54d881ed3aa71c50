package psp_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/demo/psp"
)

// soon is a Config in which all that comes later comes after d.
func soon(d time.Duration, url string) psp.Config {
	return psp.Config{LateWebhook: d, RefundSettles: d, RefundFails: d, DisputeOpens: d,
		WebhookURL: url, WebhookSecret: secret}
}

// of returns the events of a kind.
func (rec *receiver) of(kind string) []message {
	var found []message
	for _, m := range rec.all() {
		if m.kind == kind {
			found = append(found, m)
		}
	}
	return found
}

// What is due later comes neither before its time nor twice, and a restart does not lose it.
func TestWhatIsDueLaterSurvivesRestart(t *testing.T) {
	t.Parallel()
	const delay = 150 * time.Millisecond
	for name, tc := range map[string]struct {
		method, kind, suffix string
		begin                func(*testing.T, *provider)
		list                 string // of the objects that change or appear, and what they are then
		status, failure      string
	}{
		"late webhook": {"pm_timeout_late_webhook", "capture.succeeded", "", nil, "/v1/captures", "succeeded", ""},
		"refund settles": {"pm_refund_pending", "refund.succeeded", "_succeeded", pendingRefund, "/v1/refunds",
			"succeeded", ""},
		"refund fails": {"pm_refund_fails_later", "refund.failed", "_failed", pendingRefund, "/v1/refunds", "failed",
			"expired_or_canceled_card"},
		"dispute opens": {"pm_disputed", "dispute.opened", "_opened", nil, "/v1/disputes", "open", ""},
	} {
		for how, first := range map[string]time.Duration{"in one run": delay, "after a restart": time.Hour} {
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				rec := receive(t, accept)
				began := time.Now()
				p := start(t, soon(first, rec.url))
				if _, err := firstTry(t, p, tc.method); (err != nil) != strings.Contains(tc.method, "timeout") {
					t.Fatal(err)
				}
				if tc.begin != nil {
					tc.begin(t, p)
				}
				events := 1
				if tc.kind != "capture.succeeded" {
					eventually(t, "the capture's event is logged", func() bool { return p.logLines("delivered") >= 1 })
					events = 2
				}
				if first == time.Hour {
					if got := rec.of(tc.kind); len(got) != 0 {
						t.Errorf("too early: %+v", got)
					}
					p = p.restart(soon(delay, rec.url))
				}
				eventually(t, "the event came", func() bool { return len(rec.of(tc.kind)) > 0 })
				if waited := time.Since(began); waited < delay {
					t.Errorf("it came after %v, want %v or more", waited, delay)
				}
				objects := p.list(tc.list)
				if len(objects) != 1 || objects[0].Status != tc.status || objects[0].FailureCode != tc.failure {
					t.Fatalf("%s are %+v", tc.list, objects)
				}
				eventually(t, "the deliveries are logged", func() bool { return p.logLines("delivered") == events })
				p = p.restart(soon(time.Nanosecond, rec.url))
				p.capture("last", "pm_ok")
				eventually(t, "the last delivery is logged", func() bool { return p.logLines("delivered") == events+1 })
				if got := p.list(tc.list); got[0] != objects[0] {
					t.Errorf("after another restart: %+v, want %+v", got, objects)
				}
				want := "evt_" + objects[0].ID + tc.suffix
				n := 0
				for _, m := range rec.of(tc.kind) {
					if m.object == objects[0].ID {
						n++
						if m.id != want {
							t.Errorf("the event is %s, want %s", m.id, want)
						}
					}
				}
				if n != 1 {
					t.Errorf("the event came %d times, want 1", n)
				}
			})
		}
	}
}

// pendingRefund asks a part of the only capture back, and expects that it takes a while.
func pendingRefund(t *testing.T, p *provider) {
	t.Helper()
	f := p.refund("r", p.list("/v1/captures")[0].ID, 1000).ok(t)
	if f.Status != "pending" || f.FailureCode != "" {
		t.Errorf("got %+v, want a pending refund", f)
	}
}

func TestRefundStates(t *testing.T) {
	t.Parallel()
	p := start(t, soon(time.Hour, ""))
	c := p.capture("ch1", "pm_ok").ID
	f := p.post("/v1/refunds", "own", fmt.Sprintf(`{"capture_id":%q,"amount":50,"reference":"rf1"}`, c)).ok(t)
	if f.Status != "succeeded" || f.Reference != "rf1" || f.Currency != "EUR" {
		t.Errorf("got %+v", f)
	}
	if found := p.list("/v1/refunds?capture_id=" + c); len(found) != 1 || found[0] != f {
		t.Errorf("found %+v, want %+v", found, f)
	}

	refused := p.capture("ch2", "pm_refund_refused").ID
	for range 2 {
		p.refund("no", refused, 1250).refused(t, http.StatusPaymentRequired, "refund_refused")
	}
	if found := p.list("/v1/refunds?capture_id=" + refused); len(found) != 0 {
		t.Errorf("refused, and held: %+v", found)
	}

	held := p.capture("ch3", "pm_refund_pending").ID
	p.refund("held", held, 1000).ok(t)
	p.refund("more", held, 251).refused(t, http.StatusConflict, "refund_exceeds_capture")
	p = p.restart(soon(time.Nanosecond, ""))
	eventually(t, "it succeeded", func() bool {
		return p.list("/v1/refunds?capture_id=" + held)[0].Status == "succeeded"
	})
	if again := p.refund("held", held, 1000); !again.replayed || again.ok(t).Status != "succeeded" {
		t.Errorf("the key's answer is %+v", again)
	}
	p.refund("more", held, 251).refused(t, http.StatusConflict, "refund_exceeds_capture")
}

func TestFailedRefundCanBeAskedForAnew(t *testing.T) {
	t.Parallel()
	p := start(t, soon(time.Nanosecond, ""))
	c := p.capture("ch1", "pm_refund_fails_later").ID
	for i := range 3 {
		f := p.refund(fmt.Sprint(i), c, 1250).ok(t)
		eventually(t, "it failed", func() bool {
			last := p.list("/v1/refunds?capture_id=" + c)[i]
			return last.ID == f.ID && last.Status == "failed"
		})
		if again := p.refund(fmt.Sprint(i), c, 1250); !again.replayed || again.ok(t).Status != "failed" {
			t.Errorf("the key's answer is %+v", again)
		}
	}
	if n := p.logLines("refund"); n != 6 {
		t.Errorf("%d refund entries in the log, want 2 for each of 3", n)
	}
}

// Logs of older providers have no status in their refunds.
func TestOldLogIsRead(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	c := p.capture("ch1", "pm_ok").ID
	p.stop()
	appendTo(t, p.log, fmt.Sprintf(`{"type":"refund","at":"2026-01-02T03:04:05Z","key":"r","fingerprint":"f","refund":`+
		`{"id":"ref_1","capture_id":%q,"amount":1000,"currency":"EUR","created_at":"2026-01-02T03:04:05Z"}}`+"\n", c))
	p = p.restart(psp.Config{})
	if found := p.list("/v1/refunds"); len(found) != 1 || found[0].Status != "succeeded" {
		t.Errorf("found %+v", found)
	}
	p.refund("more", c, 251).refused(t, http.StatusConflict, "refund_exceeds_capture")
}
