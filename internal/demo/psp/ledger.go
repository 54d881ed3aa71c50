package psp

import (
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
)

// ledger is the provider's memory. Every change is an entry, written to the log first and
// applied then; a restart applies the log's entries again.
type ledger struct {
	keyTTL time.Duration

	// mu is held from the look at a key until its effect is on disk: that is why one key has one
	// effect, and why a cancel and a capture of the same reference exclude each other.
	mu       sync.Mutex
	log      *appendLog // nil: memory only
	keys     map[string]*keyRecord
	captures table[capture]
	refunds  table[refund]
	disputes table[dispute]
	closed   map[string]string // canceled reference to the capture that it is answered with
	gone     map[string]int64  // capture id to what refunds and a lost dispute took of it
}

// keyRecord is what the provider remembers of an idempotency key.
type keyRecord struct {
	fingerprint string
	firstTry    time.Time
	object      string // id of what the key is answered with; empty: the key has only seen its fault
}

// entry is one line of the log. Its Type is one of:
//
//   - capture, refund, dispute: the object is new or has a new state; a canceled capture closes its
//     reference, so that no money moves under it any more;
//   - cancel: the reference of the capture Object is closed, and answered with it;
//   - answer: Key is answered with Object, which does not change;
//   - fault: the first try of Key failed before it had an effect;
//   - delivered: the receiver has accepted the event EventID.
type entry struct {
	Type        string    `json:"type"`
	At          time.Time `json:"at"`
	Key         string    `json:"key,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"`
	Capture     *capture  `json:"capture,omitempty"`
	Refund      *refund   `json:"refund,omitempty"`
	Dispute     *dispute  `json:"dispute,omitempty"`
	Object      string    `json:"object,omitempty"`
	EventID     string    `json:"event_id,omitempty"`
}

// openLedger rebuilds the memory from the log at path and returns the events without a logged
// delivery, oldest first; an empty path keeps no log.
func openLedger(path string, keyTTL time.Duration, logger *slog.Logger) (*ledger, []event, error) {
	l := &ledger{
		keyTTL: keyTTL,
		keys:   map[string]*keyRecord{},
		closed: map[string]string{},
		gone:   map[string]int64{},
	}
	if path == "" {
		return l, nil, nil
	}
	var events []event
	delivered := map[string]bool{}
	var err error
	l.log, err = openLog(path, logger, func(line []byte) error {
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		if e.Refund != nil && e.Refund.Status == "" {
			e.Refund.Status = succeeded // in older logs refunds had no other state
		}
		if err := l.apply(e); err != nil {
			return err
		}
		if e.Type == "delivered" {
			delivered[e.EventID] = true
		}
		if about, ok := l.eventOf(e); ok {
			events = append(events, about)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	var undelivered []event
	for _, e := range events {
		if !delivered[e.id] {
			undelivered = append(undelivered, e)
		}
	}
	return l, undelivered, nil
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
		l.captures.put(e.Capture.ID, *e.Capture)
		if e.Capture.Status == canceled {
			l.closed[e.Capture.Reference] = e.Capture.ID
		}
		l.remember(e, e.Capture.ID)
	case e.Type == "cancel":
		c, ok := l.captures.get(e.Object)
		if !ok {
			return fmt.Errorf("psp: the log cancels the unknown capture %q", e.Object)
		}
		l.closed[c.Reference] = c.ID
		l.remember(e, c.ID)
	case e.Type == "refund" && e.Refund != nil:
		before := l.refunds.put(e.Refund.ID, *e.Refund)
		l.gone[e.Refund.CaptureID] += e.Refund.holds() - before.holds()
		l.remember(e, e.Refund.ID)
	case e.Type == "dispute" && e.Dispute != nil:
		before := l.disputes.put(e.Dispute.ID, *e.Dispute)
		l.gone[e.Dispute.CaptureID] += e.Dispute.took() - before.took()
		l.remember(e, e.Dispute.ID)
	case e.Type == "answer":
		l.remember(e, e.Object)
	case e.Type == "fault":
		l.remember(e, "")
	case e.Type == "delivered":
	default:
		return fmt.Errorf("psp: unknown log entry of type %q", e.Type)
	}
	return nil
}

// remember notes that the key of e, if it has one, is answered with object. A key's life counts
// from its first try.
func (l *ledger) remember(e entry, object string) {
	if e.Key == "" {
		return
	}
	rec := l.keys[e.Key]
	if rec == nil || l.forgotten(rec, e.At) {
		rec = &keyRecord{fingerprint: e.Fingerprint, firstTry: e.At}
		l.keys[e.Key] = rec
	}
	rec.object = object
}

// markDelivered records that the receiver accepted an event, so that a restart does not send it
// again.
func (l *ledger) markDelivered(eventID string, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.commit(entry{Type: "delivered", At: now, EventID: eventID})
}

func (l *ledger) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.log == nil {
		return nil
	}
	return l.log.close()
}
