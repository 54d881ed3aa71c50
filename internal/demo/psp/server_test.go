package psp_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/onceshop/onceshop/internal/demo/psp"
	"github.com/onceshop/onceshop/internal/payments"
)

func TestSameKeyReplaysTheSameBytes(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	first := p.post("/v1/captures", "k", captureBody("ch1", "pm_ok"))
	if first.status != http.StatusOK || first.replayed {
		t.Fatalf("first: %+v", first)
	}
	reordered := `{ "payment_method":"pm_ok", "currency":"EUR", "amount":1250, ` +
		`"order_id":"order-ch1", "reference":"ch1" }`
	for name, again := range map[string]answer{
		"same":       p.post("/v1/captures", "k", captureBody("ch1", "pm_ok")),
		"quoted key": p.post("/v1/captures", `"k"`, captureBody("ch1", "pm_ok")),
		"reordered":  p.post("/v1/captures", "k", reordered),
	} {
		if again.status != http.StatusOK || !again.replayed || again.body != first.body {
			t.Errorf("%s: got %+v, want a replay of %q", name, again, first.body)
		}
	}
	for name, other := range map[string]answer{
		"other amount": p.post("/v1/captures", "k", strings.Replace(captureBody("ch1", "pm_ok"), "1250", "1251", 1)),
		"a refund":     p.post("/v1/refunds", "k", `{"capture_id":"x","amount":1}`),
	} {
		if other.status != http.StatusUnprocessableEntity || other.code(t) != "idempotency_key_reused" {
			t.Errorf("%s: got %+v, want 422", name, other)
		}
	}
	if n := p.logged("succeeded"); n != 1 {
		t.Errorf("%d captures in the log, want 1", n)
	}
}

func TestRefusesWhatItDoesNotUnderstand(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	good := captureBody("ch1", "pm_ok")
	for name, tc := range map[string]struct {
		key, body string
		status    int
		code      string
	}{
		"no key":           {"", good, 400, "idempotency_key_missing"},
		"long key":         {strings.Repeat("k", 256), good, 400, "idempotency_key_invalid"},
		"space in key":     {"a b", good, 400, "idempotency_key_invalid"},
		"open quote":       {`"abc`, good, 400, "idempotency_key_invalid"},
		"empty quotes":     {`""`, good, 400, "idempotency_key_invalid"},
		"unknown method":   {"k", captureBody("ch1", "pm_gold"), 400, "unknown_payment_method"},
		"no amount":        {"k", strings.Replace(good, "1250", "0", 1), 400, "invalid_request"},
		"negative":         {"k", strings.Replace(good, "1250", "-1", 1), 400, "invalid_request"},
		"fraction":         {"k", strings.Replace(good, "1250", "1.5", 1), 400, "invalid_request"},
		"lower currency":   {"k", strings.Replace(good, "EUR", "eur", 1), 400, "invalid_request"},
		"long currency":    {"k", strings.Replace(good, "EUR", "EURO", 1), 400, "invalid_request"},
		"no reference":     {"k", strings.Replace(good, `"ch1"`, `""`, 1), 400, "invalid_request"},
		"no order":         {"k", strings.Replace(good, `"order-ch1"`, `""`, 1), 400, "invalid_request"},
		"unknown member":   {"k", strings.Replace(good, "{", `{"x":1,`, 1), 400, "invalid_request"},
		"duplicate member": {"k", strings.Replace(good, "{", `{"amount":1,`, 1), 400, "invalid_request"},
		"trailing data":    {"k", good + "{}", 400, "invalid_request"},
		"not JSON":         {"k", "amount=1", 400, "invalid_request"},
		"too large":        {"k", `{"reference":"` + strings.Repeat("x", 64<<10) + `"}`, 413, "too_large"},
	} {
		got := p.post("/v1/captures", tc.key, tc.body)
		if got.status != tc.status || got.code(t) != tc.code {
			t.Errorf("%s: got %+v, want %d %s", name, got, tc.status, tc.code)
		}
	}
	if got := p.get("/v1/captures"); got.body != `{"captures":[]}` {
		t.Errorf("after refusals only: %s", got.body)
	}
	if got := p.post("/v1/captures", "k", good); got.status != http.StatusOK || got.replayed {
		t.Errorf("a refusal must leave its key unused, got %+v", got)
	}
}

