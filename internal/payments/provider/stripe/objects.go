package stripe

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/payments"
)

// Statuses of a PaymentIntent.
const (
	intentRequiresMethod       = "requires_payment_method"
	intentRequiresConfirmation = "requires_confirmation"
	intentRequiresAction       = "requires_action"
	intentSucceeded            = "succeeded"
	intentCanceled             = "canceled"
)

// intent is what the client reads of a PaymentIntent.
type intent struct {
	ID             string `json:"id"`
	Object         string `json:"object"`
	Status         string `json:"status"`
	Amount         int64  `json:"amount"`
	AmountReceived int64  `json:"amount_received"`
	Currency       string `json:"currency"`
	Created        int64  `json:"created"`
	Metadata       struct {
		Reference string `json:"reference"`
		OrderID   string `json:"order_id"`
	} `json:"metadata"`
	LastError *struct {
		Code        string `json:"code"`
		DeclineCode string `json:"decline_code"`
	} `json:"last_payment_error"`
	NextAction *struct {
		Type     string `json:"type"`
		Redirect struct {
			URL string `json:"url"`
		} `json:"redirect_to_url"`
	} `json:"next_action"`
}

// ours reports whether the shop made the intent. Others may use the same account.
func (i intent) ours() bool { return isUUID(i.Metadata.Reference) && isUUID(i.Metadata.OrderID) }

// unconfirmed reports whether no payment was tried. An intent also goes back to waiting for a
// payment method after a decline, but then it has an error.
func (i intent) unconfirmed() bool {
	return i.Status == intentRequiresConfirmation || i.Status == intentRequiresMethod && i.LastError == nil
}

// word is what the ids and codes of Stripe look like.
var word = regexp.MustCompile(`^[A-Za-z0-9_]{1,255}$`)

// captureOf returns an error for an intent whose outcome is open, such as one that is processing.
func captureOf(i intent) (payments.Capture, error) {
	at, err := timeOf(i.Created)
	if err != nil || i.Object != "payment_intent" || !word.MatchString(i.ID) {
		return payments.Capture{}, errors.New("stripe: the object is not a PaymentIntent")
	}
	capture := payments.Capture{ID: i.ID, Reference: i.Metadata.Reference, OrderID: i.Metadata.OrderID,
		Amount: i.Amount, Currency: strings.ToUpper(i.Currency), CreatedAt: at}
	if i.LastError != nil {
		capture.DeclineCode = code(cmp.Or(i.LastError.DeclineCode, i.LastError.Code), "declined")
	}
	switch {
	case i.unconfirmed():
		capture.Status = payments.CaptureNone
	case i.Status == intentRequiresMethod:
		capture.Status = payments.CaptureDeclined
	case i.Status == intentSucceeded:
		capture.Status, capture.Amount, capture.DeclineCode = payments.CaptureSucceeded, i.AmountReceived, ""
	case i.Status == intentCanceled:
		capture.Status = payments.CaptureCanceled
	case i.Status == intentRequiresAction && i.NextAction != nil && i.NextAction.Type == "redirect_to_url" &&
		isHTTPS(i.NextAction.Redirect.URL):
		capture.Status, capture.DeclineCode = payments.CaptureRequiresAction, ""
		capture.NextAction = &payments.NextAction{Type: "redirect", URL: i.NextAction.Redirect.URL}
	default:
		return capture, fmt.Errorf("stripe: the outcome of PaymentIntent %s is open: %q", i.ID, i.Status)
	}
	return capture, nil
}

// refund is what the client reads of a Refund.
type refund struct {
	ID            string `json:"id"`
	Object        string `json:"object"`
	Intent        string `json:"payment_intent"`
	Status        string `json:"status"`
	FailureReason string `json:"failure_reason"`
	Amount        int64  `json:"amount"`
	Currency      string `json:"currency"`
	Created       int64  `json:"created"`
	Metadata      struct {
		RefundID string `json:"refund_id"`
	} `json:"metadata"`
}

func refundOf(r refund) (payments.ProviderRefund, error) {
	at, err := timeOf(r.Created)
	if err != nil || r.Object != "refund" || !word.MatchString(r.ID) || !word.MatchString(r.Intent) {
		return payments.ProviderRefund{}, errors.New("stripe: the object is not a refund of a PaymentIntent")
	}
	given := payments.ProviderRefund{ID: r.ID, CaptureID: r.Intent, Amount: r.Amount,
		Currency: strings.ToUpper(r.Currency), CreatedAt: at}
	if isUUID(r.Metadata.RefundID) {
		given.Reference = r.Metadata.RefundID
	}
	switch r.Status {
	case "pending", "requires_action":
		given.Status = payments.RefundPending
	case "succeeded":
		given.Status = payments.RefundSucceeded
	case "failed", "canceled":
		given.Status, given.FailureCode = payments.RefundFailed, code(r.FailureReason, r.Status)
	default:
		return given, fmt.Errorf("stripe: refund %s has the unknown status %q", r.ID, r.Status)
	}
	return given, nil
}

// dispute is what the client reads of a Dispute.
type dispute struct {
	ID       string `json:"id"`
	Object   string `json:"object"`
	Intent   string `json:"payment_intent"`
	Status   string `json:"status"`
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
	Created  int64  `json:"created"`
}

// disputeOf counts an inquiry (warning_…) as a dispute. One that is closed has taken no money.
func disputeOf(d dispute) (payments.Dispute, error) {
	at, err := timeOf(d.Created)
	if err != nil || d.Object != "dispute" || !word.MatchString(d.ID) || !word.MatchString(d.Intent) {
		return payments.Dispute{}, errors.New("stripe: the object is not a dispute of a PaymentIntent")
	}
	opened := payments.Dispute{ID: d.ID, CaptureID: d.Intent, Amount: d.Amount, Currency: strings.ToUpper(d.Currency),
		CreatedAt: at}
	switch d.Status {
	case "needs_response", "under_review", "warning_needs_response", "warning_under_review":
		opened.Status = payments.DisputeOpen
	case "won", "warning_closed":
		opened.Status = payments.DisputeWon
	case "lost":
		opened.Status = payments.DisputeLost
	default:
		return opened, fmt.Errorf("stripe: dispute %s has the unknown status %q", d.ID, d.Status)
	}
	return opened, nil
}

// code returns the first of the codes that is one.
func code(given, otherwise string) string {
	if word.MatchString(given) {
		return given
	}
	return otherwise
}

// timeOf rejects times that JSON cannot hold.
func timeOf(seconds int64) (time.Time, error) {
	at := time.Unix(seconds, 0).UTC()
	if seconds <= 0 || at.Year() > 9999 {
		return at, fmt.Errorf("stripe: %d is not a time", seconds)
	}
	return at, nil
}

func isUUID(s string) bool { return uuid.Validate(s) == nil }

func isHTTPS(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Scheme == "https" && u.Host != ""
}
