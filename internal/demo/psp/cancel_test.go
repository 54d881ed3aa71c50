package psp_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/demo/psp"
)

func TestCanceledReferenceMovesNoMoney(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(*testing.T, *provider){
		"nothing": func(*testing.T, *provider) {},
		"a first try that failed": func(t *testing.T, p *provider) {
			p.post("/v1/captures", "first", captureBody("ch1", "pm_error_before_capture")).refused(t, 500, "internal")
		},
		"a first try that hangs": func(t *testing.T, p *provider) {
			held := make(chan struct{})
			go func() {
				defer close(held)
				_, err := p.client(time.Hour).Capture(t.Context(),
					keyedRequest("first", "ch1", "pm_timeout_before_capture"))
				if err == nil {
					t.Error("the first try was answered")
				}
			}()
			t.Cleanup(func() {
				p.stop()
				<-held
			})
			eventually(t, "the first try is held", func() bool { return p.logLines("fault") == 1 })
		},
		"a buyer who is asked": func(t *testing.T, p *provider) {
			if c := p.post("/v1/captures", "first", captureBody("ch1", "pm_requires_action")).ok(t); c.Status !=
				"requires_action" {
				t.Fatalf("got %+v", c)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, psp.Config{})
			before(t, p)
			first := p.cancel("x", "ch1")
			if c := first.ok(t); c.Status != "canceled" || c.Reference != "ch1" || c.ID == "" || first.replayed {
				t.Fatalf("got %+v", first)
			}
			if again := p.cancel("x", "ch1"); !again.replayed || again.body != first.body {
				t.Errorf("same key: got %+v, want a replay of %s", again, first.body)
			}
			if again := p.cancel("y", "ch1"); again.replayed || again.body != first.body {
				t.Errorf("other key: got %+v, want %s anew", again, first.body)
			}
			p.cancel("x", "ch2").refused(t, http.StatusUnprocessableEntity, "idempotency_key_reused")
			expectCanceled(t, p, first.ok(t).ID)
			p = p.restart(psp.Config{})
			expectCanceled(t, p, first.ok(t).ID)
			if n := p.logged("succeeded"); n != 0 {
				t.Errorf("%d captures in the log", n)
			}
		})
	}
}

// expectCanceled captures ch1 with keys and methods old and new, and looks it up.
func expectCanceled(t *testing.T, p *provider, id string) {
	t.Helper()
	for key, method := range map[string]string{"new-ok": "pm_ok", "new-slow": "pm_timeout_after_capture",
		"new-declined": "pm_declined", "new-asks": "pm_requires_action"} {
		c := p.post("/v1/captures", key, captureBody("ch1", method)).ok(t)
		if c.ID != id || c.Status != "canceled" || c.Amount != 1250 || c.OrderID != "order-ch1" ||
			c.NextAction.URL != "" {
			t.Errorf("%s: got %+v, want the canceled capture", key, c)
		}
	}
	other := strings.Replace(captureBody("ch1", "pm_ok"), "1250", "1251", 1)
	p.post("/v1/captures", "new-ok", other).refused(t, http.StatusUnprocessableEntity, "idempotency_key_reused")
	found := p.list("/v1/captures?reference=ch1")
	if len(found) != 1 || found[0].ID != id || found[0].Status != "canceled" {
		t.Errorf("found %+v, want the canceled capture", found)
	}
	if found := p.list("/v1/captures?order_id=order-ch1"); len(found) != 1 {
		t.Errorf("found %+v of the order", found)
	}
	p.refund("r", id, 1).refused(t, http.StatusConflict, "capture_not_refundable")
}

func TestTheKeyOfAFailedFirstTryIsCanceledToo(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	body := captureBody("ch1", "pm_error_before_capture")
	p.post("/v1/captures", "k", body).refused(t, http.StatusInternalServerError, "internal")
	canceled := p.cancel("x", "ch1").ok(t)
	for range 2 {
		if c := p.post("/v1/captures", "k", body).ok(t); c.ID != canceled.ID || c.Status != "canceled" {
			t.Errorf("got %+v, want the canceled capture", c)
		}
	}
}

