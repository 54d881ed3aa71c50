// Package psp talks to the simulated payment provider: the client of its API and the reader of its
// webhooks.
package psp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/onceshop/onceshop/internal/payments"
)

// maxAnswer bounds what the client reads of an answer, in bytes.
const maxAnswer = 1 << 20

// Client talks to the provider over HTTP. It sends every call exactly once.
type Client struct {
	base string
	http *http.Client
}

var _ payments.Provider = (*Client)(nil)

// NewClient returns a client of the provider at baseURL (PSP_URL). timeout bounds a whole call,
// from dialing to the last byte of the answer.
func NewClient(baseURL string, timeout time.Duration) *Client {
	return &Client{base: strings.TrimSuffix(baseURL, "/"), http: newHTTPClient(timeout)}
}

// newHTTPClient keeps enough connections alive for busy callers and follows no redirect: what
// is sent goes to the configured address or nowhere.
func newHTTPClient(timeout time.Duration) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	transport.IdleConnTimeout = 30 * time.Second
	return &http.Client{
		Transport:     transport,
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// CloseIdleConnections closes the connections that are kept alive for later calls.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

// Ping reports whether the provider answers.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.get(ctx, "/healthz")
	return err
}

// Name implements payments.Provider.
func (c *Client) Name() string { return "psp" }

// Capture implements payments.Provider. An answer about anything but r is an unknown outcome.
func (c *Client) Capture(ctx context.Context, r payments.CaptureRequest) (payments.Capture, error) {
	var got payments.Capture
	if err := c.post(ctx, "/v1/captures", r.Key, r, &got); err != nil {
		return payments.Capture{}, err
	}
	return got, about(got, r)
}

// FindCapture implements payments.Provider.
func (c *Client) FindCapture(ctx context.Context, r payments.CaptureRequest) (payments.Capture, error) {
	var got struct {
		Captures []payments.Capture `json:"captures"`
	}
	if err := c.list(ctx, "/v1/captures?reference="+url.QueryEscape(r.Reference), &got); err != nil {
		return payments.Capture{}, err
	}
	if got.Captures == nil {
		return payments.Capture{}, errors.New("psp: the answer is not a list of captures")
	}
	var found payments.Capture
	for _, capture := range got.Captures {
		if err := readable(capture, r.Reference); err != nil {
			return payments.Capture{}, err
		}
		if found.Status == payments.CaptureSucceeded && capture.Status == payments.CaptureSucceeded {
			return payments.Capture{},
				fmt.Errorf("psp: %s and %s both took money for %s", found.ID, capture.ID, r.Reference)
		}
		if found.Status != payments.CaptureSucceeded { // the newest, but money that moved counts first
			found = capture
		}
	}
	return found, nil
}

// CancelCapture implements payments.Provider.
func (c *Client) CancelCapture(ctx context.Context, r payments.CaptureRequest) (payments.Capture, error) {
	var got payments.Capture
	body := struct {
		Reference string `json:"reference"`
	}{r.Reference}
	if err := c.post(ctx, "/v1/captures/cancel", "cancel_"+r.Key, body, &got); err != nil {
		return payments.Capture{}, err
	}
	switch {
	case got.Reference != r.Reference:
		return payments.Capture{},
			fmt.Errorf("psp: asked to cancel %s, the answer is about %q", r.Reference, got.Reference)
	case got.Status == payments.CaptureCanceled, got.Status == payments.CaptureDeclined:
		return got, nil
	case got.Status == payments.CaptureSucceeded:
		return got, about(got, r)
	}
	return payments.Capture{}, fmt.Errorf("psp: the canceled capture of %s is %q", r.Reference, got.Status)
}

// about checks that a capture is the one that was asked for, in a state that we know.
func about(got payments.Capture, r payments.CaptureRequest) error {
	if err := readable(got, r.Reference); err != nil || got.Status == payments.CaptureCanceled {
		return err
	}
	if got.ID == "" || got.OrderID != r.OrderID || got.Money() != r.Money() {
		return fmt.Errorf("psp: asked about %s for %s, the answer is about %s for %s",
			r.Money(), r.OrderID, got.Money(), got.OrderID)
	}
	return nil
}

// readable checks that a capture has the reference, and a state that we know.
func readable(got payments.Capture, reference string) error {
	if got.Reference != reference {
		return fmt.Errorf("psp: asked about %s, the answer is about %q", reference, got.Reference)
	}
	switch got.Status {
	case payments.CaptureSucceeded, payments.CaptureDeclined, payments.CaptureCanceled:
		return nil
	case payments.CaptureRequiresAction:
		if got.NextAction != nil && got.NextAction.URL != "" {
			return nil
		}
	}
	return fmt.Errorf("psp: capture %s has the status %q, which is not known", got.ID, got.Status)
}

