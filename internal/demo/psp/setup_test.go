package psp_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"go.uber.org/goleak"

	"github.com/onceshop/onceshop/internal/demo/psp"
	"github.com/onceshop/onceshop/internal/payments"
	api "github.com/onceshop/onceshop/internal/payments/provider/psp"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// provider is a running server on a socket of its own.
type provider struct {
	t    *testing.T
	url  string
	log  string
	http *http.Client
	stop func()
}

// start runs a provider. Without a LogPath it gets a fresh one.
func start(t *testing.T, cfg psp.Config) *provider {
	t.Helper()
	if cfg.LogPath == "" {
		cfg.LogPath = filepath.Join(t.TempDir(), "psp", "log.jsonl")
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	s, err := psp.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	listening := httptest.NewServer(s)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	p := &provider{t: t, url: listening.URL, log: cfg.LogPath, http: listening.Client()}
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("Run: %v", err)
		}
		listening.Close()
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	t.Cleanup(p.stop)
	return p
}

func (p *provider) client(timeout time.Duration) *api.Client {
	c := api.NewClient(p.url, timeout)
	p.t.Cleanup(c.CloseIdleConnections)
	return c
}

type answer struct {
	status   int
	replayed bool
	body     string
}

func (a answer) code(t *testing.T) string {
	t.Helper()
	var p struct {
		Code string `json:"code"`
	}
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		t.Fatalf("answer %q: %v", a.body, err)
	}
	return p.Code
}

// post sends body under key; an empty key sends none.
func (p *provider) post(path, key, body string) answer {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, p.url+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	return p.do(req)
}

func (p *provider) get(path string) answer {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.url+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.do(req)
}

func (p *provider) do(req *http.Request) answer {
	resp, err := p.http.Do(req)
	if err != nil {
		p.t.Error(err)
		return answer{}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Error(err)
	}
	return answer{resp.StatusCode, resp.Header.Get("Idempotent-Replayed") == "true", string(body)}
}

// captureBody asks for 12.50 EUR.
func captureBody(reference, method string) string {
	return `{"reference":"` + reference + `","order_id":"order-` + reference +
		`","amount":1250,"currency":"EUR","payment_method":"` + method + `"}`
}

func captureRequest(reference, method string) payments.CaptureRequest {
	return payments.CaptureRequest{Reference: reference, OrderID: "order-" + reference, Amount: 1250, Currency: "EUR",
		PaymentMethod: method}
}

// keyedRequest is captureRequest under an idempotency key.
func keyedRequest(key, reference, method string) payments.CaptureRequest {
	r := captureRequest(reference, method)
	r.Key = key
	return r
}

// logLines returns how many lines of a type the log has.
func (p *provider) logLines(kind string) int {
	p.t.Helper()
	content, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return bytes.Count(content, []byte(`{"type":"`+kind+`"`))
}

// logged counts the log's captures with a status.
func (p *provider) logged(status string) int {
	p.t.Helper()
	content, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	n := 0
	for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
		var e struct {
			Type    string           `json:"type"`
			Capture payments.Capture `json:"capture"`
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			p.t.Fatalf("log line %q: %v", lines.Text(), err)
		}
		if e.Type == "capture" && e.Capture.Status == status {
			n++
		}
	}
	return n
}

// eventually waits until condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	shoptest.Eventually(t, patience, what, condition)
}

// together runs f n times at once, released from one gate.
func together(n int, f func(i int)) {
	gate := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-gate
			f(i)
		})
	}
	close(gate)
	wg.Wait()
}
