package pg

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	// silence is how long an answer may take before the server is asked whether it still runs.
	silence = 2 * time.Second
	// askTimeout bounds this question. Postgres answers it before it looks at anything else.
	askTimeout = 2 * time.Second
	// silentFor is how long no new connection goes to a server that did not answer.
	silentFor = 3 * time.Second
)

// watch closes the connections to servers that have stopped without closing them: frozen, without
// power or behind a broken network. TCP would notice after many minutes, and each connection would
// cost its caller the whole time-out, and a caller without a deadline for ever.
type watch struct {
	dial   pgconn.DialFunc
	mu     sync.Mutex
	silent map[string]time.Time // until when, by address
}

var errSilent = errors.New("pg: the server did not answer a moment ago")

// Dial connects as the pool's own function does, unless the server is silent.
func (w *watch) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if w.isSilent(address) {
		return nil, errSilent
	}
	conn, err := w.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &watched{Conn: conn, watch: w, network: network, address: address}
	c.timer = time.AfterFunc(silence, c.ask)
	c.timer.Stop()
	return c, nil
}

func (w *watch) isSilent(address string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Before(w.silent[address])
}

// answers reports whether the server answers a new connection.
func (w *watch) answers(network, address string) bool {
	if w.isSilent(address) {
		return false
	}
	if w.ask(network, address) == nil {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.silent == nil {
		w.silent = make(map[string]time.Time)
	}
	w.silent[address] = time.Now().Add(silentFor)
	return false
}

// ask asks the server whether it encrypts, which needs no login, and waits for any answer.
func (w *watch) ask(network, address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	conn, err := w.dial(ctx, network, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		return err
	}
	question, err := (&pgproto3.SSLRequest{}).Encode(nil)
	if err != nil {
		return err
	}
	if _, err := conn.Write(question); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

// watched is a connection that ends when its server is silent.
type watched struct {
	net.Conn
	watch            *watch
	network, address string
	timer            *time.Timer
	reading          atomic.Bool
}

func (c *watched) Read(into []byte) (int, error) {
	c.reading.Store(true)
	c.timer.Reset(silence)
	defer func() {
		c.timer.Stop()
		c.reading.Store(false)
	}()
	return c.Conn.Read(into)
}

// ask runs when an answer takes long. A statement may take its time while the server runs.
func (c *watched) ask() {
	if !c.reading.Load() {
		return
	}
	answers := c.watch.answers(c.network, c.address)
	switch {
	case !c.reading.Load():
	case answers:
		c.timer.Reset(silence)
	default:
		_ = c.Close()
	}
}
