package outbox

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/shoptest"
)

// bury makes every event in the stream a dead letter.
func (b *bundle) bury(t *testing.T) {
	t.Helper()
	c := newConsumer(t, b.streams, func(context.Context, Event) error { return errBroken })
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	b.settled(t)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func list(t *testing.T, l *Letters, before uint64, limit int) ([]Letter, bool) {
	t.Helper()
	letters, more, err := l.List(t.Context(), before, limit)
	if err != nil {
		t.Fatal(err)
	}
	return letters, more
}

func TestLettersNewestFirst(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l := NewLetters(b.js)
	if letters, more := list(t, l, 0, 50); len(letters) != 0 || more {
		t.Errorf("%d letters in an empty stream", len(letters))
	}
	b.publish(t, paid, 5)
	b.bury(t)
	if _, err := l.Retry(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	var seqs []uint64
	for before, more := uint64(0), true; more; {
		var page []Letter
		page, more = list(t, l, before, 2)
		for _, letter := range page {
			seqs = append(seqs, letter.Seq)
			before = letter.Seq
			if letter.Consumer != consumerName || letter.Reason != errBroken.Error() || letter.Event.Type != paid ||
				letter.Event.ID == uuid.Nil || letter.EventSeq == 0 || letter.At.IsZero() {
				t.Errorf("letter %+v", letter)
			}
		}
		if len(page) > 2 {
			t.Errorf("%d letters on a page of two", len(page))
		}
	}
	if len(seqs) != 4 || seqs[0] != 5 || seqs[1] != 3 || seqs[2] != 2 || seqs[3] != 1 {
		t.Errorf("letters %v, want 5, 3, 2, 1", seqs)
	}
}

func TestLettersOfAnEmptyBroker(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, stream := range []string{EventStream, DeadStream} {
		if err := b.js.DeleteStream(t.Context(), stream); err != nil {
			t.Fatal(err)
		}
	}
	l := NewLetters(b.js)
	if letters, more := list(t, l, 0, 50); len(letters) != 0 || more {
		t.Errorf("%d letters without a stream", len(letters))
	}
	if _, err := l.Retry(t.Context(), 1); !errors.Is(err, ErrNoLetter) {
		t.Errorf("got %v, want ErrNoLetter", err)
	}
}

// Ten clicks on retry publish the event once and delete the letter.
func TestRetryOfALetter(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.publish(t, paid, 1)
	b.bury(t)
	l := NewLetters(b.js)
	for _, err := range shoptest.Race(10, func(int) error {
		_, err := l.Retry(t.Context(), 1)
		return err
	}) {
		if err != nil && !errors.Is(err, ErrNoLetter) {
			t.Error(err)
		}
	}
	if _, err := l.Retry(t.Context(), 1); !errors.Is(err, ErrNoLetter) {
		t.Errorf("a late click got %v, want ErrNoLetter", err)
	}
	var calls tally
	run(t, newConsumer(t, b.streams, func(_ context.Context, event Event) error {
		calls.add(event.ID)
		return nil
	}))
	b.settled(t)
	if got := calls.of(ids...)[0]; got != 1 {
		t.Errorf("delivered %d times, want 1", got)
	}
	if letters, _ := list(t, l, 0, 50); len(letters) != 0 {
		t.Errorf("%d letters left", len(letters))
	}
}

func TestLetterThatCannotBeRead(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if _, err := b.js.Publish(t.Context(), b.streams.eventSubject+paid, []byte("\x00 no JSON")); err != nil {
		t.Fatal(err)
	}
	b.bury(t)
	letters, _ := list(t, NewLetters(b.js), 0, 50)
	if len(letters) != 1 || letters[0].Event.ID != uuid.Nil ||
		!strings.Contains(letters[0].Reason, "decode the event") {
		t.Errorf("letters %+v", letters)
	}
}
