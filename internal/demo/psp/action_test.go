package psp_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/demo/psp"
)

const returnURL = "http://127.0.0.1:8080/orders/1?from=provider"

// ask captures ch1 so that its buyer is asked; an empty back names no return_url.
func (p *provider) ask(back string) object {
	p.t.Helper()
	c := p.post("/v1/captures", "k", askBody(back)).ok(p.t)
	if c.Status != "requires_action" || c.NextAction.Type != "redirect" ||
		c.NextAction.URL != p.url+"/action/"+c.ID {
		p.t.Fatalf("got %+v", c)
	}
	return c
}

func askBody(back string) string {
	body := captureBody("ch1", "pm_requires_action")
	if back != "" {
		body = strings.Replace(body, "{", fmt.Sprintf(`{"return_url":%q,`, back), 1)
	}
	return body
}

func TestBuyerDecidesOnce(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		decision, other, status, decline, shown string
	}{
		{"approve", "refuse", "succeeded", "", "You approved"},
		{"refuse", "approve", "declined", "authentication_failed", "You refused"},
	} {
		for _, back := range []string{returnURL, ""} {
			t.Run(tc.decision+" "+back, func(t *testing.T) {
				t.Parallel()
				rec := receive(t, accept)
				p := start(t, psp.Config{WebhookURL: rec.url, WebhookSecret: secret})
				c := p.ask(back)
				page := "/action/" + c.ID
				for _, want := range []string{"12.50 EUR", `value="approve">Approve<`,
					`value="refuse">Refuse<`} {
					if got := p.get(page); got.status != http.StatusOK || !strings.Contains(got.body, want) {
						t.Errorf("the page lacks %s: %+v", want, got)
					}
				}
				if found := p.list("/v1/captures?reference=ch1"); len(found) != 1 || found[0] != c {
					t.Errorf("found %+v, want %+v", found, c)
				}
				p = p.restart(psp.Config{WebhookURL: rec.url, WebhookSecret: secret})

				together(20, func(int) { p.expectRedirect(page, "decision="+tc.decision, back) })
				p.expectRedirect(page, "decision="+tc.other, "")
				want := c
				want.Status, want.DeclineCode = tc.status, tc.decline
				want.NextAction.Type, want.NextAction.URL = "", ""
				if got := p.post("/v1/captures", "k", askBody(back)); !got.replayed || got.ok(t) != want {
					t.Errorf("the key's answer is %+v, want %+v", got, want)
				}
				if found := p.list("/v1/captures?reference=ch1"); len(found) != 1 || found[0] != want {
					t.Errorf("found %+v, want %+v", found, want)
				}
				shown := p.get(page).body
				if !strings.Contains(shown, tc.shown) || strings.Contains(shown, "<form") ||
					strings.Contains(shown, "Return to the shop") != (back != "") {
					t.Errorf("after the decision the page is %s", shown)
				}
				eventually(t, "the delivery is logged", func() bool { return p.logLines("delivered") == 1 })
				p = p.restart(psp.Config{WebhookURL: rec.url, WebhookSecret: secret})
				p.expectRedirect(page, "decision="+tc.other, "")
				p.stop()
				got := rec.all()
				if len(got) != 1 || got[0].kind != "capture."+tc.status || got[0].id != "evt_"+c.ID ||
					strings.Contains(got[0].body, "return_url") {
					t.Errorf("events %+v", got)
				}
				if n := p.logged("succeeded") + p.logged("declined"); n != 1 || p.logLines("capture") != 2 {
					t.Errorf("%d outcomes in the log, want 1 after the question", n)
				}
			})
		}
	}
}

// expectRedirect submits the action page's form; an empty want is the page itself.
func (p *provider) expectRedirect(page, form, want string) {
	p.t.Helper()
	if want == "" {
		want = page
	}
	if status, location := p.submit(page, form, "same-origin"); status != http.StatusSeeOther || location != want {
		p.t.Errorf("%s: got %d to %q, want a redirect to %q", form, status, location, want)
	}
}

func TestActionPageRefusals(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	plain := p.capture("plain", "pm_ok")
	c := p.ask(returnURL)
	for name, tc := range map[string]struct {
		id, form, site string
		status         int
	}{
		"another site":        {c.ID, "decision=approve", "cross-site", 403},
		"no decision":         {c.ID, "", "same-origin", 400},
		"other decision":      {c.ID, "decision=succeeded", "same-origin", 400},
		"decision in address": {c.ID + "?decision=approve", "", "same-origin", 400},
		"too large":           {c.ID, "x=" + strings.Repeat("x", 64<<10) + "&decision=approve", "same-origin", 400},
		"no such capture":     {"cap_none", "decision=approve", "same-origin", 404},
		"asks nothing":        {plain.ID, "decision=refuse", "same-origin", 404},
	} {
		if status, _ := p.submit("/action/"+tc.id, tc.form, tc.site); status != tc.status {
			t.Errorf("%s: got %d, want %d", name, status, tc.status)
		}
	}
	for _, id := range []string{"cap_none", plain.ID} {
		p.get("/action/"+id).refused(t, http.StatusNotFound, "not_found")
	}
	if found := p.list("/v1/captures?reference=ch1"); len(found) != 1 || found[0] != c {
		t.Errorf("after refusals only: %+v, want %+v", found, c)
	}
	p.cancel("x", "ch1").ok(t)
	p.expectRedirect("/action/"+c.ID, "decision=approve", "")
	if page := p.get("/action/" + c.ID).body; !strings.Contains(page, "was canceled") {
		t.Errorf("after the cancel the page is %s", page)
	}
	if n := p.logged("succeeded"); n != 1 {
		t.Errorf("%d captures in the log, want the plain one", n)
	}
}

func TestReturnURLIsAbsolute(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	for _, bad := range []string{"/orders/1", "//shop/orders/1", "javascript:alert(1)", "ftp://shop/", "http:",
		"http:///x", "shop", "http://a b/"} {
		p.post("/v1/captures", "k", askBody(bad)).refused(t, http.StatusBadRequest, "invalid_request")
	}
	for i, good := range []string{"https://shop.example/a", "http://127.0.0.1:8080"} {
		p.post("/v1/captures", fmt.Sprint(i), askBody(good)).ok(t)
	}
	p.post("/v1/captures", "0", askBody(returnURL)).refused(t, http.StatusUnprocessableEntity, "idempotency_key_reused")
}
