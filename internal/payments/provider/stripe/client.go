// Package stripe takes and gives back money through Stripe: one PaymentIntent for each charge and
// one Refund for each refund, under the idempotency keys that the shop derives. Card numbers never
// come here: docs/stripe.md says why, and how to set it up.
package stripe

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	stripego "github.com/stripe/stripe-go/v85"

	"github.com/onceshop/onceshop/internal/payments"
)

const (
	// tolerance is how far Stripe's clock and ours may be apart, either way.
	tolerance = 5 * time.Minute
	// pageSize is the most that Stripe lists at once.
	pageSize = 100
)

// The names under which a PaymentIntent's metadata say whose it is.
const (
	metaReference = "reference"
	metaOrder     = "order_id"
)

// countedOtherwise are the currencies in which Stripe's amounts are not ISO 4217 minor units: they
// would be off by a factor of 100.
var countedOtherwise = []string{"ISK", "MGA", "UGX"}

// Client talks to Stripe. It sends every call exactly once.
type Client struct {
	api  *stripego.Client
	http *http.Client
}

var _ payments.Provider = (*Client)(nil)

// New returns a client of the account that secretKey (STRIPE_SECRET_KEY) belongs to. timeout bounds
// one HTTP call, from dialing to the last byte of the answer. baseURL is empty except in tests,
// which have no account.
func New(secretKey, baseURL string, timeout time.Duration) (*Client, error) {
	if !strings.HasPrefix(secretKey, "sk_") && !strings.HasPrefix(secretKey, "rk_") ||
		strings.ContainsAny(secretKey, " \t\r\n") {
		return nil, errors.New("STRIPE_SECRET_KEY must be a secret key (sk_…) or a restricted key (rk_…) of your " +
			"Stripe account, and nothing else")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // nothing here replaces it
	transport.MaxIdleConnsPerHost = 64
	transport.IdleConnTimeout = 30 * time.Second
	c := &Client{http: &http.Client{
		Transport: sendOnce{transport},
		Timeout:   timeout,
		// What is sent goes to Stripe or nowhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	config := &stripego.BackendConfig{
		HTTPClient:        c.http,
		MaxNetworkRetries: stripego.Int64(0),
		EnableTelemetry:   stripego.Bool(false),
		// Failures are reported by their errors; the library's log lines would hold whole answers.
		LeveledLogger: &stripego.LeveledLogger{Level: stripego.LevelNull},
	}
	if baseURL != "" {
		config.URL = &baseURL
	}
	c.api = stripego.NewClient(secretKey, stripego.WithBackends(stripego.NewBackendsWithConfig(config)))
	return c, nil
}

// sendOnce takes away what the transport needs to repeat a request with a body. With it, it would,
// unasked, because of the Idempotency-Key, when a kept-alive connection breaks.
type sendOnce struct{ *http.Transport }

func (s sendOnce) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.WithContext(r.Context()) // a copy: the request is the caller's
	r.GetBody = nil
	return s.Transport.RoundTrip(r)
}

// CloseIdleConnections closes the connections that are kept alive for later calls.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

// Ping reports whether Stripe answers and lets the key read PaymentIntents.
func (c *Client) Ping(ctx context.Context) error {
	params := &stripego.PaymentIntentListParams{ListParams: stripego.ListParams{Limit: stripego.Int64(1), Single: true}}
	return each(ctx, c.api.V1PaymentIntents.List(ctx, params), func(*stripego.PaymentIntent) error { return nil })
}

// Capture implements payments.Provider: it creates and confirms a PaymentIntent in one call. A card
// whose bank wants to see the buyer first (3-D Secure) is declined with authentication_required.
// Currencies that Stripe counts otherwise are refused.
func (c *Client) Capture(ctx context.Context, key string, r payments.CaptureRequest) (payments.Capture, error) {
	if slices.Contains(countedOtherwise, r.Currency) {
		return payments.Capture{}, fmt.Errorf("%w: stripe does not count %s in minor units of ISO 4217",
			payments.ErrRefused, r.Currency)
	}
	params := &stripego.PaymentIntentCreateParams{
		Amount: &r.Amount, Currency: stripego.String(strings.ToLower(r.Currency)), PaymentMethod: &r.PaymentMethod,
		Confirm: stripego.Bool(true), ErrorOnRequiresAction: stripego.Bool(true),
		AutomaticPaymentMethods: &stripego.PaymentIntentCreateAutomaticPaymentMethodsParams{
			Enabled: stripego.Bool(true), AllowRedirects: stripego.String("never")},
		Metadata: map[string]string{metaReference: r.Reference, metaOrder: r.OrderID},
	}
	params.SetIdempotencyKey(key)
	intent, err := c.api.V1PaymentIntents.Create(ctx, params)
	if err != nil {
		if intent = declined(err, r); intent == nil {
			return payments.Capture{}, failure(err)
		}
	}
	got, err := captureOf(intent)
	if err != nil {
		return payments.Capture{}, err
	}
	if got.Reference != r.Reference || got.OrderID != r.OrderID || got.Amount != r.Amount ||
		got.Currency != r.Currency {
		return payments.Capture{}, fmt.Errorf("stripe: asked to take %d %s for %s, the answer is about %d %s for %q",
			r.Amount, r.Currency, r.Reference, got.Amount, got.Currency, got.Reference)
	}
	return got, nil
}

// FindCaptures implements payments.Provider. The list is read, not the search: Stripe makes search
// results wait for a minute, in outages for an hour, and an empty answer must mean that there is
// nothing. The list has no filter for metadata, so it is read from the moment when the reference, a
// UUIDv7, was made: a page for every 100 PaymentIntents of the account since then. An intent whose
// outcome is still open is an error.
func (c *Client) FindCaptures(ctx context.Context, reference string) ([]payments.Capture, error) {
	id, err := uuid.Parse(reference)
	if err != nil || id.Version() != 7 {
		return nil, fmt.Errorf("stripe: the reference %q is no UUIDv7 and does not say when it was made", reference)
	}
	seconds, _ := id.Time().UnixTime()
	params := &stripego.PaymentIntentListParams{
		ListParams:   stripego.ListParams{Limit: stripego.Int64(pageSize)},
		CreatedRange: &stripego.RangeQueryParams{GreaterThanOrEqual: seconds - int64(tolerance.Seconds())},
	}
	var found []payments.Capture
	err = each(ctx, c.api.V1PaymentIntents.List(ctx, params), func(intent *stripego.PaymentIntent) error {
		if intent.Metadata[metaReference] != reference {
			return nil
		}
		capture, err := captureOf(intent)
		found = append(found, capture)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// Refund implements payments.Provider. A refund that Stripe holds as pending is an error until it
// has left: asking again under the same key tells.
func (c *Client) Refund(ctx context.Context, key string, r payments.RefundRequest) (payments.ProviderRefund, error) {
	params := &stripego.RefundCreateParams{PaymentIntent: &r.CaptureID, Amount: &r.Amount}
	params.SetIdempotencyKey(key)
	refund, err := c.api.V1Refunds.Create(ctx, params)
	if err == nil && refund.Status == stripego.RefundStatusPending && refund.ID != "" {
		// Under its key Stripe repeats the first answer, also when the refund has gone on since.
		refund, err = c.api.V1Refunds.Retrieve(ctx, refund.ID, nil)
	}
	if err != nil {
		return payments.ProviderRefund{}, failure(err)
	}
	got := refundOf(refund)
	switch {
	case got.ID == "" || got.CaptureID != r.CaptureID || got.Amount != r.Amount:
		return payments.ProviderRefund{},
			fmt.Errorf("stripe: asked to give back %d of %s, the answer is about %d of %q", r.Amount, r.CaptureID,
				got.Amount, got.CaptureID)
	case refund.Status == stripego.RefundStatusSucceeded:
		return got, nil
	case refund.Status == stripego.RefundStatusFailed || refund.Status == stripego.RefundStatusCanceled:
		return payments.ProviderRefund{},
			fmt.Errorf("%w: stripe's refund %s is %s", payments.ErrRefused, refund.ID, refund.Status)
	default:
		return payments.ProviderRefund{}, fmt.Errorf("stripe: refund %s is %q", refund.ID, refund.Status)
	}
}

// FindRefunds implements payments.Provider. It leaves out refunds that gave nothing back, or not
// yet.
func (c *Client) FindRefunds(ctx context.Context, captureID string) ([]payments.ProviderRefund, error) {
	params := &stripego.RefundListParams{ListParams: stripego.ListParams{Limit: stripego.Int64(pageSize)},
		PaymentIntent: &captureID}
	var found []payments.ProviderRefund
	err := each(ctx, c.api.V1Refunds.List(ctx, params), func(refund *stripego.Refund) error {
		got := refundOf(refund)
		if got.CaptureID != captureID {
			return fmt.Errorf("stripe: the answer is not the list of refunds of %s", captureID)
		}
		if refund.Status == stripego.RefundStatusSucceeded {
			found = append(found, got)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// each visits every item of every page. An answer that is not a list is an error: it does not mean
// that there is nothing.
func each[T any](ctx context.Context, list *stripego.V1List[T], visit func(T) error) error {
	for item, err := range list.All(ctx) {
		if err != nil {
			return failure(err)
		}
		if err := visit(item); err != nil {
			return err
		}
	}
	var page struct{ Object string }
	if err := json.Unmarshal(list.LastResponse().RawJSON, &page); err != nil || page.Object != "list" {
		return errors.New("stripe: the answer is not a list")
	}
	return nil
}

// declined is the PaymentIntent of a card error, Stripe's form of a decline, or nil for every other
// error.
func declined(err error, r payments.CaptureRequest) *stripego.PaymentIntent {
	var answer *stripego.Error
	if !errors.As(err, &answer) || answer.Type != stripego.ErrorTypeCard ||
		answer.HTTPStatusCode != http.StatusPaymentRequired {
		return nil
	}
	intent := answer.PaymentIntent
	if intent == nil { // the card was turned down before there was one
		intent = &stripego.PaymentIntent{Status: stripego.PaymentIntentStatusRequiresPaymentMethod, Amount: r.Amount,
			Currency: stripego.Currency(strings.ToLower(r.Currency)),
			Metadata: map[string]string{metaReference: r.Reference, metaOrder: r.OrderID}}
	}
	intent.LastPaymentError = cmp.Or(intent.LastPaymentError, answer)
	return intent
}
