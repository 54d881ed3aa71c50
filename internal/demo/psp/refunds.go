package psp

import (
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/payments"
)

// createRefund serves POST /v1/refunds; twins wait as for a capture.
func (s *Server) createRefund(w http.ResponseWriter, r *http.Request) error {
	key, err := idempotencyKey(r.Header)
	if err != nil {
		return err
	}
	var req payments.RefundRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	switch {
	case req.CaptureID == "":
		return newProblem(http.StatusBadRequest, "invalid_request", "capture_id is required")
	case req.Amount <= 0:
		return newProblem(http.StatusBadRequest, "invalid_request", "amount must be above 0, in minor units")
	}
	refund, method, verdict, err := s.ledger.refund(key, req, s.cfg.Now())
	if err != nil {
		return err
	}
	if verdict == replayed {
		w.Header().Set("Idempotent-Replayed", "true")
		return writeJSON(w, http.StatusOK, "application/json", refund)
	}
	b := behaviors[method]
	if err := s.announce(r.Context(), refundEvent(refund), b); err != nil {
		return err
	}
	if b.slow {
		s.wait(r.Context(), s.cfg.Slow)
	}
	return writeJSON(w, http.StatusOK, "application/json", refund)
}

// listRefunds serves GET /v1/refunds: those of ?capture_id=, or all, oldest first.
func (s *Server) listRefunds(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	found := s.ledger.findRefunds(func(f payments.ProviderRefund) bool {
		return !q.Has("capture_id") || f.CaptureID == q.Get("capture_id")
	})
	return writeJSON(w, http.StatusOK, "application/json", map[string][]payments.ProviderRefund{"refunds": found})
}

// refund gives money back under key once and returns it with its capture's payment method. A
// refusal leaves the key unused.
func (l *ledger) refund(key string, req payments.RefundRequest, now time.Time) (f payments.ProviderRefund,
	method string, v verdict, err error) {
	meaning, err := fingerprint(req)
	if err != nil {
		return f, "", 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	seen, err := l.lookup(key, meaning, now)
	if err != nil {
		return f, "", 0, err
	}
	if seen != nil && seen.refund != nil {
		return *seen.refund, "", replayed, nil
	}
	c := l.byID[req.CaptureID]
	switch {
	case c == nil:
		return f, "", 0, newProblem(http.StatusNotFound, "not_found", "there is no capture %q", req.CaptureID)
	case c.Status != payments.CaptureSucceeded:
		return f, "", 0, newProblem(http.StatusConflict, "capture_not_refundable",
			"the capture was declined: there is no money to give back")
	case req.Amount > c.Amount-l.refunded[c.ID]:
		return f, "", 0, newProblem(http.StatusConflict, "refund_exceeds_capture",
			"only %d of %d %s can still be given back", c.Amount-l.refunded[c.ID], c.Amount, c.Currency)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return f, "", 0, err
	}
	f = payments.ProviderRefund{
		ID: "ref_" + id.String(), CaptureID: c.ID, Amount: req.Amount, Currency: c.Currency,
		CreatedAt: now.UTC().Truncate(time.Millisecond),
	}
	return f, c.PaymentMethod, done,
		l.commit(entry{Type: "refund", At: now, Key: key, Fingerprint: meaning, Refund: &f})
}

func (l *ledger) findRefunds(match func(payments.ProviderRefund) bool) []payments.ProviderRefund {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []payments.ProviderRefund
	for _, f := range l.refunds {
		if match(*f) {
			found = append(found, *f)
		}
	}
	return found
}
