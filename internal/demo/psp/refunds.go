package psp

import (
	"net/http"
	"time"

	"github.com/google/uuid"
)

// failureCode is why the refunds of pm_refund_fails_later fail.
const failureCode = "expired_or_canceled_card"

// createRefund serves POST /v1/refunds; twins wait as for a capture.
func (s *Server) createRefund(w http.ResponseWriter, r *http.Request) error {
	key, err := idempotencyKey(r.Header)
	if err != nil {
		return err
	}
	var req refundRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	switch {
	case req.CaptureID == "":
		return newProblem(http.StatusBadRequest, "invalid_request", "capture_id is required")
	case req.Amount <= 0:
		return newProblem(http.StatusBadRequest, "invalid_request", "amount must be above 0, in minor units")
	}
	now := s.cfg.Now()
	f, b, verdict, err := s.ledger.refund(key, req, now)
	if err != nil {
		return err
	}
	if verdict == replayed {
		w.Header().Set("Idempotent-Replayed", "true")
		return writeJSON(w, http.StatusOK, "application/json", f)
	}
	if f.Status == pending {
		s.settleLater(f, b)
	} else if err := s.announce(r.Context(), refundEvent(f, b, now), b); err != nil {
		return err
	}
	if b.slow {
		s.wait(r.Context(), s.cfg.Slow)
	}
	return writeJSON(w, http.StatusOK, "application/json", f)
}

// listRefunds serves GET /v1/refunds: those of ?capture_id=, or all, oldest first.
func (s *Server) listRefunds(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	since, err := sinceOf(q)
	if err != nil {
		return err
	}
	found := find(s.ledger, &s.ledger.refunds, func(f refund) bool {
		return (!q.Has("capture_id") || f.CaptureID == q.Get("capture_id")) && !f.CreatedAt.Before(since)
	})
	if found, err = page(q, found, func(f refund) string { return f.ID }); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, "application/json", map[string][]refund{"refunds": found})
}

// refund gives money back under key once and returns it with its capture's behavior. A refusal
// leaves the key unused.
func (l *ledger) refund(key string, req refundRequest, now time.Time) (f refund, b behavior, v verdict, err error) {
	meaning, err := fingerprint(req)
	if err != nil {
		return f, b, 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	seen, err := l.lookup(key, meaning, now)
	if err != nil {
		return f, b, 0, err
	}
	if seen != nil {
		f, _ = l.refunds.get(seen.object)
		return f, b, replayed, nil
	}
	c, ok := l.captures.get(req.CaptureID)
	b = behaviors[c.PaymentMethod]
	rest := max(0, c.Amount-l.gone[c.ID])
	switch {
	case !ok:
		return f, b, 0, newProblem(http.StatusNotFound, "not_found", "there is no capture %q", req.CaptureID)
	case c.Status != succeeded:
		return f, b, 0, newProblem(http.StatusConflict, "capture_not_refundable",
			"the capture has the status %s: there is no money to give back", c.Status)
	case b.refunds == refused:
		return f, b, 0, newProblem(http.StatusPaymentRequired, "refund_refused",
			"the provider gives nothing back of this capture, as the payment method asked")
	case req.Amount > rest:
		return f, b, 0, newProblem(http.StatusConflict, "refund_exceeds_capture",
			"only %d of %d %s can still be given back", rest, c.Amount, c.Currency)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return f, b, 0, err
	}
	f = refund{
		ID: "ref_" + id.String(), CaptureID: c.ID, Reference: req.Reference, Status: succeeded,
		Amount: req.Amount, Currency: c.Currency, CreatedAt: timestamp(now),
	}
	if b.refunds != atOnce {
		f.Status = pending
	}
	return f, b, done, l.commit(entry{Type: "refund", At: now, Key: key, Fingerprint: meaning, Refund: &f})
}

// holds is what f takes from that which its capture can still give back.
func (f refund) holds() int64 {
	if f.Status == failed {
		return 0
	}
	return f.Amount
}

// settleLater ends a pending refund when its time has come.
func (s *Server) settleLater(f refund, b behavior) {
	delay := s.cfg.RefundSettles
	if b.refunds == failsLate {
		delay = s.cfg.RefundFails
	}
	s.later(f.CreatedAt, delay, func(now time.Time) (event, error) {
		f, err := s.ledger.settleRefund(f, b, now)
		return refundEvent(f, b, now), err
	})
}

func (l *ledger) settleRefund(f refund, b behavior, now time.Time) (refund, error) {
	f.Status = succeeded
	if b.refunds == failsLate {
		f.Status, f.FailureCode = failed, failureCode
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return f, l.commit(entry{Type: "refund", At: now, Refund: &f})
}
