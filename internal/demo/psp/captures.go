package psp

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// createCapture serves POST /v1/captures. Of two requests at once with one key the second waits
// for the first one's capture and replays it.
func (s *Server) createCapture(w http.ResponseWriter, r *http.Request) error {
	key, err := idempotencyKey(r.Header)
	if err != nil {
		return err
	}
	var req captureRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if err := validCapture(req); err != nil {
		return err
	}
	b := behaviors[req.PaymentMethod]
	now := s.cfg.Now()
	c, verdict, err := s.ledger.capture(key, req, b, now)
	if err != nil {
		return err
	}
	switch verdict {
	case done:
	case known:
		return writeJSON(w, http.StatusOK, "application/json", shown(r, c))
	case replayed:
		w.Header().Set("Idempotent-Replayed", "true")
		return writeJSON(w, http.StatusOK, "application/json", shown(r, c))
	case faulted:
		return s.strike(r.Context(), b.before)
	}
	if c.Status != requiresAction {
		if err := s.announce(r.Context(), captureEvent(c, now), b); err != nil {
			return err
		}
	}
	if b.disputed {
		s.openLater(c)
	}
	if b.slow {
		s.wait(r.Context(), s.cfg.Slow)
	}
	if err := s.strike(r.Context(), b.after); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, "application/json", shown(r, c))
}

func validCapture(req captureRequest) error {
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
	case req.ReturnURL != "" && !absoluteHTTP(req.ReturnURL):
		return invalid("invalid_request", "return_url must be an absolute http or https address")
	}
	if _, ok := behaviors[req.PaymentMethod]; !ok {
		known := slices.Sorted(maps.Keys(behaviors))
		return invalid("unknown_payment_method", "payment_method %q is not one of %s", req.PaymentMethod,
			strings.Join(known, ", "))
	}
	return nil
}

func absoluteHTTP(address string) bool {
	u, err := url.Parse(address)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// listCaptures serves GET /v1/captures: those of ?order_id= and ?reference=, or all, oldest first,
// in pages if ?limit= asks for that.
func (s *Server) listCaptures(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	since, err := sinceOf(q)
	if err != nil {
		return err
	}
	found := find(s.ledger, &s.ledger.captures, func(c capture) bool {
		return (!q.Has("order_id") || c.OrderID == q.Get("order_id")) &&
			(!q.Has("reference") || c.Reference == q.Get("reference")) && !c.CreatedAt.Before(since)
	})
	if found, err = page(q, found, func(c capture) string { return c.ID }); err != nil {
		return err
	}
	for i, c := range found {
		found[i] = shown(r, c)
	}
	return writeJSON(w, http.StatusOK, "application/json", map[string][]capture{"captures": found})
}

// shown is c as it is answered to r. The address of its page is the one that r reached the
// provider at, which another start of the provider may not have.
func shown(r *http.Request, c capture) capture {
	if c.Status == requiresAction {
		page := url.URL{Scheme: "http", Host: r.Host, Path: "/action/" + c.ID}
		if r.TLS != nil {
			page.Scheme = "https"
		}
		c.NextAction = &nextAction{Type: "redirect", URL: page.String()}
	}
	c.ReturnURL = ""
	return c
}

// verdict is what the ledger made of a request.
type verdict int

const (
	done     verdict = iota // the effect happened now
	known                   // the key is new, but its answer stood already: nothing happened
	replayed                // it had happened before, under this key
	faulted                 // first try of a key that fails before its effect: nothing happened
)

// capture moves the money of req under key once, unless b fails this try before that or the
// reference is canceled. It returns with the outcome in the log and on disk.
func (l *ledger) capture(key string, req captureRequest, b behavior, now time.Time) (capture, verdict, error) {
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
	if seen != nil && seen.object != "" {
		c, _ := l.captures.get(seen.object)
		return c, replayed, nil
	}
	e := entry{At: now, Key: key, Fingerprint: meaning}
	if id, ok := l.closed[req.Reference]; ok {
		c, _ := l.captures.get(id)
		return l.answerClosed(e, c, req)
	}
	if seen == nil && b.before != noFault {
		e.Type = "fault"
		return capture{}, faulted, l.commit(e)
	}
	c, err := newCapture(req, b, now)
	if err != nil {
		return capture{}, 0, err
	}
	e.Type, e.Capture = "capture", &c
	return c, done, l.commit(e)
}

// answerClosed answers the key of e with c, the capture that req's canceled reference ended with.
// The caller holds mu.
func (l *ledger) answerClosed(e entry, c capture, req captureRequest) (capture, verdict, error) {
	if c.OrderID != "" {
		e.Type, e.Object = "answer", c.ID
		return c, known, l.commit(e)
	}
	// The cancel came first: req is the first to name what it canceled.
	c.OrderID, c.Amount, c.Currency, c.PaymentMethod = req.OrderID, req.Amount, req.Currency, req.PaymentMethod
	e.Type, e.Capture = "capture", &c
	return c, known, l.commit(e)
}

func newCapture(req captureRequest, b behavior, now time.Time) (capture, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return capture{}, err
	}
	c := capture{
		ID: "cap_" + id.String(), Reference: req.Reference, OrderID: req.OrderID, Status: succeeded,
		Amount: req.Amount, Currency: req.Currency, CreatedAt: timestamp(now),
		PaymentMethod: req.PaymentMethod, ReturnURL: req.ReturnURL,
	}
	switch {
	case b.decline != "":
		c.Status, c.DeclineCode = declined, b.decline
	case b.asks:
		c.Status = requiresAction
	}
	return c, nil
}
