package torture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
)

// edge is a proxy between two processes: it is where the network fails.
type edge struct {
	name  string
	proxy *toxiproxy.Proxy
}

// edges makes proxies.
type edges struct {
	server    *toxiproxy.ApiServer
	addresses *addresses
}

func newEdges(addresses *addresses) *edges {
	toxics.Register(cutCommit, new(commitCutter))
	return &edges{addresses: addresses, server: toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())}
}

// open lets traffic through to the upstream, host:port, from a port of its own.
func (e *edges) open(name, upstream string) (*edge, error) {
	listen, err := e.addresses.free()
	if err != nil {
		return nil, err
	}
	proxy := toxiproxy.NewProxy(e.server, name, listen, upstream)
	if err := proxy.Start(); err != nil {
		return nil, fmt.Errorf("open the proxy %s: %w", name, err)
	}
	return &edge{name: name, proxy: proxy}, nil
}

// address is where the edge's client connects.
func (e *edge) address() string { return e.proxy.Listen }

// pointTo sends new connections elsewhere and ends those that there are.
func (e *edge) pointTo(upstream string) error {
	err := retryPort(func() error {
		return e.proxy.Update(&toxiproxy.Proxy{Listen: e.proxy.Listen, Upstream: upstream, Enabled: true})
	})
	if err != nil {
		return fmt.Errorf("point the proxy %s to %s: %w", e.name, upstream, err)
	}
	return nil
}

// retryPort tries again while another program has the port: toxiproxy closes it for a moment when a
// proxy changes.
func retryPort(listen func() error) error {
	err := listen()
	for try := 0; errors.Is(err, syscall.EADDRINUSE) && try < 20; try++ {
		<-time.After(pollPause)
		err = listen()
	}
	return err
}

// toxic is a way in which the network fails, as toxiproxy names it.
type toxic struct {
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	Stream     string         `json:"stream"`
	Toxicity   float64        `json:"toxicity"`
	Attributes map[string]any `json:"attributes"`
}

func (e *edge) poison(t toxic) error {
	body, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("encode the toxic %s: %w", t.Type, err)
	}
	if _, err := e.proxy.Toxics.AddToxicJson(strings.NewReader(string(body))); err != nil {
		return fmt.Errorf("add %s to %s: %w", t.Type, e.name, err)
	}
	return nil
}

// heal takes every toxic away.
func (e *edge) heal(ctx context.Context) { e.proxy.Toxics.ResetToxics(ctx) }

// shut ends all connections and refuses new ones.
func (e *edge) shut() { e.proxy.Stop() }

// reopen ends shut. An edge that is open stays as it is.
func (e *edge) reopen() error {
	if err := retryPort(e.proxy.Start); err != nil && !errors.Is(err, toxiproxy.ErrProxyAlreadyStarted) {
		return fmt.Errorf("reopen the proxy %s: %w", e.name, err)
	}
	return nil
}

// cutCommit is the toxic that cuts a connection at its first COMMIT. Half of the connections lose
// the answer of Postgres, the others the COMMIT itself.
const cutCommit = "cut_commit"

type commitCutter struct{}

// prepared are the ways in which a connection says COMMIT: as a query of its own, or by the name of
// a statement prepared before.
type prepared struct {
	names [][]byte
	// drops is true if Postgres does not get the COMMIT.
	drops bool
}

// NewState is what a connection has prepared.
func (*commitCutter) NewState() any {
	return &prepared{names: [][]byte{[]byte("commit\x00")}, drops: rand.IntN(2) == 0} //nolint:gosec // no secret
}

// Pipe works on what the client sends.
func (*commitCutter) Pipe(stub *toxics.ToxicStub) {
	state := stub.State.(*prepared) //nolint:forcetypeassert // see NewState
	for {
		select {
		case <-stub.Interrupt:
			return
		case chunk := <-stub.Input:
			if chunk == nil {
				stub.Close()
				return
			}
			commits := state.commits(chunk.Data)
			if !commits || !state.drops {
				stub.Output <- chunk
			}
			if commits {
				stub.Close()
				return
			}
		}
	}
}

func (p *prepared) commits(sent []byte) bool {
	if before, _, ok := bytes.Cut(sent, []byte("\x00COMMIT\x00")); ok {
		if at := bytes.LastIndexByte(before, 's'); at >= 0 {
			p.names = append(p.names, slices.Concat([]byte{0}, before[at:], []byte{0}))
		}
	}
	return slices.ContainsFunc(p.names, func(name []byte) bool { return bytes.Contains(sent, name) })
}
