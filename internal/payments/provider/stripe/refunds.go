package stripe

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/onceshop/onceshop/internal/payments"
)

// pageSize is the most that Stripe lists at once.
const pageSize = 100

// list is a page of objects.
type list[T any] struct {
	Object  string `json:"object"`
	Data    []T    `json:"data"`
	HasMore bool   `json:"has_more"`
}

// check returns err, or an error if the answer is not a page: that does not mean that there is
// nothing.
func (l *list[T]) check(object string, err error) error {
	if err == nil && (l.Object != object || l.Data == nil) {
		return errors.New("stripe: the answer is not a list")
	}
	return err
}

// Refund implements payments.Provider.
func (c *Client) Refund(ctx context.Context, r payments.RefundRequest) (payments.ProviderRefund, error) {
	var created refund
	if _, err := c.post(ctx, "/v1/refunds", r.Key, url.Values{"payment_intent": {r.CaptureID},
		"amount": {strconv.FormatInt(r.Amount, 10)}, "metadata[refund_id]": {r.Reference}}, &created); err != nil {
		return payments.ProviderRefund{}, err
	}
	got, err := refundOf(created)
	if err == nil && (got.CaptureID != r.CaptureID || got.Reference != r.Reference || got.Amount != r.Amount) {
		err = fmt.Errorf("stripe: asked to give back %d of %s, the answer is about %d of %s", r.Amount, r.CaptureID,
			got.Amount, got.CaptureID)
	}
	if err != nil {
		return payments.ProviderRefund{}, err
	}
	return got, nil
}

// FindRefunds implements payments.Provider.
func (c *Client) FindRefunds(ctx context.Context, captureID string) ([]payments.ProviderRefund, error) {
	var found []payments.ProviderRefund
	err := pages(ctx, c, "/v1/refunds", url.Values{"payment_intent": {captureID}}, func(item refund) (string, error) {
		given, err := refundOf(item)
		if err != nil {
			return "", err
		}
		if given.CaptureID != captureID {
			return "", fmt.Errorf("stripe: the answer is not the list of refunds of %s", captureID)
		}
		found = append(found, given)
		return given.ID, nil
	})
	return found, err
}

// ListRefunds implements payments.Provider. Refunds of others who use the account are among them.
func (c *Client) ListRefunds(ctx context.Context, since time.Time, each func(payments.ProviderRefund) error) error {
	return pages(ctx, c, "/v1/refunds", createdSince(since), func(item refund) (string, error) {
		if !isUUID(item.Metadata.RefundID) || item.Intent == "" {
			return item.ID, nil
		}
		given, err := refundOf(item)
		if err != nil {
			return "", err
		}
		return given.ID, each(given)
	})
}

// ListCaptures implements payments.Provider. It leaves out what is open, and what others who use
// the account have.
func (c *Client) ListCaptures(ctx context.Context, since time.Time, each func(payments.Capture) error) error {
	return pages(ctx, c, intentsPath, createdSince(since), func(held intent) (string, error) {
		if !held.ours() || held.Status != intentSucceeded {
			return held.ID, nil
		}
		got, err := captureOf(held)
		if err != nil {
			return "", err
		}
		return held.ID, each(got)
	})
}

func createdSince(since time.Time) url.Values {
	return url.Values{"created[gte]": {strconv.FormatInt(since.Unix(), 10)}}
}

// pages reads a list page by page. Each takes an object and returns its id.
func pages[T any](ctx context.Context, c *Client, path string, query url.Values,
	each func(T) (id string, err error)) error {
	query.Set("limit", strconv.Itoa(pageSize))
	for {
		var page list[T]
		if err := page.check("list", c.get(ctx, path, query, &page)); err != nil {
			return err
		}
		var last string
		for _, item := range page.Data {
			var err error
			if last, err = each(item); err != nil {
				return err
			}
		}
		if !page.HasMore {
			return nil
		}
		if last == "" {
			return errors.New("stripe: an empty page has a next one")
		}
		query.Set("starting_after", last)
	}
}
