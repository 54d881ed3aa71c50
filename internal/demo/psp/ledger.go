package psp

import (
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/onceshop/onceshop/internal/payments"
)

// ledger is the provider's memory. Every change is an entry, written to the log first and
// applied then; a restart applies the log's entries again.
type ledger struct {
	keyTTL time.Duration

	// mu is held from the look at a key until its effect is on disk: that is why one key has one
	// effect.
	mu        sync.Mutex
	log       *appendLog // nil: memory only
	keys      map[string]*keyRecord
	captures  []*capture // oldest first
	byID      map[string]*capture
	refunds   []*payments.ProviderRefund // oldest first
	refunded  map[string]int64           // capture id to the sum of its refunds
	delivered map[string]bool            // event ids that a receiver has accepted
}

// keyRecord is what the provider remembers of an idempotency key. With neither capture nor
// refund the key has only seen its fault.
type keyRecord struct {
	fingerprint string
	firstTry    time.Time
	capture     *capture
	refund      *payments.ProviderRefund
}

// entry is one line of the log.
type entry struct {
	Type        string                   `json:"type"` // capture, refund, fault or delivered
	At          time.Time                `json:"at"`
	Key         string                   `json:"key,omitempty"`
	Fingerprint string                   `json:"fingerprint,omitempty"`
	Capture     *capture                 `json:"capture,omitempty"`
	Refund      *payments.ProviderRefund `json:"refund,omitempty"`
	EventID     string                   `json:"event_id,omitempty"`
}

// openLedger rebuilds the memory from the log at path; an empty path keeps none.
func openLedger(path string, keyTTL time.Duration, logger *slog.Logger) (*ledger, error) {
	l := &ledger{
		keyTTL:    keyTTL,
		keys:      map[string]*keyRecord{},
		byID:      map[string]*capture{},
		refunded:  map[string]int64{},
		delivered: map[string]bool{},
	}
	if path == "" {
		return l, nil
	}
	var err error
	l.log, err = openLog(path, logger, func(line []byte) error {
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		return l.apply(e)
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// lookup returns what is known of a key: nil for one never seen or forgotten, a 422 for one
// that was used with another meaning. The caller holds mu.
func (l *ledger) lookup(key, meaning string, now time.Time) (*keyRecord, error) {
	rec := l.keys[key]
	if rec == nil || l.forgotten(rec, now) {
		return nil, nil
	}
	if rec.fingerprint != meaning {
		return nil, newProblem(http.StatusUnprocessableEntity, "idempotency_key_reused",
			"this Idempotency-Key was used with another request")
	}
	return rec, nil
}

func (l *ledger) forgotten(rec *keyRecord, now time.Time) bool {
	return !now.Before(rec.firstTry.Add(l.keyTTL))
}

// commit logs e and then makes it part of the memory. All but deliveries are on disk before it
// returns; a lost delivery costs one more of the same event. The caller holds mu.
func (l *ledger) commit(e entry) error {
	if l.log != nil {
		line, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("psp: encode a log entry: %w", err)
		}
		if err := l.log.append(line, e.Type != "delivered"); err != nil {
			return err
		}
	}
	return l.apply(e)
}

func (l *ledger) apply(e entry) error {
	switch {
	case e.Type == "capture" && e.Capture != nil:
		l.remember(e).capture = e.Capture
		l.captures = append(l.captures, e.Capture)
		l.byID[e.Capture.ID] = e.Capture
	case e.Type == "refund" && e.Refund != nil:
		l.remember(e).refund = e.Refund
		l.refunds = append(l.refunds, e.Refund)
		l.refunded[e.Refund.CaptureID] += e.Refund.Amount
	case e.Type == "fault":
		l.remember(e)
	case e.Type == "delivered":
		l.delivered[e.EventID] = true
	default:
		return fmt.Errorf("psp: unknown log entry of type %q", e.Type)
	}
	return nil
}

// remember returns the record of e's key; its life counts from the first try.
func (l *ledger) remember(e entry) *keyRecord {
	rec := l.keys[e.Key]
	if rec == nil || l.forgotten(rec, e.At) {
		rec = &keyRecord{fingerprint: e.Fingerprint, firstTry: e.At}
		l.keys[e.Key] = rec
	}
	return rec
}

// markDelivered records that the receiver accepted an event, so that a restart does not send it
// again.
func (l *ledger) markDelivered(eventID string, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.commit(entry{Type: "delivered", At: now, EventID: eventID})
}

func (l *ledger) isDelivered(eventID string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.delivered[eventID]
}

func (l *ledger) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.log == nil {
		return nil
	}
	return l.log.close()
}
