package psp

import (
	"context"
	"time"
)

// later queues a change of an object, and the event that it returns, for the moment delay after at
// by the provider's clock. The caller queues each change once.
func (s *Server) later(at time.Time, delay time.Duration, change func(now time.Time) (event, error)) {
	due := time.Now().Add(at.Add(delay).Sub(s.cfg.Now()))
	s.changes.push(job{due: due, run: func(ctx context.Context) {
		e, err := change(s.cfg.Now())
		if err == nil {
			err = s.announce(ctx, e, behavior{})
		}
		if err != nil {
			s.cfg.Logger.ErrorContext(ctx, "provider change failed, a restart will try it again", "error", err)
		}
	}})
}

// resume queues the changes that the log's objects still wait for.
func (s *Server) resume() {
	l := s.ledger
	disputed := map[string]bool{}
	for _, d := range find(l, &l.disputes, all) {
		disputed[d.CaptureID] = true
	}
	for _, c := range find(l, &l.captures, all) {
		if behaviors[c.PaymentMethod].disputed && c.Status == succeeded && !disputed[c.ID] {
			s.openLater(c)
		}
	}
	for _, f := range find(l, &l.refunds, func(f refund) bool { return f.Status == pending }) {
		c, _ := l.captures.get(f.CaptureID)
		s.settleLater(f, behaviors[c.PaymentMethod])
	}
}