func TestCancelComesTooLate(t *testing.T) {
	t.Parallel()
	for method, status := range map[string]string{"pm_ok": "succeeded", "pm_declined": "declined"} {
		p := start(t, psp.Config{})
		happened := p.post("/v1/captures", "k", captureBody("ch1", method))
		if got := p.cancel("x", "ch1"); got.status != http.StatusOK || got.body != happened.body {
			t.Errorf("%s: got %+v, want %s", method, got, happened.body)
		}
		p = p.restart(psp.Config{})
		if got := p.post("/v1/captures", "k2", captureBody("ch1", "pm_ok")); got.body != happened.body {
			t.Errorf("%s: a new key got %+v, want %s", method, got, happened.body)
		}
		if n := p.logLines("capture"); n != 1 || p.logged(status) != 1 {
			t.Errorf("%s: %d captures in the log, want 1 that is %s", method, n, status)
		}
	}
}

func TestCancelEndsEveryOpenCapture(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	p.post("/v1/captures", "a", captureBody("ch1", "pm_declined")).ok(t)
	p.post("/v1/captures", "b", captureBody("ch1", "pm_requires_action")).ok(t)
	p.post("/v1/captures", "c", captureBody("ch1", "pm_requires_action")).ok(t)
	other := p.capture("ch2", "pm_requires_action")
	if c := p.cancel("x", "ch1").ok(t); c.Status != "canceled" {
		t.Errorf("got %+v", c)
	}
	var states []string
	for _, c := range p.list("/v1/captures?reference=ch1") {
		states = append(states, c.Status)
	}
	if got := strings.Join(states, " "); got != "declined canceled canceled" {
		t.Errorf("the captures are %s", got)
	}
	if c := p.list("/v1/captures?reference=ch2"); len(c) != 1 || c[0] != other {
		t.Errorf("another reference's capture became %+v", c)
	}
	p.post("/v1/captures/cancel", "y", `{"reference":""}`).refused(t, http.StatusBadRequest, "invalid_request")
	p.post("/v1/captures/cancel", "", `{"reference":"z"}`).refused(t, http.StatusBadRequest, "idempotency_key_missing")
}

// Of a cancel and a capture at once, with a key that is new, one wins, and both answers agree.
func TestCancelRacesCapture(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	outcomes := map[string]int{}
	for i := range 50 {
		reference := fmt.Sprint("race", i)
		body := captureBody(reference, "pm_error_before_capture")
		p.post("/v1/captures", reference+"-a", body).refused(t, http.StatusInternalServerError, "internal")
		var canceled, captured answer
		together(2, func(n int) {
			if (n+i)%2 == 0 {
				canceled = p.cancel(reference+"-x", reference)
			} else {
				captured = p.post("/v1/captures", reference+"-b", captureBody(reference, "pm_ok"))
			}
		})
		outcomes[raced(t, p, reference, canceled, captured.ok(t))]++
	}
	t.Logf("outcomes: %v", outcomes)
	if n := p.logged("succeeded"); n != outcomes["succeeded"] {
		t.Errorf("%d captures in the log, %d are answered", n, outcomes["succeeded"])
	}
}

// Of a cancel and a buyer's approval at once one wins.
func TestCancelRacesApproval(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	outcomes := map[string]int{}
	for i := range 50 {
		reference := fmt.Sprint("race", i)
		c := p.capture(reference, "pm_requires_action")
		var canceled answer
		together(2, func(n int) {
			if (n+i)%2 == 0 {
				canceled = p.cancel(reference+"-x", reference)
			} else if status, _ := p.submit("/action/"+c.ID, "decision=approve", "same-origin"); status !=
				http.StatusSeeOther {
				t.Errorf("approval: got %d", status)
			}
		})
		now := p.post("/v1/captures", reference, captureBody(reference, "pm_requires_action")).ok(t)
		outcomes[raced(t, p, reference, canceled, now)]++
	}
	t.Logf("outcomes: %v", outcomes)
	if n := p.logged("succeeded"); n != outcomes["succeeded"] {
		t.Errorf("%d captures in the log, %d are answered", n, outcomes["succeeded"])
	}
}

// raced expects that the cancel was answered with what the capture became, for good, and returns
// the capture's state.
func raced(t *testing.T, p *provider, reference string, canceled answer, captured object) string {
	t.Helper()
	got := canceled.ok(t)
	if got.Status != captured.Status || got.ID != captured.ID || got.Status != "canceled" && got.Status != "succeeded" {
		t.Errorf("the cancel answered %+v, the capture is %+v", got, captured)
	}
	later := p.post("/v1/captures", reference+"-later", captureBody(reference, "pm_ok")).ok(t)
	if later != captured {
		t.Errorf("later: got %+v, want %+v", later, captured)
	}
	return got.Status
}
