// Package stripe takes and gives back money through Stripe: one PaymentIntent for each charge and
// one Refund for each refund, under the idempotency keys that the shop derives. Card numbers never
// come here: docs/stripe.md explains why, and how to set it up.
package stripe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/onceshop/onceshop/internal/payments"
)

// countedOtherwise are the currencies in which Stripe's amounts are not ISO 4217 minor units: they
// would be off by a factor of 100.
var countedOtherwise = []string{"ISK", "MGA", "UGX"}

const intentsPath = "/v1/payment_intents"

// Client talks to Stripe. It sends every call exactly once.
type Client struct {
	secretKey string
	base      string
	http      *http.Client
}

var _ payments.Provider = (*Client)(nil)

// New returns a client of the account that secretKey (STRIPE_SECRET_KEY) belongs to. timeout bounds
// one HTTP call, from dialing to the last byte of the answer. baseURL is empty except in tests,
// which have no account.
func New(secretKey, baseURL string, timeout time.Duration) (*Client, error) {
	c := &Client{secretKey: secretKey, base: strings.TrimSuffix(baseURL, "/"), http: newHTTPClient(timeout)}
	if c.mode() == "" || strings.ContainsAny(secretKey, " \t\r\n") {
		return nil, errors.New("STRIPE_SECRET_KEY must be a secret key (sk_test_…, sk_live_…) or a restricted key " +
			"(rk_test_…, rk_live_…) of your Stripe account, and nothing else")
	}
	if baseURL == "" {
		c.base = apiURL
	}
	return c, nil
}

// mode is test, live, or "" for what is not a secret key.
func (c *Client) mode() string {
	for _, mode := range []string{"test", "live"} {
		if strings.HasPrefix(c.secretKey, "sk_"+mode+"_") || strings.HasPrefix(c.secretKey, "rk_"+mode+"_") {
			return mode
		}
	}
	return ""
}

// Name implements payments.Provider. Objects of the test mode do not exist in the live mode.
func (c *Client) Name() string { return "stripe:" + c.mode() }

// CloseIdleConnections closes the connections that are kept alive for later calls.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

// Ping reports whether Stripe answers and lets the key read PaymentIntents.
func (c *Client) Ping(ctx context.Context) error {
	var page list[intent]
	return page.check("list", c.get(ctx, intentsPath, url.Values{"limit": {"1"}}, &page))
}

// Capture implements payments.Provider. It creates an unconfirmed PaymentIntent, which moves no
// money, and confirms it. An intent that may have been confirmed before is read first.
func (c *Client) Capture(ctx context.Context, r payments.CaptureRequest) (payments.Capture, error) {
	held, err := c.open(ctx, r)
	if declined, ok := errors.AsType[*apiError](err); ok && declined.declined() { // before there was an intent
		return payments.Capture{Reference: r.Reference, OrderID: r.OrderID, Status: payments.CaptureDeclined,
			DeclineCode: code(declined.DeclineCode, "declined"), Amount: r.Amount, Currency: r.Currency}, nil
	}
	if err != nil {
		return payments.Capture{ID: held.ID}, err
	}
	if err := about(held, r); err != nil {
		return payments.Capture{}, err
	}
	r.ID = held.ID
	if held.unconfirmed() {
		if held, err = c.confirm(ctx, r, held.ID); err != nil {
			return payments.Capture{ID: held.ID}, err
		}
	}
	got, err := outcome(held, r)
	if err == nil && got.Status == payments.CaptureNone {
		err = fmt.Errorf("stripe: PaymentIntent %s is still %q", held.ID, held.Status)
	}
	return got, err
}

// FindCapture implements payments.Provider. An unconfirmed PaymentIntent is CaptureNone with an ID.
func (c *Client) FindCapture(ctx context.Context, r payments.CaptureRequest) (payments.Capture, error) {
	held, err := c.find(ctx, r)
	switch {
	case absent(err):
		return payments.Capture{}, nil
	case err != nil:
		return payments.Capture{ID: held.ID}, err
	}
	return outcome(held, r)
}

// CancelCapture implements payments.Provider. Stripe confirms no PaymentIntent that is canceled.
func (c *Client) CancelCapture(ctx context.Context, r payments.CaptureRequest) (payments.Capture, error) {
	held, err := c.find(ctx, r)
	if absent(err) {
		return payments.Capture{Reference: r.Reference, OrderID: r.OrderID, Status: payments.CaptureCanceled,
			Amount: r.Amount, Currency: r.Currency}, nil
	}
	if err == nil {
		err = about(held, r)
		r.ID = held.ID
	}
	if err == nil && held.Status != intentSucceeded && held.Status != intentCanceled {
		held, err = c.cancel(ctx, held.ID)
	}
	if err != nil {
		return payments.Capture{ID: held.ID}, err
	}
	got, err := outcome(held, r)
	if err == nil && (got.Status == payments.CaptureNone || got.Status == payments.CaptureRequiresAction) {
		err = fmt.Errorf("stripe: PaymentIntent %s is %q after it was canceled", held.ID, held.Status)
	}
	return got, err
}

