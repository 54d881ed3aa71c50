package psp

import (
	"net/http"
	"time"

	"github.com/onceshop/onceshop/internal/demo/bar"
)

// decisions are the states that the buttons of the action page lead to.
var decisions = map[string]string{"approve": succeeded, "refuse": declined}

// actionPage asks the buyer about a capture that requires action, and shows what became of it.
func (s *Server) actionPage(w http.ResponseWriter, r *http.Request) error {
	s.ledger.mu.Lock()
	c, err := s.ledger.asking(r.PathValue("id"))
	s.ledger.mu.Unlock()
	if err != nil {
		return err
	}
	return writePage(w, "action", struct {
		capture
		Top bar.Top
	}{c, bar.Top{Title: "Confirm your payment (simulated)", Server: "bank", Bar: s.cfg.Bar.HTML()}})
}

// decideAction serves the action page's buttons. The first decision stands; the buyer of a later
// one that differs is shown it.
func (s *Server) decideAction(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	status, ok := decisions[r.PostFormValue("decision")]
	if !ok {
		return newProblem(http.StatusBadRequest, "invalid_request", "decision must be approve or refuse")
	}
	now := s.cfg.Now()
	c, verdict, err := s.ledger.decide(r.PathValue("id"), status, now)
	if err != nil {
		return err
	}
	if verdict == done {
		if err := s.announce(r.Context(), captureEvent(c, now), behaviors[c.PaymentMethod]); err != nil {
			return err
		}
	}
	next := "/action/" + c.ID
	if c.Status == status && c.ReturnURL != "" {
		next = c.ReturnURL
	}
	http.Redirect(w, r, next, http.StatusSeeOther)
	return nil
}

// decide moves the capture's money or declines it, unless its outcome stands already.
func (l *ledger) decide(id, status string, now time.Time) (capture, verdict, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, err := l.asking(id)
	if err != nil || c.Status != requiresAction {
		return c, known, err
	}
	c.Status = status
	if status == declined {
		c.DeclineCode = "authentication_failed"
	}
	return c, done, l.commit(entry{Type: "capture", At: now, Capture: &c})
}

// asking returns a capture that requires or required action. The caller holds mu.
func (l *ledger) asking(id string) (capture, error) {
	c, ok := l.captures.get(id)
	if !ok || !behaviors[c.PaymentMethod].asks {
		return capture{}, newProblem(http.StatusNotFound, "not_found", "no capture %q requires or required action", id)
	}
	return c, nil
}
