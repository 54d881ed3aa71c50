package psp

import (
	"crypto/hmac"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/onceshop/onceshop/internal/payments"
)

// tolerance is how far the provider's clock and ours may be apart, either way.
const tolerance = 5 * time.Minute

// Receiver reads the provider's webhooks, as Standard Webhooks signs them.
type Receiver struct {
	secrets []string
	now     func() time.Time
}

// NewReceiver accepts any of the secrets, which white space separates: while a secret is rotated,
// the old one and the new one are both named.
func NewReceiver(secrets string, now func() time.Time) (*Receiver, error) {
	r := &Receiver{secrets: strings.Fields(secrets), now: now}
	for _, secret := range r.secrets {
		if _, err := secretKey(secret); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Read checks the signature and decodes the event. Its error is payments.ErrNotSigned.
func (r *Receiver) Read(header http.Header, body []byte) (payments.Event, error) {
	id := header.Get("webhook-id")
	seconds, err := strconv.ParseInt(header.Get("webhook-timestamp"), 10, 64)
	if id == "" || err != nil {
		return payments.Event{}, payments.ErrNotSigned
	}
	at := time.Unix(seconds, 0)
	if r.now().Sub(at).Abs() > tolerance || !r.signed(header.Get("webhook-signature"), id, at, body) {
		return payments.Event{}, payments.ErrNotSigned
	}
	return decodeEvent(id, body), nil
}

// signed compares every signature given with one by every secret, in constant time.
func (r *Receiver) signed(given, id string, at time.Time, body []byte) bool {
	found := false
	for _, secret := range r.secrets {
		want, err := Sign(secret, id, at, body)
		if err != nil {
			continue
		}
		for _, signature := range strings.Fields(given) {
			found = hmac.Equal([]byte(signature), []byte(want)) || found
		}
	}
	return found
}

// decodeEvent reads what the event is about. A signed event that cannot be understood has a reason
// instead.
func decodeEvent(id string, body []byte) payments.Event {
	event := payments.Event{ID: id, Payload: body}
	var message struct {
		Type string         `json:"type"`
		Data jsontext.Value `json:"data"`
	}
	lenient := json.JoinOptions(json.MatchCaseInsensitiveNames(true), jsontext.AllowInvalidUTF8(true))
	if err := json.Unmarshal(body, &message, lenient); err != nil {
		event.Unreadable = "the body is not an event: " + err.Error()
		return event
	}
	event.Type = message.Type
	var about any
	switch message.Type {
	case "capture.succeeded", "capture.declined":
		event.Capture = &payments.Capture{}
		about = event.Capture
	case "refund.succeeded", "refund.failed":
		event.Refund = &payments.ProviderRefund{}
		about = event.Refund
	case "dispute.opened", "dispute.closed":
		event.Dispute = &payments.Dispute{}
		about = event.Dispute
	default:
		return event
	}
	if err := json.Unmarshal(message.Data, about, lenient); err != nil {
		return payments.Event{ID: id, Type: event.Type, Payload: body,
			Unreadable: "its data cannot be read: " + err.Error()}
	}
	return event
}
