package stripe

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"

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
	query := url.Values{"payment_intent": {captureID}, "limit": {strconv.Itoa(pageSize)}}
	for {
		var page list[refund]
		if err := page.check("list", c.get(ctx, "/v1/refunds", query, &page)); err != nil {
			return nil, err
		}
		for _, item := range page.Data {
			given, err := refundOf(item)
			if err != nil {
				return nil, err
			}
			if given.CaptureID != captureID {
				return nil, fmt.Errorf("stripe: the answer is not the list of refunds of %s", captureID)
			}
			found = append(found, given)
		}
		if !page.HasMore {
			return found, nil
		}
		if len(page.Data) == 0 {
			return nil, errors.New("stripe: an empty page has a next one")
		}
		query.Set("starting_after", found[len(found)-1].ID)
	}
}
