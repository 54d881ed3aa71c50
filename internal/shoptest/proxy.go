package shoptest

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Fate is what becomes of a connection at something that its client sends.
type Fate int

const (
	// Pass sends it on.
	Pass Fate = iota
	// LoseRequest cuts the connection before the server hears of it.
	LoseRequest
	// LoseAnswer sends it on and cuts the connection as soon as the server answers: the client
	// never hears.
	LoseAnswer
	// Detach sends it on, and the server does not hear that the client leaves, until it has
	// answered.
	Detach
)

// Proxy is a network between clients and a server that a test can break.
type Proxy struct {
	to       string
	listener net.Listener
	onSend   atomic.Pointer[func([]byte) Fate]
	deaf     atomic.Bool

	mu       sync.Mutex
	refusing bool
	conns    map[net.Conn]bool
}

// StartProxy passes connections on to the server at to, which is "host:port", until the test ends.
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

// Addr is where clients find the server through the proxy.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// OnSend lets decide see what clients send, as it comes, and say what becomes of it. While it
// waits, so does what was sent. Connections use it side by side.
func (p *Proxy) OnSend(decide func(sent []byte) Fate) { p.onSend.Store(&decide) }

// Deafen loses all that the server says, on connections that stay open, or ends that.
func (p *Proxy) Deafen(deaf bool) { p.deaf.Store(deaf) }

// Refuse lets no new connection in, or ends that. Those that are open stay open.
func (p *Proxy) Refuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusing = refuse
}

// Cut breaks the connections that are open.
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

// open remembers a connection for Cut, or closes it if none is let in.
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

// join passes bytes both ways until one side has ended, and then ends the other.
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
