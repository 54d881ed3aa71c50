package embedded

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func mustStartNATS(t *testing.T, dir string) *NATS {
	t.Helper()
	n, err := StartNATS(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	return n
}

func stream(t *testing.T, url string) (jetstream.JetStream, jetstream.Stream) {
	t.Helper()
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.CreateOrUpdateStream(deadline(t), jetstream.StreamConfig{Name: "KEPT", Subjects: []string{"kept"}})
	if err != nil {
		t.Fatal(err)
	}
	return js, s
}

func TestNATSKeepsMessages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := mustStartNATS(t, dir)
	js, _ := stream(t, first.URL())
	if _, err := js.Publish(deadline(t), "kept", []byte("hello"), jetstream.WithMsgID("1")); err != nil {
		t.Fatal(err)
	}
	first.Stop()

	js, s := stream(t, mustStartNATS(t, dir).URL())
	message, err := s.GetLastMsgForSubject(deadline(t), "kept")
	if err != nil {
		t.Fatal(err)
	}
	if string(message.Data) != "hello" {
		t.Errorf("kept %q, want hello", message.Data)
	}
	ack, err := js.Publish(deadline(t), "kept", []byte("hello"), jetstream.WithMsgID("1"))
	if err != nil {
		t.Fatal(err)
	}
	if !ack.Duplicate {
		t.Error("the restarted server has forgotten the message id")
	}
}

func TestNATSNeedsThePassword(t *testing.T) {
	t.Parallel()
	wrong, err := url.Parse(mustStartNATS(t, t.TempDir()).URL())
	if err != nil {
		t.Fatal(err)
	}
	wrong.User = url.UserPassword("shop", "guess")
	conn, err := nats.Connect(wrong.String())
	if !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("wrong password: %v, want %v", err, nats.ErrAuthorization)
	}
	if err == nil {
		conn.Close()
	}
}

func TestNATSFolderInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mustStartNATS(t, dir)
	_, err := StartNATS(dir)
	wantError(t, err, dir, "in use", "SHOP_DATA_DIR")
}

func TestNATSSaysWhyItDoesNotStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "jetstream"), nil, 0o600); err != nil { // where its folder should be
		t.Fatal(err)
	}
	_, err := StartNATS(dir)
	wantError(t, err, "start the embedded NATS", dir, "JetStream")
}
