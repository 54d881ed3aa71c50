package pg_test

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// fault is what a proxy does at a COMMIT; after each of them the connection is cut.
type fault int

const (
	loseCommand   fault = iota // the server never sees the COMMIT
	loseAnswer                 // the server has committed, the client never hears
	answerByFatal              // the server has committed; a pooler in between has lost it, and says so
	reset                      // the server has committed, the client's connection breaks
)

// startProxy passes a client's connections on to the database at databaseURL, and returns its own
// address.
func startProxy(t *testing.T, databaseURL string, at fault) string {
	t.Helper()
	return listen(t, databaseURL, func(client net.Conn, server string) { proxy(client, server, at) })
}

// startFreezer passes connections on to the database, and returns its own address. Freeze stops
// those that exist: both sides wait for an answer that never comes. End closes them.
func startFreezer(t *testing.T, databaseURL string) (address string, freeze, end func()) {
	t.Helper()
	ended := make(chan struct{})
	var accepted, frozen atomic.Int64 // frozen are the connections up to this number
	address = listen(t, databaseURL, func(client net.Conn, server string) {
		n := accepted.Add(1)
		passOn(client, server, func([]byte) bool { return n > frozen.Load() }, ended)
	})
	return address, func() { frozen.Store(accepted.Load()) }, func() { close(ended) }
}

// listen serves each connection with its server, the host of the database, and returns an address
// of the database that leads there.
func listen(t *testing.T, databaseURL string, serve func(client net.Conn, server string)) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := u.Host
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { serve(client, server) })
		}
	})
	// The pool is closed before, so that every connection has ended.
	t.Cleanup(func() {
		listener.Close()
		serving.Wait()
	})
	u.Host = listener.Addr().String()
	return u.String()
}

// passOn copies both ways while what comes flows, and then holds the connection until the end.
func passOn(client net.Conn, to string, flows func([]byte) bool, end <-chan struct{}) {
	defer client.Close()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		pump(client, server, flows)
		if flows(nil) {
			client.Close()
		}
	}()
	pump(server, client, flows)
	if !flows(nil) {
		<-end
	}
}

func proxy(client net.Conn, to string, at fault) {
	defer client.Close()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	var committing atomic.Bool
	var pumps sync.WaitGroup
	pumps.Go(func() {
		pump(server, client, func(sent []byte) bool {
			if !bytes.Contains(sent, []byte("commit\x00")) {
				return true
			}
			committing.Store(true)
			return at != loseCommand
		})
		if !committing.Load() || at == loseCommand {
			client.Close()
			server.Close()
		}
	})
	pumps.Go(func() {
		pump(client, server, func([]byte) bool { return !committing.Load() })
		switch {
		case committing.Load() && at == answerByFatal:
			_, _ = client.Write(fatalAnswer)
		case committing.Load() && at == reset:
			_ = client.(*net.TCPConn).SetLinger(0)
		}
		client.Close()
		server.Close()
	})
	pumps.Wait()
}

var fatalAnswer = func() []byte {
	answer, err := (&pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: "08P01",
		Message: "server conn crashed?"}).Encode(nil)
	if err != nil {
		panic(err)
	}
	return answer
}()

// pump copies until either side ends or pass refuses what came.
func pump(to io.Writer, from io.Reader, pass func([]byte) bool) {
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil || !pass(buffer[:n]) {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
