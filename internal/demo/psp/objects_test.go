package psp_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/demo/psp"
)

// object is a capture, refund or dispute as the API answers it.
type object struct {
	ID          string `json:"id"`
	CaptureID   string `json:"capture_id"`
	Reference   string `json:"reference"`
	OrderID     string `json:"order_id"`
	Status      string `json:"status"`
	DeclineCode string `json:"decline_code"`
	FailureCode string `json:"failure_code"`
	Amount      int64  `json:"amount"`
	Currency    string `json:"currency"`
	NextAction  struct {
		Type string `json:"type"`
		URL  string `json:"url"`
	} `json:"next_action"`
}

// ok returns the object of a 200.
func (a answer) ok(t *testing.T) object {
	t.Helper()
	if a.status != http.StatusOK {
		t.Fatalf("got %+v, want 200", a)
	}
	return decode[object](t, a)
}

// refused expects a problem.
func (a answer) refused(t *testing.T, status int, code string) {
	t.Helper()
	if a.status != status || a.code(t) != code {
		t.Errorf("got %+v, want %d %s", a, status, code)
	}
}

// list returns the objects of a list, like /v1/refunds?capture_id=1.
func (p *provider) list(path string) []object {
	p.t.Helper()
	for _, objects := range decode[map[string][]object](p.t, p.get(path)) {
		return objects
	}
	return nil
}

// capture asks for 12.50 EUR under a key that is the reference too.
func (p *provider) capture(reference, method string) object {
	p.t.Helper()
	return p.post("/v1/captures", reference, captureBody(reference, method)).ok(p.t)
}

func (p *provider) refund(key, capture string, amount int) answer {
	p.t.Helper()
	return p.post("/v1/refunds", key, fmt.Sprintf(`{"capture_id":%q,"amount":%d}`, capture, amount))
}

func (p *provider) cancel(key, reference string) answer {
	p.t.Helper()
	return p.post("/v1/captures/cancel", key, fmt.Sprintf(`{"reference":%q}`, reference))
}

// submit sends a form as a browser does, from a page of the given kind of site, and follows no
// redirect.
func (p *provider) submit(path, form, site string) (status int, location string) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, p.url+path, strings.NewReader(form))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", site)
	resp, err := p.http.Transport.RoundTrip(req)
	if err != nil {
		p.t.Error(err)
		return 0, ""
	}
	_ = resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("Location")
}

// restart stops the provider and starts it again from its log.
func (p *provider) restart(cfg psp.Config) *provider {
	p.t.Helper()
	p.stop()
	cfg.LogPath = p.log
	return start(p.t, cfg)
}
