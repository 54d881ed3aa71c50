package psp

import (
	"crypto/hmac"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

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

// Read checks the signature and decodes the event. What the provider cannot have meant is
// payments.ErrNotSigned too.
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
	return decodeEvent(id, body)
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

func decodeEvent(id string, body []byte) (payments.Event, error) {
	var message struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
	}
	if err := json.Unmarshal(body, &message); err != nil {
		return payments.Event{}, payments.ErrNotSigned
	}
	event := payments.Event{ID: id, Type: message.Type, At: message.Timestamp, Payload: body}
	var err error
	switch message.Type {
	case "capture.succeeded", "capture.declined":
		var about struct{ Data payments.Capture }
		err = json.Unmarshal(body, &about, json.MatchCaseInsensitiveNames(true))
		event.Capture = &about.Data
	case "refund.succeeded":
		var about struct{ Data payments.ProviderRefund }
		err = json.Unmarshal(body, &about, json.MatchCaseInsensitiveNames(true))
		event.Refund = &about.Data
	}
	if err != nil {
		return payments.Event{}, fmt.Errorf("%w: %w", payments.ErrNotSigned, err)
	}
	return event, nil
}