func TestForgottenKeyCapturesAgain(t *testing.T) {
	t.Parallel()
	var offset atomic.Int64
	began := time.Now()
	now := func() time.Time { return began.Add(time.Duration(offset.Load())) }
	p := start(t, psp.Config{KeyTTL: time.Hour, Now: now})
	ask := func() answer { return p.post("/v1/captures", "k", captureBody("ch1", "pm_ok")) }
	first := ask()
	offset.Store(int64(time.Hour - 1))
	if got := ask(); !got.replayed || got.body != first.body {
		t.Errorf("just before the key's end: %+v", got)
	}
	offset.Store(int64(time.Hour))
	second := ask()
	if second.replayed || second.body == first.body {
		t.Errorf("at the key's end: got %+v, want another capture", second)
	}
	if n := p.logged("succeeded"); n != 2 {
		t.Errorf("%d captures in the log, want 2", n)
	}
	offset.Store(int64(2*time.Hour - 1))
	p.stop()
	p = start(t, psp.Config{KeyTTL: time.Hour, Now: now, LogPath: p.log})
	if got := ask(); !got.replayed || got.body != second.body {
		t.Errorf("after a restart the second capture must be replayed, got %+v", got)
	}
}

func TestMemorySurvivesRestart(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	captured := p.post("/v1/captures", "cap", captureBody("ch1", "pm_ok"))
	declined := p.post("/v1/captures", "dec", captureBody("ch2", "pm_declined"))
	failed := p.post("/v1/captures", "err", captureBody("ch3", "pm_error_before_capture"))
	if failed.status != http.StatusInternalServerError {
		t.Fatalf("first try: %+v", failed)
	}
	refundBody := fmt.Sprintf(`{"capture_id":%q,"amount":1000}`, decode[payments.Capture](t, captured).ID)
	refunded := p.post("/v1/refunds", "ref", refundBody)
	if refunded.status != http.StatusOK {
		t.Fatalf("refund: %+v", refunded)
	}
	captures, refunds := p.get("/v1/captures"), p.get("/v1/refunds")
	p.stop()
	appendTo(t, p.log, `{"type":"capture","at":"2026-`)

	p = start(t, psp.Config{LogPath: p.log})
	for name, pair := range map[string][2]answer{
		"capture":  {captured, p.post("/v1/captures", "cap", captureBody("ch1", "pm_ok"))},
		"decline":  {declined, p.post("/v1/captures", "dec", captureBody("ch2", "pm_declined"))},
		"refund":   {refunded, p.post("/v1/refunds", "ref", refundBody)},
		"captures": {captures, p.get("/v1/captures")},
		"refunds":  {refunds, p.get("/v1/refunds")},
	} {
		if pair[0].body != pair[1].body {
			t.Errorf("%s: before %s, after %s", name, pair[0].body, pair[1].body)
		}
	}
	if got := p.post("/v1/refunds", "ref2", refundBody); got.status != http.StatusConflict {
		t.Errorf("the sum of refunds was forgotten: %+v", got)
	}
	if got := p.post("/v1/captures", "err",
		captureBody("ch3", "pm_error_before_capture")); got.status != http.StatusOK {
		t.Errorf("the fault was forgotten: %+v", got)
	}
	p.stop() // the torn line is gone, so what came after it can be read
	p = start(t, psp.Config{LogPath: p.log})
	if n := p.logged("succeeded"); n != 2 {
		t.Errorf("%d captures in the log, want 2", n)
	}
}

