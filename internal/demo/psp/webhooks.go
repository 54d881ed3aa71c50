package psp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

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

// Run makes the changes that are due later and delivers webhooks, each until it is answered with
// 2xx, until ctx ends; then it lets go of the requests held unanswered and returns nil. What is
// left by then is done after a restart.
func (s *Server) Run(ctx context.Context) error {
	defer s.release()
	var loops sync.WaitGroup
	loops.Go(func() { s.changes.work(ctx, 1) })
	loops.Go(func() { s.deliveries.work(ctx, deliveryWorkers) })
	loops.Wait()
	return nil
}

// deliver makes one attempt and queues d again when it fails.
func (s *Server) deliver(ctx context.Context, d *delivery) {
	if err := s.post(ctx, d); err != nil {
		pause := d.pause*3/4 + rand.N(d.pause/2) //nolint:gosec // jitter needs no secrecy
		d.pause = min(2*d.pause, maxPause)
		s.cfg.Logger.InfoContext(ctx, "webhook not accepted, will try again", "event", d.eventID, "in", pause, "error",
			err)
		s.push(d, time.Now().Add(pause))
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
