package outbox

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	natsbroker "github.com/onceshop/onceshop/internal/outbox/broker/nats"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// bury makes every event in the stream a dead letter.
func (b *bundle) bury(t *testing.T) {
	t.Helper()
	c := newConsumer(t, b.pool, b.broker, func(context.Context, Event) error { return errBroken })
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	b.settled(t)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func list(t *testing.T, l *Letters, before string, limit int) ([]Letter, bool) {
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
	l := NewLetters(b.broker)
	if letters, more := list(t, l, "", 50); len(letters) != 0 || more {
		t.Errorf("%d letters in an empty stream", len(letters))
	}
	b.publish(t, paid, 5)
	b.bury(t)
	newest, _ := list(t, l, "", 2)
	if _, err := l.Retry(t.Context(), newest[1].ID); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for before, more := "", true; more; {
		var page []Letter
		page, more = list(t, l, before, 2)
		for _, letter := range page {
			number, _, _ := strings.Cut(letter.ID, "-")
			ids = append(ids, number)
			before = letter.ID
			if letter.Consumer != consumerName || letter.Reason != errBroken.Error() || letter.Event.Type != paid ||
				letter.Event.ID == uuid.Nil || letter.Place.Seq == 0 || letter.At.IsZero() {
				t.Errorf("letter %+v", letter)
			}
		}
		if len(page) > 2 {
			t.Errorf("%d letters on a page of two", len(page))
		}
	}
	if !slices.Equal(ids, []string{"5", "3", "2", "1"}) {
		t.Errorf("letters %v, want 5, 3, 2, 1", ids)
	}
}

func TestLettersOfAnEmptyBroker(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, stream := range []string{natsbroker.EventStream, natsbroker.DeadStream} {
		if err := b.js.DeleteStream(t.Context(), stream); err != nil {
			t.Fatal(err)
		}
	}
	l := NewLetters(b.broker)
	if letters, more := list(t, l, "", 50); len(letters) != 0 || more {
		t.Errorf("%d letters without a stream", len(letters))
	}
	for _, id := range []string{"1-1", "1", "nonsense", ""} {
		if _, err := l.Retry(t.Context(), id); !errors.Is(err, broker.ErrNoLetter) {
			t.Errorf("%q: got %v, want ErrNoLetter", id, err)
		}
	}
	if n, more, err := l.RetryAll(t.Context()); n != 0 || more || err != nil {
		t.Errorf("retried %d, %v, %v", n, more, err)
	}
}

// Ten clicks on retry publish the event once and delete the letter.
func TestRetryOfALetter(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.publish(t, paid, 1)
	b.bury(t)
	l := NewLetters(b.broker)
	letters, _ := list(t, l, "", 1)
	id := letters[0].ID
	for _, err := range shoptest.Race(10, func(int) error {
		_, err := l.Retry(t.Context(), id)
		return err
	}) {
		if err != nil && !errors.Is(err, broker.ErrNoLetter) {
			t.Error(err)
		}
	}
	if _, err := l.Retry(t.Context(), id); !errors.Is(err, broker.ErrNoLetter) {
		t.Errorf("a late click got %v, want ErrNoLetter", err)
	}
	var calls tally
	run(t, newConsumer(t, b.pool, b.broker, func(_ context.Context, event Event) error {
		calls.add(event.ID)
		return nil
	}))
	b.settled(t)
	if got := calls.of(ids...)[0]; got != 1 {
		t.Errorf("delivered %d times, want 1", got)
	}
	if letters, _ := list(t, l, "", 50); len(letters) != 0 {
		t.Errorf("%d letters left", len(letters))
	}
}

// The streams are lost and begin again at number 1: the page that an operator has open retries
// nothing else, and no letter is taken for one of before.
func TestLettersOfStreamsThatBeginAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l := NewLetters(b.broker)
	var ids []string
	for range 2 {
		b.publish(t, paid, 1)
		b.bury(t)
		letters, _ := list(t, l, "", 50)
		if len(letters) != 1 || !strings.HasPrefix(letters[0].ID, "1-") || letters[0].Place.Seq != 1 {
			t.Fatalf("letters %+v, want one of number 1", letters)
		}
		ids = append(ids, letters[0].ID)
		if len(ids) == 2 {
			break
		}
		for _, stream := range []string{natsbroker.EventStream, natsbroker.DeadStream} {
			if err := b.js.DeleteStream(t.Context(), stream); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.broker.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Retry(t.Context(), ids[0]); !errors.Is(err, broker.ErrNoLetter) {
		t.Errorf("the letter of before: %v, want ErrNoLetter", err)
	}
	if _, err := l.Retry(t.Context(), ids[1]); err != nil {
		t.Error(err)
	}
}

// An event that fails again after its retry is a letter again, inside the duplicate window too.
func TestRetryAllLetters(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l := NewLetters(b.broker)
	b.publish(t, paid, 7)
	for range 3 {
		b.bury(t)
		letters, _ := list(t, l, "", 50)
		if len(letters) != 7 {
			t.Fatalf("%d letters, want 7", len(letters))
		}
		if _, err := l.Retry(t.Context(), letters[3].ID); err != nil {
			t.Fatal(err)
		}
		if n, more, err := l.RetryAll(t.Context()); n != 6 || more || err != nil {
			t.Errorf("retried %d, more: %v, %v, want 6", n, more, err)
		}
		if letters, _ := list(t, l, "", 50); len(letters) != 0 {
			t.Errorf("%d letters left", len(letters))
		}
	}
	b.bury(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if n, _, err := l.RetryAll(ended); n != 0 || err == nil {
		t.Errorf("retried %d, %v after the end", n, err)
	}
}

func TestLetterThatCannotBeRead(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if _, err := b.js.Publish(t.Context(), "shop.events."+paid, []byte("\x00 no JSON")); err != nil {
		t.Fatal(err)
	}
	b.bury(t)
	letters, _ := list(t, NewLetters(b.broker), "", 50)
	if len(letters) != 1 || letters[0].Event.ID != uuid.Nil ||
		!strings.Contains(letters[0].Reason, "decode the event") {
		t.Errorf("letters %+v", letters)
	}
}
