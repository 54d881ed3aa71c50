package dedup_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func startNATS(t testing.TB, dir string) *shoptest.NATSServer {
	t.Helper()
	return shoptest.NATS(t, dir)
}

// openStream opens the stream "TEST" of the subjects "test.>" on the server.
func openStream(t testing.TB, server *shoptest.NATSServer, window time.Duration) (*dedup.Stream, jetstream.Stream) {
	t.Helper()
	conn, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{
		Name: "TEST", Subjects: []string{"test.>"}, Duplicates: window, MaxAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return dedup.NewStream(js, "TEST"), stored
}

// publish publishes one message and returns its acknowledgement, which has no error.
func publish(t *testing.T, stream *dedup.Stream, subject, id, body string) dedup.Ack {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	ack := stream.Publish(ctx, dedup.Message{Subject: subject, ID: id, Data: []byte(body)})[0]
	if ack.Err != nil {
		t.Fatalf("publish %s: %v", id, ack.Err)
	}
	return ack
}

func wantStored(t *testing.T, stream jetstream.Stream, want uint64) {
	t.Helper()
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.State.Msgs != want {
		t.Errorf("the stream holds %d messages, want %d", info.State.Msgs, want)
	}
}

func TestStreamStopsARepeat(t *testing.T) {
	t.Parallel()
	stream, stored := openStream(t, startNATS(t, t.TempDir()), time.Hour)
	publish(t, stream, "test.a", "other", "")
	first := publish(t, stream, "test.a", "id", "body")
	if first.Duplicate {
		t.Error("the first is called a duplicate")
	}
	want := dedup.Ack{Seq: first.Seq, Duplicate: true}
	if again := publish(t, stream, "test.a", "id", "body"); again != want {
		t.Errorf("the repeat got %+v, want %+v", again, want)
	}
	// The server compares only ids, over the whole stream: an id must include its kind.
	if other := publish(t, stream, "test.b", "id", "another body"); other != want {
		t.Errorf("the same id on another subject got %+v, want %+v", other, want)
	}
	wantStored(t, stored, 2)
	message, err := stored.GetMsg(t.Context(), first.Seq)
	if err != nil || string(message.Data) != "body" || message.Subject != "test.a" {
		t.Errorf("stored is %+v, %v; want the first", message, err)
	}
}

// The limit of this strategy, which is why consumers keep a guard of their own.
func TestStreamForgetsAfterTheWindow(t *testing.T) {
	t.Parallel()
	stream, stored := openStream(t, startNATS(t, t.TempDir()), 100*time.Millisecond)
	first := publish(t, stream, "test.a", "id", "")
	var again dedup.Ack
	shoptest.Eventually(t, soon, "the id is forgotten", func() bool {
		again = publish(t, stream, "test.a", "id", "")
		return !again.Duplicate
	})
	if again.Seq != first.Seq+1 {
		t.Errorf("stored at %d, want %d", again.Seq, first.Seq+1)
	}
	wantStored(t, stored, 2)
}

func TestStreamRemembersOverARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := startNATS(t, dir)
	stream, stored := openStream(t, server, time.Hour)
	first := publish(t, stream, "test.a", "id", "")
	// The message is acknowledged: with another retention, the stream would forget its id.
	consumer, err := stored.CreateConsumer(t.Context(), jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckExplicitPolicy, Durable: "reader"})
	if err != nil {
		t.Fatal(err)
	}
	message, err := consumer.Next(jetstream.FetchMaxWait(soon))
	if err != nil {
		t.Fatal(err)
	}
	if err := message.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Stop()

	stream, stored = openStream(t, startNATS(t, dir), time.Hour)
	if again, want := publish(t, stream, "test.a", "id", ""),
		(dedup.Ack{Seq: first.Seq, Duplicate: true}); again != want {
		t.Errorf("after the restart the repeat got %+v, want %+v", again, want)
	}
	wantStored(t, stored, 1)
}

func TestStreamPublishesABatch(t *testing.T) {
	t.Parallel()
	stream, stored := openStream(t, startNATS(t, t.TempDir()), time.Hour)
	const size = 2000
	batch := make([]dedup.Message, size)
	for i := range batch {
		batch[i] = dedup.Message{Subject: "test.a", ID: fmt.Sprint("id.", i), Data: fmt.Append(nil, i),
			Header: nats.Header{"Number": {fmt.Sprint(i)}}}
	}
	// One message twice: its ack is in its place.
	batch[size-1] = batch[0]
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	acks := stream.Publish(ctx, batch...)
	if len(acks) != size {
		t.Fatalf("%d acknowledgements, want %d", len(acks), size)
	}
	for i, ack := range acks[:size-1] {
		if want := (dedup.Ack{Seq: uint64(i) + 1}); ack != want {
			t.Fatalf("message %d got %+v, want %+v", i, ack, want)
		}
	}
	if want := (dedup.Ack{Seq: 1, Duplicate: true}); acks[size-1] != want {
		t.Errorf("the repeat got %+v, want %+v", acks[size-1], want)
	}
	wantStored(t, stored, size-1)
	message, err := stored.GetMsg(t.Context(), 1000)
	if err != nil || string(message.Data) != "999" || message.Header.Get("Number") != "999" {
		t.Errorf("message 1000 is %+v, %v", message, err)
	}
	if none := stream.Publish(ctx); len(none) != 0 {
		t.Errorf("no messages got %d acknowledgements", len(none))
	}
}

func TestStreamOfAStoppedServer(t *testing.T) {
	t.Parallel()
	server := startNATS(t, t.TempDir())
	stream, _ := openStream(t, server, time.Hour)
	publish(t, stream, "test.a", "before", "")
	server.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	acks := stream.Publish(ctx, dedup.Message{Subject: "test.a", ID: "1"}, dedup.Message{Subject: "test.a", ID: "2"})
	for i, ack := range acks {
		if ack.Err == nil {
			t.Errorf("message %d got %+v from a server that is not there", i, ack)
		}
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %s, though the context ended after 100ms", took)
	}
}

func TestStreamWithoutAcknowledgements(t *testing.T) {
	t.Parallel()
	stream, stored := openStream(t, startNATS(t, t.TempDir()), time.Hour)
	config := stored.CachedInfo().Config
	config.NoAck = true
	if _, err := stream.JetStream().UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begun := time.Now()
	messages := []dedup.Message{{Subject: "test.a", ID: "1"}, {Subject: "test.a", ID: "2"}}
	for _, ack := range stream.Publish(ctx, messages...) {
		if !errors.Is(ack.Err, context.DeadlineExceeded) {
			t.Errorf("got %+v, want the context's error", ack)
		}
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %s, though the context ended after 50ms", took)
	}
	// No acknowledgement does not mean that nothing is stored.
	shoptest.Eventually(t, soon, "both are stored", func() bool {
		info, err := stored.Info(t.Context())
		return err == nil && info.State.Msgs == 2
	})
}

func TestStreamKeepsToItself(t *testing.T) {
	t.Parallel()
	stream, _ := openStream(t, startNATS(t, t.TempDir()), time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	acks := stream.Publish(ctx, dedup.Message{Subject: "elsewhere", ID: "1"}, dedup.Message{Subject: "test.a", ID: "2"})
	if acks[0].Err == nil {
		t.Error("a subject that no stream has is acknowledged")
	}
	if acks[1].Err != nil {
		t.Errorf("the message beside it got %v", acks[1].Err)
	}
}
