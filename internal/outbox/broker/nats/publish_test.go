package nats

import (
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/tracing"
)

// A batch enters the stream as one; a message that is a duplicate or too large keeps none of the
// others out.
func TestPublishManyMessages(t *testing.T) {
	t.Parallel()
	const many, odd = 300, 7
	for name, test := range map[string]struct {
		change  func(*Broker, []broker.Message)
		asBatch bool
		stored  uint64
		refused bool
	}{
		"all new": {func(*Broker, []broker.Message) {}, true, many, false},
		"one duplicate": {func(b *Broker, m []broker.Message) {
			b.Publish(t.Context(), m[odd:odd+1])
		}, false, many, false},
		"all duplicates": {func(b *Broker, m []broker.Message) {
			b.Publish(t.Context(), m)
		}, true, many, false},
		"a duplicate of its neighbor": {func(_ *Broker, m []broker.Message) {
			m[odd+1] = m[odd]
		}, false, many - 1, false},
		"one too large": {func(_ *Broker, m []broker.Message) {
			m[odd].Data = make([]byte, 2<<20)
		}, true, many - 1, true},
		"one without a subject": {func(_ *Broker, m []broker.Message) {
			m[odd].Type = "no subject"
		}, true, many - 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js, b := open(t)
			stored, err := js.Stream(t.Context(), EventStream)
			if err != nil {
				t.Fatal(err)
			}
			messages := make([]broker.Message, many)
			for i := range messages {
				messages[i] = broker.Message{Type: "a", ID: fmt.Sprintf("%s %d", name, i), Data: []byte{byte(i)},
					Traceparent: name}
			}
			test.change(b, messages)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			for i, ack := range b.Publish(ctx, messages) {
				refused := ack.Err != nil
				if refused != (test.refused && i == odd) || ack.Seq > many {
					t.Fatalf("number %d: %+v", i, ack)
				}
				if refused {
					continue
				}
				msg, err := stored.GetMsg(ctx, uint64(ack.Seq))
				if err != nil || msg.Header.Get(jetstream.MsgIDHeader) != messages[i].ID ||
					msg.Header.Get(tracing.Header) != name || msg.Subject != "shop.events.a" ||
					string(msg.Data) != string(messages[i].Data) {
					t.Fatalf("number %d is acknowledged at %d, which holds %+v, %v", i, ack.Seq, msg, err)
				}
			}
			info, err := stored.Info(ctx)
			if err != nil || info.State.Msgs != test.stored {
				t.Errorf("the stream holds %d messages, %v, want %d", info.State.Msgs, err, test.stored)
			}
			last, err := stored.GetLastMsgForSubject(ctx, "shop.events.a")
			if err != nil || (last.Header.Get("Nats-Batch-Id") != "") != test.asBatch {
				t.Errorf("the last message has the header %v, %v; as a batch: %t", last.Header, err, test.asBatch)
			}
		})
	}
}
