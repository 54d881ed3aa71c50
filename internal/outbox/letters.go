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

	"github.com/onceshop/onceshop/internal/dedup"
)

// Headers of a dead letter: the event's subject and number in its stream, and the consumer's last
// error.
const (
	subjectHeader = "Shop-Subject"
	seqHeader     = "Shop-Stream-Seq"
	errorHeader   = "Shop-Error"
)

// bury publishes the message as a dead letter of the consumer, once.
func (s *Streams) bury(ctx context.Context, consumer string, msg jetstream.Msg, seq uint64, cause error) error {
	number := strconv.FormatUint(seq, 10)
	letter := dedup.Message{
		Subject: s.deadSubject + consumer, ID: "dead." + consumer + "." + number, Data: msg.Data(),
		Header: nats.Header{subjectHeader: {msg.Subject()}, seqHeader: {number},
			errorHeader: {strconv.Quote(cause.Error())}},
	}
	if ack := s.dead.Publish(ctx, letter)[0]; ack.Err != nil {
		return fmt.Errorf("publish the dead letter: %w", ack.Err)
	}
	return nil
}

// ErrNoLetter reports that there is no such dead letter, because it was retried or is too old.
var ErrNoLetter = errors.New("outbox: no such dead letter")

// Letters lists and retries the shop's dead letters for operators.
type Letters struct{ js jetstream.JetStream }

// NewLetters returns the dead letters of the broker, whose streams need not exist yet.
func NewLetters(js jetstream.JetStream) *Letters { return &Letters{js: js} }

// Letter is an event that a consumer gave up on.
type Letter struct {
	// Seq is the letter's number among the dead letters, EventSeq the event's in its stream.
	Seq, EventSeq uint64
	At            time.Time
	Consumer      string
	// Reason is the consumer's last error.
	Reason string
	// Event is zero if it cannot be decoded, which can be the reason.
	Event Event

	subject string
	data    []byte
}

// List returns up to limit letters, newest first, and whether there are more. Their numbers are
// below before, unless it is 0.
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
		return nil, false, fmt.Errorf("read the state of the dead letters: %w", err)
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

// Retry publishes the event of a letter again, to all consumers of its type, and deletes the
// letter. Each consumer guards its own effect. Concurrent retries of a letter use one message id,
// so that a double click publishes the event once. See docs/decisions.md, D35.
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
	_, err = l.js.PublishMsg(ctx, message, jetstream.WithMsgID(id), jetstream.WithExpectStream(EventStream))
	if err != nil {
		return letter, fmt.Errorf("publish the event of dead letter %d again: %w", seq, err)
	}
	if err := stream.DeleteMsg(ctx, seq); err != nil {
		// A concurrent retry may have deleted it.
		if _, gone := read(ctx, stream, seq); !errors.Is(gone, ErrNoLetter) {
			return letter, fmt.Errorf("delete dead letter %d: %w", seq, err)
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
		subject: msg.Header.Get(subjectHeader), data: msg.Data}
	// A field that cannot be decoded stays zero, so that operators can see the letter.
	letter.EventSeq, _ = strconv.ParseUint(msg.Header.Get(seqHeader), 10, 64)
	if letter.Reason, err = strconv.Unquote(msg.Header.Get(errorHeader)); err != nil {
		letter.Reason = msg.Header.Get(errorHeader)
	}
	if err := json.Unmarshal(msg.Data, &letter.Event); err != nil {
		letter.Event = Event{}
	}
	return letter, nil
}
