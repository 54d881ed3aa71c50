package psp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
)

const (
	deliveryTimeout = 10 * time.Second
	deliveryWorkers = 16 // a receiver that hangs on some events still gets the others
	stormCopies     = 5
	firstPause      = 200 * time.Millisecond // doubles with each attempt up to maxPause, a quarter more or less
	maxPause        = 24 * time.Second       // at most 30 s with the quarter
	stormSpread     = 300 * time.Millisecond // copies are spread at random over it, so events overtake each other
)

// newWebhookClient keeps connections alive for all workers and follows no redirect.
func newWebhookClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = deliveryWorkers
	transport.IdleConnTimeout = 30 * time.Second
	return &http.Client{
		Transport:     transport,
		Timeout:       deliveryTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// event tells the receiver that a capture or refund has happened. Its id follows from that of
// the object, so every delivery of it, even after a restart, carries the same id.
type event struct {
	id   string
	at   time.Time
	kind string
	data any
}

func captureEvent(c capture) event {
	return event{id: "evt_" + c.ID, at: c.CreatedAt, kind: "capture." + c.Status, data: c}
}

func refundEvent(f payments.ProviderRefund) event {
	return event{id: "evt_" + f.ID, at: f.CreatedAt, kind: "refund.succeeded", data: f}
}

// delivery is one copy of an event on its way to the receiver.
type delivery struct {
	eventID string
	body    []byte
	left    *atomic.Int32 // copies of the event that are not delivered yet
	due     time.Time
	pause   time.Duration // before the next attempt
}

// deliveries returns n copies of e that are due now.
func deliveries(e event, n int) ([]*delivery, error) {
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
	copies := make([]*delivery, n)
	for i := range copies {
		copies[i] = &delivery{
			eventID: e.id, body: body, left: &left, due: time.Now(), pause: firstPause,
		}
	}
	return copies, nil
}

// announce queues e the way b wants it. With webhookFirst it returns after one attempt, which
// may have failed: then the event is tried again like any other.
func (s *Server) announce(ctx context.Context, e event, b behavior) error {
	if s.cfg.WebhookURL == "" {
		return nil
	}
	n := 1
	if b.storm {
		n = stormCopies
	}
	copies, err := deliveries(e, n)
	if err != nil {
		return err
	}
	for _, d := range copies {
		if b.webhookFirst {
			s.deliver(ctx, d)
			continue
		}
		if b.storm {
			d.due = d.due.Add(rand.N(stormSpread)) //nolint:gosec // a shuffle needs no secrecy
		}
		s.queue.push(d)
	}
	return nil
}

// requeue queues every event that the log does not know as delivered.
func (s *Server) requeue() error {
	if s.cfg.WebhookURL == "" {
		return nil
	}
	var undelivered []event
	for _, c := range s.ledger.findCaptures(func(capture) bool { return true }) {
		undelivered = append(undelivered, captureEvent(c))
	}
	for _, f := range s.ledger.findRefunds(func(payments.ProviderRefund) bool { return true }) {
		undelivered = append(undelivered, refundEvent(f))
	}
	for _, e := range undelivered {
		if s.ledger.isDelivered(e.id) {
			continue
		}
		copies, err := deliveries(e, 1)
		if err != nil {
			return err
		}
		s.queue.push(copies[0])
	}
	return nil
}

// Run delivers webhooks, each until it is answered with 2xx, until ctx ends; then it lets go of the
// requests held unanswered and returns nil. What is undelivered by then is delivered after a
// restart.
func (s *Server) Run(ctx context.Context) error {
	defer s.release()
	var workers errgroup.Group
	workers.SetLimit(deliveryWorkers)
	for ctx.Err() == nil {
		d, wait := s.queue.pop(time.Now())
		if d == nil {
			s.queue.await(ctx, wait)
			continue
		}
		workers.Go(func() error {
			s.deliver(ctx, d)
			return nil
		})
	}
	return workers.Wait()
}

// deliver makes one attempt and queues d again when it fails.
func (s *Server) deliver(ctx context.Context, d *delivery) {
	if err := s.post(ctx, d); err != nil {
		pause := d.pause*3/4 + rand.N(d.pause/2) //nolint:gosec // jitter needs no secrecy
		d.pause = min(2*d.pause, maxPause)
		s.cfg.Logger.InfoContext(ctx, "webhook not accepted, will try again", "event", d.eventID, "in", pause, "error",
			err)
		d.due = time.Now().Add(pause)
		s.queue.push(d)
		return
	}
	if d.left.Add(-1) > 0 {
		return
	}
	if err := s.ledger.markDelivered(d.eventID, s.cfg.Now()); err != nil {
		s.cfg.Logger.ErrorContext(ctx, "webhook delivered but not logged, a restart will send it again", "event",
			d.eventID, "error", err)
	}
}

func (s *Server) post(ctx context.Context, d *delivery) error {
	now := s.cfg.Now()
	signature, err := psp.Sign(s.cfg.WebhookSecret, d.eventID, now, d.body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.WebhookURL, bytes.NewReader(d.body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("webhook-id", d.eventID)
	req.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
	req.Header.Set("webhook-signature", signature)
	resp, err := s.webhooks.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)) // so that the connection is used again
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("psp: the receiver answered %s", resp.Status)
	}
	return nil
}
