package stripe

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/onceshop/onceshop/internal/payments"
)

// tolerance is how far Stripe's clock and ours may be apart, either way.
const tolerance = 5 * time.Minute

// Receiver reads Stripe's webhooks.
type Receiver struct {
	secrets []string
	live    bool
	now     func() time.Time
}

// NewReceiver returns a receiver for events of the mode of the client's key. It accepts any of the
// endpoint's signing secrets, which white space separates: while a secret is rotated, the old one
// and the new one are both named.
func (c *Client) NewReceiver(secrets string, now func() time.Time) (*Receiver, error) {
	r := &Receiver{secrets: strings.Fields(secrets), live: c.mode() == "live", now: now}
	for _, secret := range r.secrets {
		if !strings.HasPrefix(secret, "whsec_") {
			return nil, errors.New("STRIPE_WEBHOOK_SECRET must be the endpoint's signing secret (whsec_…), or " +
				"several with spaces between them")
		}
	}
	return r, nil
}

// Read checks the signature and decodes the event, whatever API version it was made with. Its error
// is payments.ErrNotSigned.
func (r *Receiver) Read(header http.Header, body []byte) (payments.Event, error) {
	if !r.signed(header.Get("Stripe-Signature"), body) {
		return payments.Event{}, payments.ErrNotSigned
	}
	return r.decode(body), nil
}

// signed checks that a signature names one time, which is near, and that it has a v1 scheme of the
// time and the body by one of the secrets.
func (r *Receiver) signed(signature string, body []byte) bool {
	at := ""
	var given [][]byte
	for part := range strings.SplitSeq(signature, ",") {
		name, value, _ := strings.Cut(part, "=")
		switch name {
		case "t":
			if at != "" {
				return false
			}
			at = value
		case "v1":
			if mac, err := hex.DecodeString(value); err == nil {
				given = append(given, mac)
			}
		}
	}
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil || r.now().Sub(time.Unix(seconds, 0)).Abs() > tolerance {
		return false
	}
	found := false
	for _, secret := range r.secrets {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(at + "."))
		mac.Write(body)
		want := mac.Sum(nil)
		for _, signature := range given {
			found = hmac.Equal(signature, want) || found
		}
	}
	return found
}

// eventType is what the types of events look like.
var eventType = regexp.MustCompile(`^[a-z0-9_.]{1,255}$`)

// decode reads what the event is about. A signed event that cannot be understood has a reason
// instead.
func (r *Receiver) decode(body []byte) payments.Event {
	var message struct {
		ID   string `json:"id"`
		Type string `json:"type"`
		Live bool   `json:"livemode"`
		Data struct {
			Object json.RawMessage `json:"object"`
		} `json:"data"`
	}
	err := json.Unmarshal(body, &message)
	if err != nil || !word.MatchString(message.ID) || !eventType.MatchString(message.Type) {
		sum := sha256.Sum256(body) // the same for each delivery
		return payments.Event{ID: "unreadable_" + hex.EncodeToString(sum[:]), Type: "unreadable", Payload: body,
			Unreadable: "the body is not an event"}
	}
	event := payments.Event{ID: message.ID, Type: message.Type, Payload: body}
	if message.Live != r.live {
		event.Unreadable = "wrong mode: the event and STRIPE_SECRET_KEY are not both of the test or the live mode"
		return event
	}
	if err := fill(&event, message.Data.Object); err != nil {
		event.Unreadable = err.Error()
	}
	return event
}

// fill sets what the event is about. charge.refunded and charge.refund.updated are ignored: the
// refund.… events of the same changes name the refund. An object without a PaymentIntent, or whose
// PaymentIntent is not ours, belongs to another user of the account.
func fill(event *payments.Event, object json.RawMessage) error {
	switch event.Type {
	case "payment_intent.succeeded", "payment_intent.payment_failed", "payment_intent.canceled":
		var about intent
		if err := json.Unmarshal(object, &about); err != nil {
			return err
		}
		if event.Ignored = !about.ours() && about.Object == "payment_intent"; event.Ignored {
			return nil
		}
		capture, err := captureOf(about)
		if err == nil && (capture.Status == payments.CaptureNone || capture.Status == payments.CaptureRequiresAction) {
			err = errors.New("stripe: the PaymentIntent is " + about.Status + ", the event is about an outcome")
		}
		if err != nil {
			return err
		}
		event.Capture = &capture
	case "refund.created", "refund.updated", "refund.failed":
		var about refund
		if err := json.Unmarshal(object, &about); err != nil {
			return err
		}
		if event.Ignored = about.Intent == "" && about.Object == "refund"; event.Ignored {
			return nil
		}
		given, err := refundOf(about)
		if err != nil {
			return err
		}
		event.Refund, event.Shared = &given, given.Reference == ""
	case "charge.dispute.created", "charge.dispute.updated", "charge.dispute.closed",
		"charge.dispute.funds_withdrawn", "charge.dispute.funds_reinstated":
		var about dispute
		if err := json.Unmarshal(object, &about); err != nil {
			return err
		}
		if event.Ignored = about.Intent == "" && about.Object == "dispute"; event.Ignored {
			return nil
		}
		opened, err := disputeOf(about)
		if err != nil {
			return err
		}
		event.Dispute, event.Shared = &opened, true
	default:
		event.Ignored = true
	}
	return nil
}
