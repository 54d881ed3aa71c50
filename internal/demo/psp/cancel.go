package psp

import (
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
)

// cancelRequest is the body of POST /v1/captures/cancel.
type cancelRequest struct {
	Reference string `json:"reference"`
}

// cancelCapture serves POST /v1/captures/cancel: after its answer no money moves under the
// reference that has not moved before.
func (s *Server) cancelCapture(w http.ResponseWriter, r *http.Request) error {
	key, err := idempotencyKey(r.Header)
	if err != nil {
		return err
	}
	var req cancelRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if req.Reference == "" {
		return newProblem(http.StatusBadRequest, "invalid_request", "reference is required")
	}
	c, verdict, err := s.ledger.cancel(key, req, s.cfg.Now())
	if err != nil {
		return err
	}
	if verdict == replayed {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	return writeJSON(w, http.StatusOK, "application/json", shown(r, c))
}

// cancel closes a reference for good and returns the capture that every later request of it is
// answered with: one that succeeded, or else one that is canceled, or else one that was declined.
// A reference without a capture gets a canceled one.
func (l *ledger) cancel(key string, req cancelRequest, now time.Time) (capture, verdict, error) {
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
	e := entry{At: now, Key: key, Fingerprint: meaning}
	if id, ok := l.closed[req.Reference]; ok {
		c, _ := l.captures.get(id)
		if seen != nil {
			return c, replayed, nil
		}
		e.Type, e.Object = "answer", id
		return c, known, l.commit(e)
	}
	c, err := l.endCaptures(req.Reference, now)
	if err != nil {
		return capture{}, 0, err
	}
	e.Type, e.Object = "cancel", c.ID
	return c, done, l.commit(e)
}

// endCaptures cancels the captures of a reference that wait for the buyer and returns the one that
// answers for the reference; it makes one when there is none. The caller holds mu.
func (l *ledger) endCaptures(reference string, now time.Time) (capture, error) {
	var answer capture
	precedence := []string{"", declined, canceled, succeeded}
	for _, row := range l.captures.rows {
		if row.Reference != reference {
			continue
		}
		c := *row
		if c.Status == requiresAction {
			c.Status = canceled
			if err := l.commit(entry{Type: "capture", At: now, Capture: &c}); err != nil {
				return capture{}, err
			}
		}
		if slices.Index(precedence, c.Status) > slices.Index(precedence, answer.Status) {
			answer = c
		}
	}
	if answer.ID != "" {
		return answer, nil
	}
	id, err := uuid.NewV7()
	if err != nil {
		return capture{}, err
	}
	answer = capture{ID: "cap_" + id.String(), Reference: reference, Status: canceled, CreatedAt: timestamp(now)}
	return answer, l.commit(entry{Type: "capture", At: now, Capture: &answer})
}
