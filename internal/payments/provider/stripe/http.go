package stripe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/onceshop/onceshop/internal/payments"
)

const (
	apiURL = "https://api.stripe.com"
	// apiVersion pins the shape of requests and answers, whatever the account's default is.
	apiVersion = "2026-03-25.dahlia"
	// maxAnswer bounds what the client reads of an answer, in bytes. A page of refunds with long
	// metadata stays below it.
	maxAnswer = 4 << 20
)

// newHTTPClient keeps enough connections alive for busy callers and follows no redirect: what is
// sent goes to Stripe or nowhere.
func newHTTPClient(timeout time.Duration) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // nothing here replaces it
	transport.MaxIdleConnsPerHost = 64
	transport.IdleConnTimeout = 30 * time.Second
	return &http.Client{
		Transport:     transport,
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (c *Client) get(ctx context.Context, path string, query url.Values, out any) error {
	_, err := c.send(ctx, http.MethodGet, path+"?"+query.Encode(), "", "", out)
	return err
}

// post sends a form once. It reports whether the answer repeats the one that Stripe keeps under the
// key. Its error wraps payments.ErrRefused if Stripe rejected the request and did nothing.
func (c *Client) post(ctx context.Context, path, key string, form url.Values, out any) (replayed bool, err error) {
	replayed, err = c.send(ctx, http.MethodPost, path, key, form.Encode(), out)
	if answer, ok := errors.AsType[*apiError](err); ok && answer.refused() {
		err = fmt.Errorf("%w: %w", payments.ErrRefused, err)
	}
	return replayed, err
}

func (c *Client) send(ctx context.Context, method, path, key, form string, out any) (replayed bool, err error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, strings.NewReader(form))
	if err != nil {
		return false, fmt.Errorf("stripe: %w", err)
	}
	// Without GetBody the transport cannot repeat the request. With it, it would, unasked,
	// because of the Idempotency-Key, when a kept-alive connection breaks.
	req.GetBody = nil
	req.Header.Set("Authorization", "Bearer "+c.secretKey)
	req.Header.Set("Stripe-Version", apiVersion)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if key != "" {
			req.Header.Set("Idempotency-Key", key)
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return false, fmt.Errorf("stripe: no answer: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return false, fmt.Errorf("stripe: no whole answer: %w", err)
	case len(body) > maxAnswer:
		return false, errors.New("stripe: the answer is too long")
	case resp.StatusCode != http.StatusOK:
		return false, readError(resp, body)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return false, errors.New("stripe: unreadable answer") // the cause could quote a secret
	}
	return resp.Header.Get("Idempotent-Replayed") == "true", nil
}

// apiError is an answer that is not 200. It keeps Stripe's codes and request id, and not the
// message, which may contain a part of the key.
type apiError struct {
	status    int
	requestID string

	Type        string  `json:"type"`
	Code        string  `json:"code"`
	DeclineCode string  `json:"decline_code"`
	Param       string  `json:"param"`
	Intent      *intent `json:"payment_intent"`
}

func readError(resp *http.Response, body []byte) error {
	var answer struct {
		Error apiError `json:"error"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Error.Type == "" {
		return fmt.Errorf("stripe: unreadable answer with status %d", resp.StatusCode)
	}
	answer.Error.status, answer.Error.requestID = resp.StatusCode, resp.Header.Get("Request-Id")
	return &answer.Error
}

func (e *apiError) Error() string {
	hint := ""
	if e.status == http.StatusUnauthorized || e.status == http.StatusForbidden {
		hint = "STRIPE_SECRET_KEY is not valid or lacks a permission: "
	}
	return fmt.Sprintf("%sstripe answered %d %s (code %q, parameter %q, request %q)", hint, e.status, e.Type, e.Code,
		e.Param, e.requestID)
}

// declined reports whether a card was declined.
func (e *apiError) declined() bool {
	return e.Type == "card_error" && e.status == http.StatusPaymentRequired
}

// refused reports whether Stripe rejected the request and did nothing. That is not certain while
// another request holds the key or a lock, nor for a key that was used with other parameters.
func (e *apiError) refused() bool {
	if e.Type != "invalid_request_error" || e.Code == "lock_timeout" || e.Code == "idempotency_key_in_use" {
		return false
	}
	return (e.status == http.StatusBadRequest || e.status == http.StatusNotFound) && (e.Code != "" || e.Param != "")
}
