package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrNoLetter reports a dead letter that is not there: it never was, was retried already, or is too old.
var ErrNoLetter = errors.New("outbox: no such dead letter")

// Letters are the shop's dead letters, for operators.
type Letters struct{ js jetstream.JetStream }

// NewLetters needs only the broker: its streams may not be there yet.
func NewLetters(js jetstream.JetStream) *Letters { return &Letters{js: js} }

// Letter is an event that a consumer gave up on.
type Letter struct {
	// Seq is the letter's number among the dead letters, EventSeq the event's in its stream.
	Seq, EventSeq uint64
	At            time.Time
	Consumer      string
	// Reason is the last error of the consumer.
	Reason string
	// Event is zero if it cannot be read: that may be the reason.
	Event Event

	subject string
	data    []byte
}

// List returns up to limit letters, newest first, with numbers below before, or with 0 the newest, and whether there are more.
func (l *Letters) List(ctx context.Context, before uint64, limit int) (letters []Letter, more bool, err error) {
	stream, err := l.js.Stream(ctx, DeadStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("open the dead letters: %w", err)
	}
	info, err := stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return nil, false, fmt.Errorf("look at the dead letters: %w", err)
	}
	last := info.State.LastSeq
	if before > 0 {
		last = min(last, before-1)
	}
	for seq := last; seq > 0 && seq >= info.State.FirstSeq; seq-- {
		if slices.Contains(info.State.Deleted, seq) {
			continue
		}
		if len(letters) == limit {
			return letters, true, nil
		}
		letter, err := read(ctx, stream, seq)
		if errors.Is(err, ErrNoLetter) {
			continue
		}
		if err != nil {
			return nil, false, err
		}
		letters = append(letters, letter)
	}
	return letters, false, nil
}

// Retry hands the event of a letter out again, to all consumers of its type, and takes the letter away. Each of them guards
// its own effect. A retry of the same letter meanwhile carries the same message id, so a double click retries once.
func (l *Letters) Retry(ctx context.Context, seq uint64) (Letter, error) {
	stream, err := l.js.Stream(ctx, DeadStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return Letter{}, ErrNoLetter
	}
	if err != nil {
		return Letter{}, fmt.Errorf("open the dead letters: %w", err)
	}
	letter, err := read(ctx, stream, seq)
	if err != nil {
		return Letter{}, err
	}
	message := &nats.Msg{Subject: letter.subject, Data: letter.data}
	id := "retry." + strconv.FormatUint(seq, 10)
	if _, err := l.js.PublishMsg(ctx, message, jetstream.WithMsgID(id), jetstream.WithExpectStream(EventStream)); err != nil {
		return letter, fmt.Errorf("publish the event of dead letter %d again: %w", seq, err)
	}
	if err := stream.DeleteMsg(ctx, seq); err != nil {
		// A twin may have taken it away.
		if _, gone := read(ctx, stream, seq); !errors.Is(gone, ErrNoLetter) {
			return letter, fmt.Errorf("take dead letter %d away: %w", seq, err)
		}
	}
	return letter, nil
}

func read(ctx context.Context, stream jetstream.Stream, seq uint64) (Letter, error) {
	msg, err := stream.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Letter{}, ErrNoLetter
	}
	if err != nil {
		return Letter{}, fmt.Errorf("read dead letter %d: %w", seq, err)
	}
	letter := Letter{Seq: seq, At: msg.Time, Consumer: msg.Subject[strings.LastIndex(msg.Subject, ".")+1:],
		subject: msg.Header.Get("Shop-Subject"), data: msg.Data}
	// What cannot be read stays zero: the letter is shown all the same.
	letter.EventSeq, _ = strconv.ParseUint(msg.Header.Get("Shop-Stream-Seq"), 10, 64)
	if letter.Reason, err = strconv.Unquote(msg.Header.Get("Shop-Error")); err != nil {
		letter.Reason = msg.Header.Get("Shop-Error")
	}
	if err := json.Unmarshal(msg.Data, &letter.Event); err != nil {
		letter.Event = Event{}
	}
	return letter, nil
}
