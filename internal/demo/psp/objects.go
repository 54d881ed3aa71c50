package psp

import "time"

// captureRequest is the body of POST /v1/captures. Amount is in minor units of Currency (ISO 4217).
type captureRequest struct {
	Reference     string `json:"reference"`
	OrderID       string `json:"order_id"`
	Amount        int64  `json:"amount"`
	Currency      string `json:"currency"`
	PaymentMethod string `json:"payment_method"`
	// ReturnURL is where the buyer goes from the page of pm_requires_action.
	ReturnURL string `json:"return_url,omitempty"`
}

// capture is a capture as the log keeps it. The API and the events show it without ReturnURL; the
// API adds NextAction.
type capture struct {
	ID            string      `json:"id"`
	Reference     string      `json:"reference"`
	OrderID       string      `json:"order_id"`
	Status        string      `json:"status"`
	DeclineCode   string      `json:"decline_code,omitempty"`
	Amount        int64       `json:"amount"`
	Currency      string      `json:"currency"`
	NextAction    *nextAction `json:"next_action,omitempty"`
	CreatedAt     time.Time   `json:"created_at"`
	PaymentMethod string      `json:"payment_method"`
	ReturnURL     string      `json:"return_url,omitempty"`
}

// nextAction sends the buyer of a capture that requires action to the provider's page.
type nextAction struct {
	Type string `json:"type"` // always redirect
	URL  string `json:"url"`
}

// The states of a capture. Only requiresAction changes, into any of the others.
const (
	succeeded      = "succeeded" // of refunds too
	declined       = "declined"
	requiresAction = "requires_action"
	canceled       = "canceled"
)

// refundRequest is the body of POST /v1/refunds.
type refundRequest struct {
	CaptureID string `json:"capture_id"`
	Amount    int64  `json:"amount"`
	Reference string `json:"reference,omitempty"`
}

// refund is a refund as the provider answers, lists, logs and announces it.
type refund struct {
	ID          string    `json:"id"`
	CaptureID   string    `json:"capture_id"`
	Reference   string    `json:"reference,omitempty"`
	Status      string    `json:"status"`
	FailureCode string    `json:"failure_code,omitempty"`
	Amount      int64     `json:"amount"`
	Currency    string    `json:"currency"`
	CreatedAt   time.Time `json:"created_at"`
}

// The states of a refund are succeeded and these. Only pending changes.
const (
	pending = "pending"
	failed  = "failed"
)

// dispute is a dispute as the provider answers, lists, logs and announces it.
type dispute struct {
	ID        string    `json:"id"`
	CaptureID string    `json:"capture_id"`
	Reference string    `json:"reference"`
	OrderID   string    `json:"order_id"`
	Status    string    `json:"status"`
	Amount    int64     `json:"amount"`
	Currency  string    `json:"currency"`
	CreatedAt time.Time `json:"created_at"`
}

// The states of a dispute. Only open changes.
const (
	open = "open"
	won  = "won"
	lost = "lost"
)

// timestamp is at as objects and events show it.
func timestamp(at time.Time) time.Time { return at.UTC().Truncate(time.Millisecond) }
