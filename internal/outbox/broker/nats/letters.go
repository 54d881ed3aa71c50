package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/tracing"
)

// letters are the messages of the stream of dead letters.
type letters struct{ *Broker }

// Letters implements broker.Broker. A letter's ID is its place.
func (b *Broker) Letters() broker.Letters { return letters{b} }

// Count implements broker.Letters.
func (l letters) Count(ctx context.Context) (letters int64, known bool, err error) {
	stream, err := l.stream(ctx, l.deadName)
	if errors.Is(err, broker.ErrNotOpen) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	return number(stream.CachedInfo().State.Msgs), true, nil
}

// List implements broker.Letters.
func (l letters) List(ctx context.Context, before string, limit int) (list []broker.Letter, more bool, err error) {
	stream, err := l.stream(ctx, l.deadName)
	if errors.Is(err, broker.ErrNotOpen) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	info, err := stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return nil, false, fmt.Errorf("read the state of the dead letters: %w", err)
	}
	deleted := make(map[uint64]bool, len(info.State.Deleted))
	for _, seq := range info.State.Deleted {
		deleted[seq] = true
	}
	last := info.State.LastSeq
	if end, ok := parsePlace(before); ok {
		last = min(last, end.Seq-1)
	}
	for seq := last; seq > 0 && seq >= info.State.FirstSeq; seq-- {
		if deleted[seq] {
			continue
		}
		if len(list) == limit {
			return list, true, nil
		}
		letter, err := l.read(ctx, stream, seq)
		if errors.Is(err, broker.ErrNoLetter) {
			continue
		}
		if err != nil {
			return nil, false, err
		}
		list = append(list, letter.Letter)
	}
	return list, false, nil
}

// parsePlace reads what place.String returns.
func parsePlace(text string) (p place, ok bool) {
	seq, nanos, _ := strings.Cut(text, "-")
	number, err := strconv.ParseUint(seq, 10, 64)
	at, wrong := strconv.ParseInt(nanos, 10, 64)
	return place{number, time.Unix(0, at)}, err == nil && wrong == nil && number > 0
}

// Retry implements broker.Letters. Concurrent retries of a letter use one message id.
func (l letters) Retry(ctx context.Context, id string) (broker.Letter, error) {
	at, ok := parsePlace(id)
	if !ok {
		return broker.Letter{}, broker.ErrNoLetter
	}
	stream, err := l.stream(ctx, l.deadName)
	if errors.Is(err, broker.ErrNotOpen) {
		return broker.Letter{}, broker.ErrNoLetter
	}
	if err != nil {
		return broker.Letter{}, err
	}
	letter, err := l.read(ctx, stream, at.Seq)
	if err != nil {
		return broker.Letter{}, err
	}
	if !letter.At.Equal(at.At) {
		return broker.Letter{}, broker.ErrNoLetter
	}
	return letter.Letter, l.retry(ctx, stream, letter)
}

func (l letters) retry(ctx context.Context, stream jetstream.Stream, letter letter) error {
	message := &nats.Msg{Subject: letter.subject, Data: letter.Data, Header: nats.Header{}}
	message.Header[tracing.Header] = letter.traceparent
	_, err := l.js.PublishMsg(ctx, message, jetstream.WithMsgID("retry."+letter.ID),
		jetstream.WithExpectStream(l.eventName))
	if err != nil {
		return fmt.Errorf("publish the event of dead letter %s again: %w", letter.ID, err)
	}
	if err := stream.DeleteMsg(ctx, letter.seq); err != nil {
		// A concurrent retry may have deleted it.
		if _, gone := l.read(ctx, stream, letter.seq); !errors.Is(gone, broker.ErrNoLetter) {
			return fmt.Errorf("delete dead letter %s: %w", letter.ID, err)
		}
	}
	return nil
}

// RetryAll implements broker.Letters.
func (l letters) RetryAll(ctx context.Context) (retried int, more bool, err error) {
	stream, err := l.stream(ctx, l.deadName)
	if errors.Is(err, broker.ErrNotOpen) {
		return 0, false, nil
	}
	if err != nil {
		return 0, true, err
	}
	var failures error
	last := stream.CachedInfo().State.LastSeq
	for seq := stream.CachedInfo().State.FirstSeq; seq <= last; seq++ {
		if ctx.Err() != nil {
			return retried, true, failures
		}
		msg, err := stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(">")) // the next one from seq on
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && msg.Sequence > last {
			break
		}
		if err != nil {
			return retried, true, errors.Join(failures, fmt.Errorf("read dead letter %d: %w", seq, err))
		}
		if err := l.retry(ctx, stream, l.decode(msg)); err != nil {
			failures = err
		} else {
			retried++
		}
		seq = msg.Sequence
	}
	return retried, failures != nil, failures
}

// letter is a dead letter with what its retry needs.
type letter struct {
	broker.Letter
	seq         uint64
	subject     string
	traceparent []string
}

func (l letters) read(ctx context.Context, stream jetstream.Stream, seq uint64) (letter, error) {
	msg, err := stream.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return letter{}, broker.ErrNoLetter
	}
	if err != nil {
		return letter{}, fmt.Errorf("read dead letter %d: %w", seq, err)
	}
	return l.decode(msg), nil
}

func (l letters) decode(msg *jetstream.RawStreamMsg) letter {
	subject := msg.Header.Get(subjectHeader)
	message := l.message(subject, msg.Header, msg.Data)
	message.ID = "" // the header has the letter's own
	found := letter{seq: msg.Sequence, subject: subject, traceparent: msg.Header[tracing.Header],
		Letter: broker.Letter{ID: place{msg.Sequence, msg.Time}.String(), At: msg.Time,
			Consumer: msg.Subject[strings.LastIndex(msg.Subject, ".")+1:], Message: message}}
	var err error
	// A field that cannot be decoded stays zero, so that operators can see the letter.
	found.Place.Seq, _ = strconv.ParseInt(msg.Header.Get(seqHeader), 10, 64)
	if found.Reason, err = strconv.Unquote(msg.Header.Get(errorHeader)); err != nil {
		found.Reason = msg.Header.Get(errorHeader)
	}
	return found
}
