package shoptest

import (
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// NATSServer is a NATS server with JetStream inside the test's process.
type NATSServer struct{ server *server.Server }

// natsStart serializes the start of servers, during which the library sets package variables.
var natsStart sync.Mutex

// NATS starts a server on a free port whose streams live in dir and survive Stop. Every publish is
// on disk before it is acknowledged. The server stops when the test ends.
func NATS(t testing.TB, dir string) *NATSServer {
	t.Helper()
	return StartNATS(t, &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, StoreDir: dir, SyncAlways: true})
}

// StartNATS starts a server with the options, with JetStream and without a log.
func StartNATS(t testing.TB, options *server.Options) *NATSServer {
	t.Helper()
	options.JetStream, options.NoSigs, options.NoLog = true, true, true
	natsStart.Lock()
	defer natsStart.Unlock()
	s, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	n := &NATSServer{server: s}
	t.Cleanup(n.Stop)
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("NATS does not start")
	}
	return n
}

// URL returns the server's address.
func (n *NATSServer) URL() string { return n.server.ClientURL() }

// Stop closes the clients' connections and returns when the streams are on disk. It may be called
// twice.
func (n *NATSServer) Stop() {
	n.server.Shutdown()
	n.server.WaitForShutdown()
}