// Refund implements payments.Provider. An answer about anything but r is an unknown outcome.
func (c *Client) Refund(ctx context.Context, r payments.RefundRequest) (payments.ProviderRefund, error) {
	var got payments.ProviderRefund
	if err := c.post(ctx, "/v1/refunds", r.Key, r, &got); err != nil {
		return payments.ProviderRefund{}, err
	}
	if got.ID == "" || got.CaptureID != r.CaptureID || got.Amount != r.Amount || !known(got) {
		return payments.ProviderRefund{},
			fmt.Errorf("psp: asked to give back %d of %s, the answer is about %d of %s, %q",
				r.Amount, r.CaptureID, got.Amount, got.CaptureID, got.Status)
	}
	return got, nil
}

// FindRefunds implements payments.Provider.
func (c *Client) FindRefunds(ctx context.Context, captureID string) ([]payments.ProviderRefund, error) {
	var got struct {
		Refunds []payments.ProviderRefund `json:"refunds"`
	}
	if err := c.list(ctx, "/v1/refunds?capture_id="+url.QueryEscape(captureID), &got); err != nil {
		return nil, err
	}
	other := func(f payments.ProviderRefund) bool { return f.CaptureID != captureID || f.ID == "" || !known(f) }
	if got.Refunds == nil || slices.ContainsFunc(got.Refunds, other) {
		return nil, fmt.Errorf("psp: the answer is not the list of refunds of %s", captureID)
	}
	return got.Refunds, nil
}

// ListCaptures implements payments.Provider.
func (c *Client) ListCaptures(ctx context.Context, since time.Time, each func(payments.Capture) error) error {
	return pages(ctx, c, "captures", since, func(capture payments.Capture) (string, error) {
		if err := readable(capture, capture.Reference); err != nil {
			return "", err
		}
		return capture.ID, each(capture)
	})
}

// ListRefunds implements payments.Provider.
func (c *Client) ListRefunds(ctx context.Context, since time.Time, each func(payments.ProviderRefund) error) error {
	return pages(ctx, c, "refunds", since, func(refund payments.ProviderRefund) (string, error) {
		if refund.ID == "" || !known(refund) {
			return "", errors.New("psp: the answer is not a list of refunds")
		}
		return refund.ID, each(refund)
	})
}

// pageSize is how many objects are listed at once: far fewer than an answer holds.
const pageSize = 500

// pages reads a list page by page. Each takes an object and returns its id.
func pages[T any](ctx context.Context, c *Client, what string, since time.Time,
	each func(T) (id string, err error)) error {
	query := url.Values{"since": {since.UTC().Format(time.RFC3339Nano)}, "limit": {strconv.Itoa(pageSize)}}
	for {
		var page map[string][]T
		if err := c.list(ctx, "/v1/"+what+"?"+query.Encode(), &page); err != nil {
			return err
		}
		objects := page[what]
		if objects == nil {
			return fmt.Errorf("psp: the answer is not a list of %s", what)
		}
		for _, object := range objects {
			id, err := each(object)
			if err != nil {
				return err
			}
			query.Set("after", id)
		}
		if len(objects) < pageSize {
			return nil
		}
	}
}

func known(refund payments.ProviderRefund) bool {
	return slices.Contains([]string{payments.RefundSucceeded, payments.RefundPending, payments.RefundFailed},
		refund.Status)
}

// post sends in once and decodes a 200 into out.
func (c *Client) post(ctx context.Context, path, key string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("psp: encode the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("psp: %w", err)
	}
	// Without GetBody the transport cannot repeat the request. With it, it would, unasked,
	// because of the Idempotency-Key, when a kept-alive connection breaks.
	req.GetBody = nil
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", key)
	status, answer, err := c.do(req)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return refusal(path, status, answer)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("psp: unreadable answer: %w", err)
	}
	return nil
}

func (c *Client) list(ctx context.Context, path string, out any) error {
	answer, err := c.get(ctx, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("psp: unreadable answer: %w", err)
	}
	return nil
}

func (c *Client) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return nil, fmt.Errorf("psp: %w", err)
	}
	status, answer, err := c.do(req)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("psp: the provider answered %d", status)
	}
	return answer, err
}

func (c *Client) do(req *http.Request) (status int, answer []byte, err error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("psp: %w", err)
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return 0, nil, fmt.Errorf("psp: read the answer: %w", err)
	}
	if len(answer) > maxAnswer {
		return 0, nil, errors.New("psp: the answer is too long")
	}
	return resp.StatusCode, answer, nil
}

// refusal turns an answer to a POST that is not 200 into an error. It is a refusal only if the
// provider itself sends a code: a bare 404 may come from anything on the way. A 422 is not: money
// may have moved under the key with another body.
func refusal(path string, status int, answer []byte) error {
	var p problem
	final := status == http.StatusBadRequest || status == http.StatusNotFound || path == "/v1/refunds" &&
		(status == http.StatusConflict || status == http.StatusPaymentRequired)
	if err := json.Unmarshal(answer, &p); err != nil || p.Code == "" {
		return fmt.Errorf("psp: the provider answered %d without a code", status)
	}
	if !final {
		return fmt.Errorf("psp: the provider answered %d: %w", status, &p)
	}
	return fmt.Errorf("%w: %w", payments.ErrRefused, &p)
}

// problem is what the client reads of an error answer (RFC 9457).
type problem struct {
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

func (p *problem) Error() string { return p.Code + ": " + p.Detail }
