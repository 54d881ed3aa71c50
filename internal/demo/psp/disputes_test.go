package psp_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/demo/psp"
)

// dispute captures ch1 and waits for the dispute over it.
func (p *provider) dispute() object {
	p.t.Helper()
	c := p.capture("ch1", "pm_disputed")
	path := "/v1/disputes?capture_id=" + c.ID
	eventually(p.t, "a dispute opened", func() bool { return len(p.list(path)) == 1 })
	d := p.list(path)[0]
	if d.Status != "open" || d.CaptureID != c.ID || d.Reference != "ch1" || d.OrderID != "order-ch1" ||
		d.Amount != 1250 || d.Currency != "EUR" {
		p.t.Errorf("got %+v", d)
	}
	return d
}

func outcome(o string) string { return `{"outcome":"` + o + `"}` }

func TestDisputeIsClosedOnce(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ outcome, other string }{{"won", "lost"}, {"lost", "won"}} {
		t.Run(tc.outcome, func(t *testing.T) {
			t.Parallel()
			rec := receive(t, accept)
			p := start(t, soon(time.Nanosecond, rec.url))
			d := p.dispute()
			p.refund("part", d.CaptureID, 250).ok(t)
			path := "/v1/disputes/" + d.ID + "/close"
			first := p.post(path, "x", outcome(tc.outcome))
			if got := first.ok(t); got.Status != tc.outcome || got.ID != d.ID {
				t.Errorf("got %+v", got)
			}
			eventually(t, "all deliveries are logged", func() bool { return p.logLines("delivered") == 4 })
			p = p.restart(soon(time.Nanosecond, rec.url))
			if again := p.post(path, "x", outcome(tc.outcome)); !again.replayed || again.body != first.body {
				t.Errorf("same key: got %+v, want a replay of %s", again, first.body)
			}
			if again := p.post(path, "y", outcome(tc.outcome)); again.replayed || again.body != first.body {
				t.Errorf("other key: got %+v, want %s", again, first.body)
			}
			p.post(path, "y", outcome(tc.other)).refused(t, http.StatusUnprocessableEntity, "idempotency_key_reused")
			p.post(path, "z", outcome(tc.other)).refused(t, http.StatusConflict, "dispute_closed")
			status, _ := p.submit("/disputes/"+d.ID, "outcome="+tc.other, "same-origin")
			if status != http.StatusSeeOther {
				t.Errorf("the page's button: %d", status)
			}
			if found := p.list("/v1/disputes"); len(found) != 1 || found[0] != first.ok(t) {
				t.Errorf("found %+v", found)
			}
			rest := p.refund("rest", d.CaptureID, 1000)
			if tc.outcome == "won" {
				rest.ok(t)
			} else {
				rest.refused(t, http.StatusConflict, "refund_exceeds_capture")
			}
			p.stop()
			opened, closed := rec.of("dispute.opened"), rec.of("dispute.closed")
			if len(opened) != 1 || opened[0].id != "evt_"+d.ID+"_opened" ||
				len(closed) != 1 || closed[0].id != "evt_"+d.ID+"_closed" ||
				!strings.Contains(closed[0].body, `"status":"`+tc.outcome+`"`) {
				t.Errorf("events %+v and %+v", opened, closed)
			}
		})
	}
}

func TestDisputeRefusals(t *testing.T) {
	t.Parallel()
	p := start(t, soon(time.Nanosecond, ""))
	d := p.dispute()
	path := "/v1/disputes/" + d.ID + "/close"
	p.post("/v1/disputes/dsp_none/close", "x", outcome("won")).refused(t, http.StatusNotFound, "not_found")
	p.post(path, "", outcome("won")).refused(t, http.StatusBadRequest, "idempotency_key_missing")
	for _, body := range []string{outcome("open"), outcome(""), `{}`, `{"outcome":"won","id":"x"}`, `null`} {
		p.post(path, "x", body).refused(t, http.StatusBadRequest, "invalid_request")
	}
	for site, want := range map[string]int{"cross-site": 403, "same-origin": 400} {
		if status, _ := p.submit("/disputes/"+d.ID, "outcome=open", site); status != want {
			t.Errorf("%s: got %d, want %d", site, status, want)
		}
	}
	if found := p.list("/v1/disputes?capture_id=" + d.CaptureID); len(found) != 1 || found[0] != d {
		t.Errorf("after refusals only: %+v", found)
	}
	if found := p.list("/v1/disputes?capture_id=cap_none"); len(found) != 0 {
		t.Errorf("of another capture: %+v", found)
	}
}

// A late delivery carries the state that the event was made for, not the present one.
func TestUndeliveredEventsKeepTheirState(t *testing.T) {
	t.Parallel()
	down := receive(t, func(message) int { return http.StatusServiceUnavailable })
	p := start(t, soon(time.Nanosecond, down.url))
	d := p.dispute()
	p.post("/v1/disputes/"+d.ID+"/close", "x", outcome("lost")).ok(t)
	kinds := []string{"capture.succeeded", "dispute.opened", "dispute.closed"}
	for _, kind := range kinds {
		eventually(t, kind+" was tried", func() bool { return len(down.of(kind)) > 0 })
	}
	up := receive(t, accept)
	p = p.restart(soon(time.Hour, up.url))
	eventually(t, "all were delivered", func() bool { return p.logLines("delivered") == 3 })
	p.stop()
	for _, kind := range kinds {
		before, after := down.of(kind), up.of(kind)
		if len(after) != 1 || after[0].id != before[0].id || after[0].body != before[0].body {
			t.Errorf("%s: before %+v, after the restart %+v", kind, before[0], after)
		}
	}
}

func TestPageClosesDisputes(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{DisputeOpens: time.Nanosecond, RefundFails: time.Nanosecond})
	d := p.dispute()
	p.refund("r", p.capture("ch2", "pm_refund_fails_later").ID, 700).ok(t)
	p.cancel("x", "unseen")
	eventually(t, "the refund failed", func() bool { return p.list("/v1/refunds")[0].Status == "failed" })
	for _, want := range []string{"failed</span> (expired_or_canceled_card)", "7.00 EUR",
		`action="/disputes/` + d.ID + `"`,
		`value="won"`, `value="lost"`, `class="badge canceled"`} {
		if !strings.Contains(p.get("/").body, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	status, location := p.submit("/disputes/"+d.ID, "outcome=lost", "same-origin")
	if status != http.StatusSeeOther || location != "/#disputes" {
		t.Errorf("got %d to %s", status, location)
	}
	if page := p.get("/").body; strings.Contains(page, "<form") || !strings.Contains(page, `class="badge lost"`) {
		t.Errorf("after the dispute is lost the page is %s", page)
	}
}
