// Package psp is the simulated payment provider: a real HTTP server with its own memory and
// its own append-only log.
//
// The server is the witness that money moved once. It shares nothing with the shop but the way
// webhooks are signed, misbehaves on request (the payment method chooses how, see faults.go) and
// keeps its memory over a restart. It moves no money anywhere.
package psp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/onceshop/onceshop/internal/demo/bar"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
)

// Config is what a Server needs; the zero value is a provider in memory without webhooks.
type Config struct {
	// LogPath names the append-only JSON-lines log, created when missing. Empty: memory only.
	LogPath string
	// KeyTTL is how long an idempotency key is remembered; after that the same key moves
	// money again. Default 24 h.
	KeyTTL time.Duration
	// WebhookURL receives the events. Empty: no webhooks.
	WebhookURL string
	// WebhookSecret signs the events, in the form of Standard Webhooks: whsec_ and base64.
	WebhookSecret string
	// Slow is how long pm_slow keeps its answer back. Default 3 s.
	Slow time.Duration
	// LateWebhook is how long after the capture pm_timeout_late_webhook sends the event. Default
	// 8 s.
	LateWebhook time.Duration
	// RefundSettles is how long a refund of pm_refund_pending is pending. Default 5 s.
	RefundSettles time.Duration
	// RefundFails is how long a refund of pm_refund_fails_later is pending. Default 2 s.
	RefundFails time.Duration
	// DisputeOpens is how long after its capture pm_disputed opens a dispute. Default 2 s.
	DisputeOpens time.Duration
	// Bar is shown above the pages. It may be nil.
	Bar *bar.Bar
	// Logger defaults to slog.Default().
	Logger *slog.Logger
	// Now dates captures, keys and signatures. Default time.Now.
	Now func() time.Time
}

// Server is the provider: an http.Handler, and Run, which does what is due later and delivers the
// webhooks.
type Server struct {
	cfg        Config
	mux        *http.ServeMux
	ledger     *ledger
	changes    *queue // of objects; apart, so that a receiver that hangs does not hold them up
	deliveries *queue
	webhooks   *http.Client
	release    func()        // lets go of the requests that are held unanswered
	released   chan struct{} // closed by release
}

// NewServer rebuilds the provider's memory from its log and queues what is due later and the
// events that were not delivered yet. The caller runs Run for both and ends with Close.
func NewServer(cfg Config) (*Server, error) {
	for _, d := range []struct {
		setting *time.Duration
		usual   time.Duration
	}{
		{&cfg.KeyTTL, 24 * time.Hour},
		{&cfg.Slow, 3 * time.Second},
		{&cfg.LateWebhook, 8 * time.Second},
		{&cfg.RefundSettles, 5 * time.Second},
		{&cfg.RefundFails, 2 * time.Second},
		{&cfg.DisputeOpens, 2 * time.Second},
	} {
		if *d.setting <= 0 {
			*d.setting = d.usual
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.WebhookURL != "" {
		if u, err := url.Parse(cfg.WebhookURL); err != nil || u.Host == "" {
			return nil, errors.New("psp: the webhook URL must be absolute, like " +
				"http://127.0.0.1:8080/v1/webhooks/payments")
		}
		if _, err := psp.Sign(cfg.WebhookSecret, "", time.Time{}, nil); err != nil {
			return nil, err
		}
	}
	l, undelivered, err := openLedger(cfg.LogPath, cfg.KeyTTL, cfg.Logger)
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg:        cfg,
		mux:        http.NewServeMux(),
		ledger:     l,
		changes:    newQueue(),
		deliveries: newQueue(),
		webhooks:   newWebhookClient(),
		released:   make(chan struct{}),
	}
	s.release = sync.OnceFunc(func() { close(s.released) })
	s.routes()
	s.resume()
	for _, e := range undelivered {
		if err := s.send(e, 1, 0); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

func (s *Server) routes() {
	s.mux.HandleFunc("GET /{$}", s.handle(s.page))
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	s.mux.HandleFunc("POST /v1/captures", s.handle(s.createCapture))
	s.mux.HandleFunc("POST /v1/captures/cancel", s.handle(s.cancelCapture))
	s.mux.HandleFunc("GET /v1/captures", s.handle(s.listCaptures))
	s.mux.HandleFunc("POST /v1/refunds", s.handle(s.createRefund))
	s.mux.HandleFunc("GET /v1/refunds", s.handle(s.listRefunds))
	s.mux.HandleFunc("POST /v1/disputes/{id}/close", s.handle(s.closeDispute))
	s.mux.HandleFunc("GET /v1/disputes", s.handle(s.listDisputes))

	// Forms carry no Idempotency-Key, so other sites could send them: browsers mark those.
	sameSite := http.NewCrossOriginProtection()
	s.mux.HandleFunc("GET /action/{id}", s.handle(s.actionPage))
	s.mux.Handle("POST /action/{id}", sameSite.Handler(s.handle(s.decideAction)))
	s.mux.Handle("POST /disputes/{id}", sameSite.Handler(s.handle(s.closeOnPage)))
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Close cuts the requests that are held unanswered and closes the log. Call it after Run has
// returned; an http.Server's Shutdown waits for held requests until Run's context ends or Close
// is called.
func (s *Server) Close() error {
	s.release()
	s.webhooks.CloseIdleConnections()
	return s.ledger.close()
}

// problem is an error that is answered as application/problem+json (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
}

func (p *problem) Error() string { return p.Code + ": " + p.Detail }

func newProblem(status int, code, format string, args ...any) *problem {
	return &problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status,
		Code: code, Detail: fmt.Sprintf(format, args...),
	}
}

// handle answers what h returns as an error: a *problem as it is, all else as a 500 without
// details.
func (s *Server) handle(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := h(w, r)
		if err == nil {
			return
		}
		p, ok := errors.AsType[*problem](err)
		if !ok {
			s.cfg.Logger.ErrorContext(r.Context(), "provider request failed", "path", r.URL.Path, "error", err)
			p = newProblem(http.StatusInternalServerError, "internal",
				"the provider failed; ask again with the same key")
		}
		if err := writeJSON(w, p.Status, "application/problem+json", p); err != nil {
			s.cfg.Logger.ErrorContext(r.Context(), "provider answer failed", "path", r.URL.Path, "error", err)
		}
	}
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("psp: encode the answer: %w", err)
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone; it asks again with its key
	return nil
}

// maxBody bounds a request's body, in bytes.
const maxBody = 64 << 10

// readJSON decodes the body strictly into v.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return newProblem(http.StatusRequestEntityTooLarge, "too_large", "the body must be at most %d bytes", maxBody)
	}
	if err != nil {
		return newProblem(http.StatusBadRequest, "invalid_request", "the body could not be read")
	}
	if err := json.Unmarshal(body, v, json.RejectUnknownMembers(true)); err != nil {
		return newProblem(http.StatusBadRequest, "invalid_request",
			"the body must be one JSON object as documented: %v", err)
	}
	return nil
}

// wait returns after d, or earlier when the client or the server goes away.
func (s *Server) wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-s.released:
	}
}

// hang never answers: it holds the request until the client or the server goes away and cuts the
// line.
func (s *Server) hang(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-s.released:
	}
	panic(http.ErrAbortHandler)
}
