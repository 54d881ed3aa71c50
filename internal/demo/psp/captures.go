package psp

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/payments"
)

// capture is a capture as the provider answers, lists, logs and announces it. It never changes.
type capture struct {
	payments.Capture
	PaymentMethod string `json:"payment_method"`
}

// createCapture serves POST /v1/captures. Of two requests at once with one key the second waits
// for the first one's capture and replays it.
func (s *Server) createCapture(w http.ResponseWriter, r *http.Request) error {
	key, err := idempotencyKey(r.Header)
	if err != nil {
		return err
	}
	var req payments.CaptureRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if err := validCapture(req); err != nil {
		return err
	}
	b := behaviors[req.PaymentMethod]
	c, verdict, err := s.ledger.capture(key, req, b, s.cfg.Now())
	if err != nil {
		return err
	}
	switch verdict {
	case done:
	case replayed:
		w.Header().Set("Idempotent-Replayed", "true")
		return writeJSON(w, http.StatusOK, "application/json", c)
	case faulted:
		return s.strike(r.Context(), b.before)
	}
	if err := s.announce(r.Context(), captureEvent(c), b); err != nil {
		return err
	}
	if b.slow {
		s.wait(r.Context(), s.cfg.Slow)
	}
	if err := s.strike(r.Context(), b.after); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, "application/json", c)
}

func validCapture(req payments.CaptureRequest) error {
	invalid := func(code, format string, args ...any) error {
		return newProblem(http.StatusBadRequest, code, format, args...)
	}
	notCapital := func(r rune) bool { return r < 'A' || r > 'Z' }
	switch {
	case req.Reference == "":
		return invalid("invalid_request", "reference is required")
	case req.OrderID == "":
		return invalid("invalid_request", "order_id is required")
	case req.Amount <= 0:
		return invalid("invalid_request", "amount must be above 0, in minor units")
	case len(req.Currency) != 3 || strings.ContainsFunc(req.Currency, notCapital):
		return invalid("invalid_request", "currency must be an ISO 4217 code of three capital letters, like EUR")
	}
	if _, ok := behaviors[req.PaymentMethod]; !ok {
		known := slices.Sorted(maps.Keys(behaviors))
		return invalid("unknown_payment_method", "payment_method %q is not one of %s", req.PaymentMethod,
			strings.Join(known, ", "))
	}
	return nil
}

// listCaptures serves GET /v1/captures: those of ?order_id= and ?reference=, or all, oldest first.
func (s *Server) listCaptures(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	found := s.ledger.findCaptures(func(c capture) bool {
		return (!q.Has("order_id") || c.OrderID == q.Get("order_id")) &&
			(!q.Has("reference") || c.Reference == q.Get("reference"))
	})
	return writeJSON(w, http.StatusOK, "application/json", map[string][]capture{"captures": found})
}

// verdict is what the ledger made of a request.
type verdict int

const (
	done     verdict = iota // the effect happened now
	replayed                // it had happened before, under this key
	faulted                 // first try of a key that fails before its effect: nothing happened
)

// capture moves the money of req under key once, unless b fails this try before that. It
// returns with the outcome in the log and on disk.
func (l *ledger) capture(key string, req payments.CaptureRequest, b behavior, now time.Time) (capture, verdict, error) {
	meaning, err := fingerprint(req)
	if err != nil {
		return capture{}, 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	seen, err := l.lookup(key, meaning, now)
	if err != nil {
		return capture{}, 0, err
	}
	if seen != nil && seen.capture != nil {
		return *seen.capture, replayed, nil
	}
	e := entry{Type: "fault", At: now, Key: key, Fingerprint: meaning}
	if seen == nil && b.before != noFault {
		return capture{}, faulted, l.commit(e)
	}
	c, err := newCapture(req, b, now)
	if err != nil {
		return capture{}, 0, err
	}
	e.Type, e.Capture = "capture", &c
	return c, done, l.commit(e)
}

func newCapture(req payments.CaptureRequest, b behavior, now time.Time) (capture, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return capture{}, err
	}
	c := capture{PaymentMethod: req.PaymentMethod, Capture: payments.Capture{
		ID: "cap_" + id.String(), Reference: req.Reference, OrderID: req.OrderID,
		Status: payments.CaptureSucceeded, Amount: req.Amount, Currency: req.Currency,
		CreatedAt: now.UTC().Truncate(time.Millisecond),
	}}
	if b.decline != "" {
		c.Status, c.DeclineCode = payments.CaptureDeclined, b.decline
	}
	return c, nil
}

func (l *ledger) findCaptures(match func(capture) bool) []capture {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []capture
	for _, c := range l.captures {
		if match(*c) {
			found = append(found, *c)
		}
	}
	return found
}