func TestDamagedLogIsNotGuessedAt(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	p.post("/v1/captures", "k", captureBody("ch1", "pm_ok"))
	p.stop()
	appendTo(t, p.log, "not JSON\n")
	_, err := psp.NewServer(psp.Config{LogPath: p.log, Logger: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("got error %v, want one that names line 2", err)
	}
}

func TestNoLogNoCapture(t *testing.T) {
	t.Parallel()
	s, err := psp.NewServer(psp.Config{LogPath: filepath.Join(t.TempDir(), "log.jsonl"),
		Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	listening := httptest.NewServer(s)
	defer listening.Close()
	p := &provider{t: t, url: listening.URL, http: listening.Client()}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := p.post("/v1/captures", "k", captureBody("ch1", "pm_ok")); got.status != http.StatusInternalServerError {
		t.Errorf("without a log: %+v, want 500", got)
	}
	if got := p.get("/v1/captures"); got.body != `{"captures":[]}` {
		t.Errorf("without a log the provider holds %s", got.body)
	}
}

func TestTwinsCaptureOnce(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	answers := make([]answer, 50)
	together(len(answers), func(i int) { answers[i] = p.post("/v1/captures", "k", captureBody("ch1", "pm_ok")) })
	fresh := 0
	for _, a := range answers {
		if a.status != http.StatusOK || a.body != answers[0].body {
			t.Errorf("got %+v, want 200 with %s", a, answers[0].body)
		}
		if !a.replayed {
			fresh++
		}
	}
	if n := p.logged("succeeded"); n != 1 || fresh != 1 {
		t.Errorf("%d captures in the log and %d fresh answers, want 1 and 1", n, fresh)
	}
}

func TestRefundsNeverExceedTheCapture(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	c := p.client(patience)
	captured, err := c.Capture(t.Context(), keyedRequest("k", "ch1", "pm_ok"))
	if err != nil {
		t.Fatal(err)
	}
	var given atomic.Int64
	together(50, func(i int) {
		f, err := c.Refund(t.Context(),
			payments.RefundRequest{Key: fmt.Sprint("ref", i), CaptureID: captured.ID, Amount: 99})
		switch {
		case err == nil:
			given.Add(f.Amount)
		case !errors.Is(err, payments.ErrRefused) || !strings.Contains(err.Error(), "refund_exceeds_capture"):
			t.Error(err)
		}
	})
	refunds, err := c.FindRefunds(t.Context(), captured.ID)
	if err != nil {
		t.Fatal(err)
	}
	if len(refunds) != 12 || given.Load() != 12*99 {
		t.Errorf("%d refunds, %d given back, want 12 and %d", len(refunds), given.Load(), 12*99)
	}
	rest := payments.RefundRequest{Key: "rest", CaptureID: captured.ID, Amount: 1250 - 12*99}
	if _, err := c.Refund(t.Context(), rest); err != nil {
		t.Errorf("the rest: %v", err)
	}
}

func TestRefundRefusals(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	c := p.client(patience)
	declined, err := c.Capture(t.Context(), keyedRequest("k", "ch1", "pm_declined"))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		request payments.RefundRequest
		code    string
	}{
		"declined":   {payments.RefundRequest{CaptureID: declined.ID, Amount: 1}, "capture_not_refundable"},
		"unknown":    {payments.RefundRequest{CaptureID: "cap_none", Amount: 1}, "not_found"},
		"no amount":  {payments.RefundRequest{CaptureID: declined.ID}, "invalid_request"},
		"no capture": {payments.RefundRequest{Amount: 1}, "invalid_request"},
	} {
		tc.request.Key = "r"
		_, err := c.Refund(t.Context(), tc.request)
		if !errors.Is(err, payments.ErrRefused) || !strings.Contains(err.Error(), tc.code) {
			t.Errorf("%s: got %v, want a refusal with %s", name, err, tc.code)
		}
	}
}

func TestListsFilter(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	for _, reference := range []string{"a", "b"} {
		p.post("/v1/captures", reference, captureBody(reference, "pm_ok"))
	}
	for path, want := range map[string]int{
		"/v1/captures":                              2,
		"/v1/captures?order_id=order-a":             1,
		"/v1/captures?reference=b":                  1,
		"/v1/captures?reference=b&order_id=order-a": 0,
		"/v1/captures?reference=":                   0,
	} {
		got := decode[struct {
			Captures []payments.Capture `json:"captures"`
		}](t, p.get(path))
		if got.Captures == nil || len(got.Captures) != want {
			t.Errorf("%s: %d captures, want %d", path, len(got.Captures), want)
		}
	}
}

func TestPageEscapesAndCountsMoney(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	p.post("/v1/captures", "a", captureBody("<script>alert(1)</script>", "pm_ok"))
	p.post("/v1/captures", "b", strings.Replace(captureBody("yen", "pm_declined"), "EUR", "JPY", 1))
	page := p.get("/")
	for _, want := range []string{"12.50 EUR", "1250 JPY", "declined</span> (card_declined)",
		"&lt;script&gt;alert(1)"} {
		if !strings.Contains(page.body, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(page.body, "<script>") {
		t.Error("the page does not escape")
	}
	if strings.Index(page.body, "JPY") > strings.Index(page.body, "EUR") {
		t.Error("the page is not newest first")
	}
	if got := p.get("/healthz"); got.status != http.StatusOK {
		t.Errorf("healthz: %+v", got)
	}
}

func decode[T any](t *testing.T, a answer) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("answer %q: %v", a.body, err)
	}
	return v
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}
