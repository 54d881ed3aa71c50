package payments

import (
	"context"
	"errors"
	"time"

	"github.com/onceshop/onceshop/internal/money"
)

// ErrRefused reports a request that the provider rejected for good: no money moved and
// none will move under its key. Every other error of a Provider leaves the outcome unknown.
var ErrRefused = errors.New("payments: the provider refused the request")

// Provider moves money. An implementation sends each call once and never retries by
// itself: whether to ask again, and under which key, is decided from the stored charge.
type Provider interface {
	// Capture takes the money for one charge under an idempotency key. A decline is a
	// result, not an error. An error that is not ErrRefused means the outcome is unknown.
	Capture(ctx context.Context, key string, r CaptureRequest) (Capture, error)
	// FindCaptures returns what the provider holds for a charge: empty means that it never saw it.
	FindCaptures(ctx context.Context, reference string) ([]Capture, error)
	// Refund gives back a part of a capture under an idempotency key; errors as for Capture.
	Refund(ctx context.Context, key string, r RefundRequest) (ProviderRefund, error)
	// FindRefunds returns the refunds of one capture.
	FindRefunds(ctx context.Context, captureID string) ([]ProviderRefund, error)
}

// CaptureRequest is what the provider is asked to take. Reference is the id of our charge,
// Amount is in minor units of Currency (ISO 4217).
type CaptureRequest struct {
	Reference     string `json:"reference"`
	OrderID       string `json:"order_id"`
	Amount        int64  `json:"amount"`
	Currency      string `json:"currency"`
	PaymentMethod string `json:"payment_method"`
}

// Capture is what the provider says happened: Status is CaptureSucceeded or CaptureDeclined.
type Capture struct {
	ID          string    `json:"id"`
	Reference   string    `json:"reference"`
	OrderID     string    `json:"order_id"`
	Status      string    `json:"status"`
	DeclineCode string    `json:"decline_code,omitempty"`
	Amount      int64     `json:"amount"`
	Currency    string    `json:"currency"`
	CreatedAt   time.Time `json:"created_at"`
}

// Money is what the capture moved.
func (c Capture) Money() money.Money { return money.Money{Minor: c.Amount, Currency: c.Currency} }

// Money is what the capture is to move.
func (r CaptureRequest) Money() money.Money {
	return money.Money{Minor: r.Amount, Currency: r.Currency}
}

// The two final states of a Capture.
const (
	CaptureSucceeded = "succeeded"
	CaptureDeclined  = "declined"
)

// RefundRequest asks for Amount minor units of a capture back.
type RefundRequest struct {
	CaptureID string `json:"capture_id"`
	Amount    int64  `json:"amount"`
}

// ProviderRefund is a refund as the provider holds it.
type ProviderRefund struct {
	ID        string    `json:"id"`
	CaptureID string    `json:"capture_id"`
	Amount    int64     `json:"amount"`
	Currency  string    `json:"currency"`
	CreatedAt time.Time `json:"created_at"`
}

// Money is what the refund gave back.
func (r ProviderRefund) Money() money.Money {
	return money.Money{Minor: r.Amount, Currency: r.Currency}
}
