package psp

import (
	"net/http"
	"time"

	"github.com/google/uuid"
)

// closeRequest is the body of POST /v1/disputes/{id}/close; ID is from the path.
type closeRequest struct {
	ID      string `json:"-"`
	Outcome string `json:"outcome"`
}

// closeDispute serves POST /v1/disputes/{id}/close.
func (s *Server) closeDispute(w http.ResponseWriter, r *http.Request) error {
	key, err := idempotencyKey(r.Header)
	if err != nil {
		return err
	}
	var req closeRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	req.ID = r.PathValue("id")
	d, verdict, err := s.endDispute(r, key, req)
	if err != nil {
		return err
	}
	if verdict == replayed {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	return writeJSON(w, http.StatusOK, "application/json", d)
}

// closeOnPage serves the page's buttons, which carry no key: the first outcome stands.
func (s *Server) closeOnPage(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	_, _, err := s.endDispute(r, "", closeRequest{ID: r.PathValue("id"), Outcome: r.PostFormValue("outcome")})
	if err != nil {
		return err
	}
	http.Redirect(w, r, "/#disputes", http.StatusSeeOther)
	return nil
}

func (s *Server) endDispute(r *http.Request, key string, req closeRequest) (dispute, verdict, error) {
	if req.Outcome != won && req.Outcome != lost {
		return dispute{}, 0, newProblem(http.StatusBadRequest, "invalid_request", "outcome must be won or lost")
	}
	now := s.cfg.Now()
	d, verdict, err := s.ledger.closeDispute(key, req, now)
	if err != nil || verdict != done {
		return d, verdict, err
	}
	return d, done, s.announce(r.Context(), disputeEvent(d, now), behavior{})
}

// listDisputes serves GET /v1/disputes: those of ?capture_id=, or all, oldest first.
func (s *Server) listDisputes(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	found := find(s.ledger, &s.ledger.disputes, func(d dispute) bool {
		return !q.Has("capture_id") || d.CaptureID == q.Get("capture_id")
	})
	return writeJSON(w, http.StatusOK, "application/json", map[string][]dispute{"disputes": found})
}

// openLater opens a dispute over c when its time has come.
func (s *Server) openLater(c capture) {
	s.later(c.CreatedAt, s.cfg.DisputeOpens, func(now time.Time) (event, error) {
		d, err := s.ledger.openDispute(c, now)
		return disputeEvent(d, now), err
	})
}

func (l *ledger) openDispute(c capture, now time.Time) (dispute, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return dispute{}, err
	}
	d := dispute{
		ID: "dsp_" + id.String(), CaptureID: c.ID, Reference: c.Reference, OrderID: c.OrderID, Status: open,
		Amount: c.Amount, Currency: c.Currency, CreatedAt: timestamp(now),
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return d, l.commit(entry{Type: "dispute", At: now, Dispute: &d})
}

// closeDispute ends a dispute once. An outcome that a closed dispute does not have is a 409, or,
// without a key, is dropped.
func (l *ledger) closeDispute(key string, req closeRequest, now time.Time) (dispute, verdict, error) {
	meaning, err := fingerprint(struct {
		DisputeID string `json:"dispute_id"`
		Outcome   string `json:"outcome"`
	}{req.ID, req.Outcome})
	if err != nil {
		return dispute{}, 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	seen, err := l.lookup(key, meaning, now)
	if err != nil {
		return dispute{}, 0, err
	}
	d, ok := l.disputes.get(req.ID)
	e := entry{At: now, Key: key, Fingerprint: meaning}
	switch {
	case seen != nil:
		return d, replayed, nil
	case !ok:
		return d, 0, newProblem(http.StatusNotFound, "not_found", "there is no dispute %q", req.ID)
	case key == "" && d.Status != open:
		return d, known, nil
	case d.Status == req.Outcome:
		e.Type, e.Object = "answer", d.ID
		return d, known, l.commit(e)
	case d.Status != open:
		return d, 0, newProblem(http.StatusConflict, "dispute_closed", "the dispute is closed already: %s", d.Status)
	}
	d.Status = req.Outcome
	e.Type, e.Dispute = "dispute", &d
	return d, done, l.commit(e)
}

// took is what the capture of d cannot give back, because the dispute has taken it.
func (d dispute) took() int64 {
	if d.Status == lost {
		return d.Amount
	}
	return 0
}