// find is open for a charge that may be old. Without an id it searches first: when Stripe has
// forgotten the key, creating would make a second intent and hide the first. Search lags behind by
// a minute, in outages by an hour, and until then the key, which lives for a day, leads to the
// intent. If neither finds one, the intent that is created is unconfirmed and moves no money.
func (c *Client) find(ctx context.Context, r payments.CaptureRequest) (intent, error) {
	if r.ID != "" {
		return c.open(ctx, r)
	}
	var page list[intent]
	query := url.Values{"query": {"metadata['reference']:'" + r.Reference + "'"}, "limit": {strconv.Itoa(pageSize)}}
	if err := page.check("search_result", c.get(ctx, intentsPath+"/search", query, &page)); err != nil {
		return intent{}, err
	}
	for _, found := range page.Data {
		if found.Metadata.Reference != r.Reference {
			continue
		}
		if r.ID != "" {
			return intent{}, fmt.Errorf("stripe: %s and %s are both for %s", r.ID, found.ID, r.Reference)
		}
		r.ID = found.ID
	}
	return c.open(ctx, r)
}

// absent reports an error of open that proves that Stripe holds no intent: it rejected the creation
// under a key that would have led to the intent.
func absent(err error) bool {
	answer, ok := errors.AsType[*apiError](err)
	return errors.Is(err, payments.ErrRefused) || ok && answer.declined()
}

// open returns the PaymentIntent as it stands, and at least its ID beside an error once that is
// known. It creates the intent if its id is not known.
func (c *Client) open(ctx context.Context, r payments.CaptureRequest) (intent, error) {
	if slices.Contains(countedOtherwise, r.Currency) {
		return intent{}, fmt.Errorf("%w: stripe does not count %s in minor units of ISO 4217", payments.ErrRefused,
			r.Currency)
	}
	if r.ID != "" {
		return c.read(ctx, r.ID)
	}
	var created intent
	replayed, err := c.post(ctx, intentsPath, r.Key, url.Values{
		"amount": {strconv.FormatInt(r.Amount, 10)}, "currency": {strings.ToLower(r.Currency)},
		"payment_method": {r.PaymentMethod},
		// A method that takes days, such as a debit, has no state here.
		"payment_method_types[]": {"card"},
		"metadata[reference]":    {r.Reference}, "metadata[order_id]": {r.OrderID},
	}, &created)
	if err != nil {
		return intent{}, err
	}
	if err := about(created, r); err != nil {
		return intent{}, err
	}
	if !replayed {
		return created, nil
	}
	return c.read(ctx, created.ID) // the answer under the key shows the intent as it was
}

func (c *Client) read(ctx context.Context, id string) (intent, error) {
	var held intent
	if err := c.get(ctx, intentsPath+"/"+url.PathEscape(id), nil, &held); err != nil {
		return intent{ID: id}, err
	}
	return held, nil
}

// confirm takes the money. If the intent turns out to be declined, or no longer open, its state is
// the answer.
func (c *Client) confirm(ctx context.Context, r payments.CaptureRequest, id string) (intent, error) {
	form := url.Values{}
	if r.ReturnURL != "" {
		form.Set("return_url", r.ReturnURL)
	}
	var confirmed intent
	_, err := c.post(ctx, intentsPath+"/"+url.PathEscape(id)+"/confirm", r.Key+"_confirm", form, &confirmed)
	if err == nil {
		return confirmed, nil
	}
	answer, ok := errors.AsType[*apiError](err)
	switch {
	case ok && answer.declined() && answer.Intent != nil:
		return *answer.Intent, nil
	case ok && (answer.declined() || answer.Code == unexpectedState):
		return c.read(ctx, id)
	}
	return intent{ID: id}, err
}

// cancel ends the intent. If it has ended before, its state is the answer. It needs no key: to
// cancel twice changes nothing, and under a key a 500 would be repeated for a day.
func (c *Client) cancel(ctx context.Context, id string) (intent, error) {
	var canceled intent
	_, err := c.post(ctx, intentsPath+"/"+url.PathEscape(id)+"/cancel", "", nil, &canceled)
	if err == nil {
		return canceled, nil
	}
	if answer, ok := errors.AsType[*apiError](err); ok && answer.Code == unexpectedState {
		return c.read(ctx, id)
	}
	return intent{ID: id}, err
}

// unexpectedState is the code for an intent that cannot be confirmed or canceled any more.
const unexpectedState = "payment_intent_unexpected_state"

// outcome is the capture of an intent, which must be the one that was asked for.
func outcome(held intent, r payments.CaptureRequest) (payments.Capture, error) {
	if err := about(held, r); err != nil {
		return payments.Capture{}, err
	}
	got, err := captureOf(held)
	if err == nil && got.Amount != r.Amount {
		err = fmt.Errorf("stripe: PaymentIntent %s took %s of %s", held.ID, got.Money(), r.Money())
	}
	return got, err
}

// about checks that an intent is the one that was asked for.
func about(held intent, r payments.CaptureRequest) error {
	if !word.MatchString(held.ID) || held.Metadata.Reference != r.Reference || held.Metadata.OrderID != r.OrderID ||
		held.Amount != r.Amount || !strings.EqualFold(held.Currency, r.Currency) || r.ID != "" && held.ID != r.ID {
		return fmt.Errorf("stripe: asked about %s for %s, the answer %q is about %d %s for %q",
			r.Money(), r.Reference, held.ID, held.Amount, held.Currency, held.Metadata.Reference)
	}
	return nil
}
