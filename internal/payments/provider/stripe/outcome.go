package stripe

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	stripego "github.com/stripe/stripe-go/v85"

	"github.com/onceshop/onceshop/internal/payments"
)

// captureOf reads the outcome of a PaymentIntent, or returns an error while it is open. An intent
// that waits for a payment method has been declined only if an error says so: it also waits before
// it is confirmed.
func captureOf(intent *stripego.PaymentIntent) (payments.Capture, error) {
	capture := payments.Capture{ID: intent.ID, Reference: intent.Metadata[metaReference],
		OrderID: intent.Metadata[metaOrder],
		Status:  payments.CaptureDeclined, Amount: intent.Amount, Currency: strings.ToUpper(string(intent.Currency)),
		CreatedAt: time.Unix(intent.Created, 0).UTC()}
	switch {
	case intent.Status == stripego.PaymentIntentStatusSucceeded:
		capture.Status, capture.Amount = payments.CaptureSucceeded, intent.AmountReceived
	case intent.Status == stripego.PaymentIntentStatusRequiresPaymentMethod && intent.LastPaymentError != nil:
		why := intent.LastPaymentError
		capture.DeclineCode = cmp.Or(string(why.DeclineCode), string(why.Code), "declined")
	case intent.Status == stripego.PaymentIntentStatusCanceled:
		capture.DeclineCode = "canceled"
	default:
		return capture, fmt.Errorf("stripe: PaymentIntent %s is %q, which is not final", intent.ID, intent.Status)
	}
	return capture, nil
}

func refundOf(refund *stripego.Refund) payments.ProviderRefund {
	got := payments.ProviderRefund{ID: refund.ID, Amount: refund.Amount,
		Currency: strings.ToUpper(string(refund.Currency)), CreatedAt: time.Unix(refund.Created, 0).UTC()}
	if refund.PaymentIntent != nil {
		got.CaptureID = refund.PaymentIntent.ID
	}
	return got
}

// failure is the error of a call that has no result. It keeps Stripe's codes and request id, which
// lead to the whole story in the dashboard, and nothing of the answer's text, which may hold a part
// of the key or the client secret of a PaymentIntent.
func failure(err error) error {
	var answer *stripego.Error
	if !errors.As(err, &answer) {
		var network net.Error
		if errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("stripe: no whole answer: %w", err)
		}
		return errors.New("stripe: unreadable answer")
	}
	what := fmt.Sprintf("stripe answered %d %s (code %q, parameter %q, request %s)", answer.HTTPStatusCode,
		answer.Type, answer.Code, answer.Param, answer.RequestID)
	switch {
	case refused(answer):
		return fmt.Errorf("%w: %s", payments.ErrRefused, what)
	case answer.HTTPStatusCode == http.StatusUnauthorized || answer.HTTPStatusCode == http.StatusForbidden:
		return fmt.Errorf("STRIPE_SECRET_KEY is not valid or may not do this: %s", what)
	default:
		return errors.New(what)
	}
}

// refused reports whether Stripe rejected the request for good. It has not while another request
// holds the key or a lock, and a key that was used with other parameters may have moved money with
// them.
func refused(answer *stripego.Error) bool {
	if answer.Type != stripego.ErrorTypeInvalidRequest || answer.Code == stripego.ErrorCodeLockTimeout ||
		answer.Code == stripego.ErrorCodeIdempotencyKeyInUse {
		return false
	}
	return answer.HTTPStatusCode == http.StatusNotFound || answer.HTTPStatusCode == http.StatusBadRequest &&
		(answer.Param != "" || answer.Code != "")
}
