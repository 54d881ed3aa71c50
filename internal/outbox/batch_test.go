package outbox

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/dedup"
)

// A batch enters the stream as one; a message that is a duplicate or too large keeps none of the
// others out.
func TestPublishManyMessages(t *testing.T) {
	t.Parallel()
	const many, odd = 300, 7
	messages := func(name string) []dedup.Message {
		messages := make([]dedup.Message, many)
		for i := range messages {
			messages[i] = dedup.Message{Subject: "shop.events.a", ID: fmt.Sprintf("%s %d", name, i),
				Data: []byte{byte(i)}, Header: nats.Header{"Its": {name}}}
		}
		return messages
	}
	for name, test := range map[string]struct {
		change  func(*Streams, []dedup.Message)
		asBatch bool
		stored  uint64
		refused bool
	}{
		"all new": {func(*Streams, []dedup.Message) {}, true, many, false},
		"one duplicate": {func(s *Streams, m []dedup.Message) {
			s.events.Publish(t.Context(), m[odd])
		}, false, many, false},
		"all duplicates": {func(s *Streams, m []dedup.Message) {
			s.publish(t.Context(), m)
		}, false, many, false},
		"a duplicate of its neighbor": {func(_ *Streams, m []dedup.Message) {
			m[odd+1] = m[odd]
		}, false, many - 1, false},
		"one too large": {func(_ *Streams, m []dedup.Message) {
			m[odd].Data = make([]byte, 2<<20)
		}, false, many - 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js, streams := openStreams(t, connect(t, startNATS(t, t.TempDir()).URL()))
			stored, err := js.Stream(t.Context(), EventStream)
			if err != nil {
				t.Fatal(err)
			}
			messages := messages(name)
			test.change(streams, messages)
			ctx := within(t, patience)
			acks, ok := streams.publishBatch(ctx, messages)
			if ok != test.asBatch {
				t.Errorf("taken as a batch: %t, want %t", ok, test.asBatch)
			}
			if !ok {
				acks = streams.publish(ctx, messages)
			}
			for i, ack := range acks {
				refused := ack.Err != nil
				if refused != (test.refused && i == odd) || ack.Seq > many {
					t.Fatalf("number %d: %+v", i, ack)
				}
				if refused {
					continue
				}
				msg, err := stored.GetMsg(ctx, ack.Seq)
				if err != nil || msg.Header.Get(jetstream.MsgIDHeader) != messages[i].ID ||
					msg.Header.Get("Its") != name ||
					string(msg.Data) != string(messages[i].Data) {
					t.Fatalf("number %d is acknowledged at %d, which holds %+v, %v", i, ack.Seq, msg, err)
				}
			}
			info, err := stored.Info(ctx)
			if err != nil || info.State.Msgs != test.stored {
				t.Errorf("the stream holds %d messages, %v, want %d", info.State.Msgs, err, test.stored)
			}
		})
	}
}
