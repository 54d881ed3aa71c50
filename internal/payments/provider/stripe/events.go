package stripe

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	stripego "github.com/stripe/stripe-go/v85"
	"github.com/stripe/stripe-go/v85/webhook"

	"github.com/onceshop/onceshop/internal/payments"
)

// Receiver reads Stripe's webhooks.
type Receiver struct {
	secrets []string
	now     func() time.Time
}

// NewReceiver accepts any of the endpoint's signing secrets, which white space separates: while a
// secret is rotated, the old one and the new one are both named.
func NewReceiver(secrets string, now func() time.Time) (*Receiver, error) {
	r := &Receiver{secrets: strings.Fields(secrets), now: now}
	for _, secret := range r.secrets {
		if !strings.HasPrefix(secret, "whsec_") {
			return nil, errors.New("STRIPE_WEBHOOK_SECRET must be the endpoint's signing secret (whsec_…), or " +
				"several with spaces between them")
		}
	}
	return r, nil
}

// Read checks the signature and decodes the event, whatever API version it was made with, or
// returns payments.ErrNotSigned. Stripe sends many types of events: those that move no money of
// ours come back as Ignored.
func (r *Receiver) Read(header http.Header, body []byte) (payments.Event, error) {
	if !r.signed(header.Get("Stripe-Signature"), body) {
		return payments.Event{}, payments.ErrNotSigned
	}
	var message stripego.Event
	if err := json.Unmarshal(body, &message); err != nil {
		return payments.Event{}, fmt.Errorf("stripe: unreadable event: %w", err)
	}
	if message.ID == "" || message.Data == nil {
		return payments.Event{}, errors.New("stripe: a signed message without an id or an object is no event")
	}
	event := payments.Event{ID: message.ID, Type: string(message.Type), At: time.Unix(message.Created, 0).UTC(),
		Payload: body}
	return event, decode(message, &event)
}

// signed checks the time of the signature too, both ways: the library tells only when it is old.
func (r *Receiver) signed(signature string, body []byte) bool {
	at, ok := signedAt(signature)
	if !ok || r.now().Sub(at).Abs() > tolerance {
		return false
	}
	for _, secret := range r.secrets {
		if webhook.ValidatePayloadIgnoringTolerance(body, signature, secret) == nil {
			return true
		}
	}
	return false
}

// signedAt returns the one time that a signature names. With two, it could be another than the one
// that was signed.
func signedAt(signature string) (at time.Time, ok bool) {
	for part := range strings.SplitSeq(signature, ",") {
		value, isTime := strings.CutPrefix(part, "t=")
		if !isTime {
			continue
		}
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || ok {
			return time.Time{}, false
		}
		at, ok = time.Unix(seconds, 0), true
	}
	return at, ok
}

// decode fills in what the event is about. charge.refunded is ignored because it does not name the
// refund; refund.created, which Stripe sends with it, does. A refund that fails after it had
// succeeded stays without an object, so that it is quarantined: the money is back with us and only
// a person can find another way to the buyer.
func decode(message stripego.Event, event *payments.Event) error {
	switch message.Type {
	case stripego.EventTypePaymentIntentSucceeded, stripego.EventTypePaymentIntentPaymentFailed,
		stripego.EventTypePaymentIntentCanceled:
		var intent stripego.PaymentIntent
		if err := json.Unmarshal(message.Data.Raw, &intent); err != nil {
			return fmt.Errorf("stripe: unreadable PaymentIntent in event %s: %w", message.ID, err)
		}
		capture, err := captureOf(&intent)
		event.Capture, event.Ignored = &capture, err != nil
	case stripego.EventTypeRefundCreated, stripego.EventTypeRefundUpdated:
		var refund stripego.Refund
		if err := json.Unmarshal(message.Data.Raw, &refund); err != nil {
			return fmt.Errorf("stripe: unreadable refund in event %s: %w", message.ID, err)
		}
		given := refundOf(&refund)
		event.Refund, event.Ignored = &given, refund.Status != stripego.RefundStatusSucceeded
	case stripego.EventTypeRefundFailed:
	default:
		event.Ignored = true
	}
	return nil
}
