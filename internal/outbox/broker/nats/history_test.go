package nats

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// What does not exist yet is empty.
func TestBeforeOpen(t *testing.T) {
	t.Parallel()
	js, err := jetstream.New(connect(t, shoptest.NATS(t, t.TempDir()).URL()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, b := t.Context(), New(js, Settings{Window: time.Minute, MaxAge: time.Hour}, quiet)
	if err := b.Ready(ctx); !errors.Is(err, broker.ErrNotOpen) {
		t.Errorf("ready: %v, want ErrNotOpen", err)
	}
	if _, _, err := b.History().Held(ctx); !errors.Is(err, broker.ErrNotOpen) {
		t.Errorf("held: %v, want ErrNotOpen", err)
	}
	if _, known, err := b.Lag(ctx, "reader"); known || err != nil {
		t.Errorf("the lag is known: %t, %v", known, err)
	}
	if _, known, err := b.Letters().Count(ctx); known || err != nil {
		t.Errorf("the letters are counted: %t, %v", known, err)
	}
	if list, more, err := b.Letters().List(ctx, "", 10); len(list) != 0 || more || err != nil {
		t.Errorf("letters %v, more %t, %v", list, more, err)
	}
	if err := errors.Join(b.Open(ctx), b.Ready(ctx)); err != nil {
		t.Error(err)
	}
	if first, last, err := b.History().Held(ctx); first <= last || err != nil {
		t.Errorf("a new stream holds %d to %d, %v", first, last, err)
	}
}

func TestHistory(t *testing.T) {
	t.Parallel()
	_, b := open(t)
	ctx, h := t.Context(), b.History()
	const many = readBatch + 100
	messages := make([]broker.Message, many)
	for i := range messages {
		messages[i] = broker.Message{Type: "a", ID: fmt.Sprint(i), Data: []byte{byte(i)}, Traceparent: fmt.Sprint(-i)}
	}
	acks := b.Publish(ctx, messages)
	same := func(got broker.Stored, i int) bool {
		want := messages[i]
		return got.Seq == acks[i].Seq && got.ID == want.ID && got.Type == want.Type &&
			string(got.Data) == string(want.Data) && got.Traceparent == want.Traceparent
	}
	n := 0
	err := h.Read(ctx, time.Now().Add(-time.Minute), func(got broker.Stored) error {
		if !same(got, n) {
			t.Errorf("number %d is %+v, want %+v", n, got, messages[n])
		}
		n++
		return nil
	})
	if n != many || err != nil {
		t.Errorf("read %d messages, %v, want %d", n, err, many)
	}
	first, last, err := h.Held(ctx)
	if first != acks[0].Seq || last != acks[many-1].Seq || err != nil {
		t.Errorf("holds %d to %d, %v, want %d to %d", first, last, err, acks[0].Seq, acks[many-1].Seq)
	}
	if got, err := h.At(ctx, acks[6].Seq); err != nil || !same(got, 6) {
		t.Errorf("at %d is %+v, %v", acks[6].Seq, got, err)
	}
	if _, err := h.At(ctx, last+1); !errors.Is(err, broker.ErrNotHeld) {
		t.Errorf("after the newest: %v, want ErrNotHeld", err)
	}
}
