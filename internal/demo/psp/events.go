package psp

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
)

// event reports an object's new state. Its id and its body follow from the log entry of that
// state, so every delivery, even after a restart, is the same.
type event struct {
	id   string
	at   time.Time
	kind string
	data any
	late bool // sent Config.LateWebhook after at
}

func captureEvent(c capture, at time.Time) event {
	c.ReturnURL = ""
	return event{
		id: "evt_" + c.ID, at: timestamp(at), kind: "capture." + c.Status, data: c,
		late: behaviors[c.PaymentMethod].lateWebhook,
	}
}

// refundEvent is of a refund of a capture with the behavior b. A refund that was pending has its
// outcome in the id.
func refundEvent(f refund, b behavior, at time.Time) event {
	id := "evt_" + f.ID
	if b.refunds != atOnce {
		id += "_" + f.Status
	}
	return event{id: id, at: timestamp(at), kind: "refund." + f.Status, data: f}
}

func disputeEvent(d dispute, at time.Time) event {
	state := "closed"
	if d.Status == open {
		state = "opened"
	}
	return event{id: "evt_" + d.ID + "_" + state, at: timestamp(at), kind: "dispute." + state, data: d}
}

// eventOf is the event of the state that e brought its object into, if that has one.
func (l *ledger) eventOf(e entry) (event, bool) {
	switch {
	case e.Type == "capture" && (e.Capture.Status == succeeded || e.Capture.Status == declined):
		return captureEvent(*e.Capture, e.At), true
	case e.Type == "refund" && e.Refund.Status != pending:
		c, _ := l.captures.get(e.Refund.CaptureID)
		return refundEvent(*e.Refund, behaviors[c.PaymentMethod], e.At), true
	case e.Type == "dispute":
		return disputeEvent(*e.Dispute, e.At), true
	}
	return event{}, false
}

// delivery is one copy of an event on its way to the receiver.
type delivery struct {
	eventID string
	body    []byte
	left    *atomic.Int32 // copies of the event that are not delivered yet
	pause   time.Duration // before the next attempt
}

// copies returns n copies of e.
func copies(e event, n int) ([]*delivery, error) {
	body, err := json.Marshal(struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
		Data      any       `json:"data"`
	}{e.kind, e.at, e.data})
	if err != nil {
		return nil, fmt.Errorf("psp: encode event %s: %w", e.id, err)
	}
	var left atomic.Int32
	left.Store(int32(n)) //nolint:gosec // a handful
	all := make([]*delivery, n)
	for i := range all {
		all[i] = &delivery{eventID: e.id, body: body, left: &left, pause: firstPause}
	}
	return all, nil
}

// announce sends e the way b wants it. With webhookFirst it returns after one attempt, which may
// have failed: then the event is tried again like any other.
func (s *Server) announce(ctx context.Context, e event, b behavior) error {
	switch {
	case s.cfg.WebhookURL == "":
	case b.webhookFirst:
		sent, err := copies(e, 1)
		if err != nil {
			return err
		}
		s.deliver(ctx, sent[0])
	case b.storm:
		return s.send(e, stormCopies, stormSpread)
	default:
		return s.send(e, 1, 0)
	}
	return nil
}

// send queues n copies of e for moments at random within spread, from now or from when a late
// event is due.
func (s *Server) send(e event, n int, spread time.Duration) error {
	if s.cfg.WebhookURL == "" {
		return nil
	}
	sent, err := copies(e, n)
	if err != nil {
		return err
	}
	due := time.Now()
	if e.late {
		due = due.Add(e.at.Add(s.cfg.LateWebhook).Sub(s.cfg.Now()))
	}
	for _, d := range sent {
		s.push(d, due.Add(rand.N(spread+1))) //nolint:gosec // a shuffle needs no secrecy
	}
	return nil
}

func (s *Server) push(d *delivery, due time.Time) {
	s.deliveries.push(job{due: due, run: func(ctx context.Context) { s.deliver(ctx, d) }})
}
