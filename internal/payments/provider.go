package payments

import (
	"context"
	"errors"
	"time"

	"github.com/onceshop/onceshop/internal/money"
)

// ErrRefused reports a request that the provider rejected: it did nothing and keeps nothing under
// the key. It is evidence about this request only. An earlier request under the same key can still
// be on its way. Every other error of a Provider leaves the outcome unknown.
var ErrRefused = errors.New("payments: the provider refused the request")

// Provider moves money. An implementation sends each call once and never retries by itself: whether
// to ask again, and under which key, is decided from the stored charge.
type Provider interface {
	// Name identifies the provider, its account and its mode. It is stored with each charge.
	Name() string
	// Capture takes the money for one charge under the request's key. A decline is a result, not an
	// error. The ID of the result is set as soon as the provider made it known, also beside an
	// error.
	Capture(ctx context.Context, r CaptureRequest) (Capture, error)
	// FindCapture returns what the provider holds for the charge. Its status is CaptureNone if the
	// provider never received the request, or received it and has not tried to take money.
	FindCapture(ctx context.Context, r CaptureRequest) (Capture, error)
	// CancelCapture makes sure that no money moves for the charge any more, whatever is still on
	// its way. It returns a canceled or declined capture, or the one that has happened.
	CancelCapture(ctx context.Context, r CaptureRequest) (Capture, error)
	// Refund gives back a part of a capture under the request's key; results and errors as for
	// Capture.
	Refund(ctx context.Context, r RefundRequest) (ProviderRefund, error)
	// FindRefunds returns all refunds of one capture.
	FindRefunds(ctx context.Context, captureID string) ([]ProviderRefund, error)
	// ListCaptures calls each for the captures that the provider made since the time, in any order,
	// and returns its first error.
	ListCaptures(ctx context.Context, since time.Time, each func(Capture) error) error
	// ListRefunds is ListCaptures for refunds.
	ListRefunds(ctx context.Context, since time.Time, each func(ProviderRefund) error) error
}

// CaptureRequest is what the provider is asked to take. Reference is the id of our charge, Amount
// is in minor units of Currency (ISO 4217). The buyer comes back to ReturnURL after an action.
type CaptureRequest struct {
	Reference     string `json:"reference"`
	OrderID       string `json:"order_id"`
	Amount        int64  `json:"amount"`
	Currency      string `json:"currency"`
	PaymentMethod string `json:"payment_method"`
	ReturnURL     string `json:"return_url,omitempty"`

	// Key is the idempotency key, and ID the provider's id of the capture, if it is known.
	Key string `json:"-"`
	ID  string `json:"-"`
}

// Money is what the capture is to move.
func (r CaptureRequest) Money() money.Money {
	return money.Money{Minor: r.Amount, Currency: r.Currency}
}

// Capture is what the provider made of a CaptureRequest.
type Capture struct {
	ID          string      `json:"id"`
	Reference   string      `json:"reference"`
	OrderID     string      `json:"order_id"`
	Status      string      `json:"status"`
	DeclineCode string      `json:"decline_code,omitempty"`
	NextAction  *NextAction `json:"next_action,omitempty"`
	Amount      int64       `json:"amount"`
	Currency    string      `json:"currency"`
	CreatedAt   time.Time   `json:"created_at"`
}

// Money is what the capture moved.
func (c Capture) Money() money.Money { return money.Money{Minor: c.Amount, Currency: c.Currency} }

// NextAction is what the buyer has to do before money can move: visit the URL.
type NextAction struct {
	Type string `json:"type"`
	URL  string `json:"url"`
}

// Statuses of a Capture.
const (
	// CaptureNone means that the provider holds nothing that has moved or could move money by
	// itself.
	CaptureNone = ""
	// CaptureRequiresAction means that the buyer has to act first. Not final.
	CaptureRequiresAction = "requires_action"
	CaptureSucceeded      = "succeeded"
	CaptureDeclined       = "declined"
	// CaptureCanceled means that we ended it: no money moved or will move.
	CaptureCanceled = "canceled"
)

// RefundRequest asks for Amount minor units of a capture back. Reference is the id of our refund.
type RefundRequest struct {
	CaptureID string `json:"capture_id"`
	Reference string `json:"reference"`
	Amount    int64  `json:"amount"`

	// Key is the idempotency key.
	Key string `json:"-"`
}

// ProviderRefund is a refund as the provider holds it. Reference is "" or the id of our refund.
type ProviderRefund struct {
	ID          string    `json:"id"`
	CaptureID   string    `json:"capture_id"`
	Reference   string    `json:"reference,omitempty"`
	Status      string    `json:"status"`
	FailureCode string    `json:"failure_code,omitempty"`
	Amount      int64     `json:"amount"`
	Currency    string    `json:"currency"`
	CreatedAt   time.Time `json:"created_at"`
}

// Money is what the refund gave back.
func (r ProviderRefund) Money() money.Money {
	return money.Money{Minor: r.Amount, Currency: r.Currency}
}

// Statuses of a ProviderRefund. A pending one succeeds or fails later, a succeeded one can still
// fail.
const (
	RefundPending   = "pending"
	RefundSucceeded = "succeeded"
	RefundFailed    = "failed"
)

// Dispute is a buyer's objection to a capture, raised at their bank.
type Dispute struct {
	ID        string    `json:"id"`
	CaptureID string    `json:"capture_id"`
	Status    string    `json:"status"`
	Amount    int64     `json:"amount"`
	Currency  string    `json:"currency"`
	CreatedAt time.Time `json:"created_at"`
}

// Statuses of a Dispute. When it is lost, the money of the capture has left.
const (
	DisputeOpen = "open"
	DisputeWon  = "won"
	DisputeLost = "lost"
)
