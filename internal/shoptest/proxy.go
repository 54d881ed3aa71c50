package shoptest

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Fate is what the proxy does with bytes that a client sent.
type Fate int

const (
	// Pass forwards them.
	Pass Fate = iota
	// LoseRequest drops them and cuts the connection.
	LoseRequest
	// LoseAnswer forwards them and cuts the connection when the server answers, before the client
	// gets the answer.
	LoseAnswer
	// Detach forwards them. The server does not see the client disconnect until it has answered.
	Detach
)

// Proxy is a TCP proxy between clients and a server. A test can break its connections.
type Proxy struct {
	to       string
	listener net.Listener
	onSend   atomic.Pointer[func([]byte) Fate]
	deaf     atomic.Bool

	mu       sync.Mutex
	refusing bool
	conns    map[net.Conn]bool
}

// StartProxy forwards connections to the server at to ("host:port") until the test ends.
func StartProxy(t testing.TB, to string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{to: to, listener: listener, conns: map[net.Conn]bool{}}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		p.Refuse(true)
		listener.Close()
		p.Cut()
		serving.Wait()
	})
	return p
}

// Addr returns the proxy's address.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// OnSend calls decide with the bytes that clients send, before the proxy forwards them. Connections
// call it concurrently.
func (p *Proxy) OnSend(decide func(sent []byte) Fate) { p.onSend.Store(&decide) }

// Deafen drops everything that the server sends, or stops doing so. The connections stay open.
func (p *Proxy) Deafen(deaf bool) { p.deaf.Store(deaf) }

// Refuse rejects new connections, or stops doing so. Open connections stay open.
func (p *Proxy) Refuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusing = refuse
}

// Cut closes the open connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		conn.Close()
	}
	clear(p.conns)
}

func (p *Proxy) serve(client net.Conn) {
	if !p.open(client) {
		return
	}
	defer p.close(client)
	server, err := net.Dial("tcp", p.to)
	if err != nil || !p.open(server) {
		return
	}
	defer p.close(server)
	p.join(client, server)
}

// open registers a connection for Cut, or closes it if the proxy refuses connections.
func (p *Proxy) open(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refusing {
		conn.Close()
		return false
	}
	p.conns[conn] = true
	return true
}

func (p *Proxy) close(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	conn.Close()
	delete(p.conns, conn)
}

var errLost = errors.New("the proxy has cut the connection")

// join forwards bytes both ways until one side closes, and then closes the other.
func (p *Proxy) join(client, server net.Conn) {
	var lost, detached atomic.Bool
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(writer(func(sent []byte) error {
			switch p.fate(sent) {
			case Pass:
			case LoseRequest:
				return errLost
			case LoseAnswer:
				lost.Store(true)
			case Detach:
				detached.Store(true)
			}
			_, err := server.Write(sent)
			return err
		}), client)
		client.Close()
		if !detached.Load() {
			server.Close()
		}
	})
	both.Go(func() {
		_, _ = io.Copy(writer(func(answer []byte) error {
			if lost.Load() {
				return errLost
			}
			if p.deaf.Load() {
				return nil
			}
			_, err := client.Write(answer)
			return err
		}), server)
		client.Close()
		server.Close()
	})
	both.Wait()
}

func (p *Proxy) fate(sent []byte) Fate {
	if decide := p.onSend.Load(); decide != nil {
		return (*decide)(sent)
	}
	return Pass
}

type writer func([]byte) error

func (w writer) Write(b []byte) (int, error) {
	if err := w(b); err != nil {
		return 0, err
	}
	return len(b), nil
}
