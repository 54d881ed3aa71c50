package faults

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/onceshop/onceshop/internal/shoptest"
)

// network lies between the nodes and one server, and can be slow, silent or cut.
type network struct {
	t     *testing.T
	proxy *toxiproxy.Proxy
}

// through puts a network before the server of the URL, and returns the URL that leads through it.
func through(t *testing.T, server string) (*network, string) {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	api := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	// The network comes back on its address, which must not be an ephemeral port: a connection of
	// another program could have it meanwhile.
	n := &network{t: t, proxy: toxiproxy.NewProxy(api, t.Name(), shoptest.FreeAddr(t), u.Host)}
	if err := n.proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.proxy.Stop)
	u.Host = n.proxy.Listen
	return n, u.String()
}

// redirect cuts what is open and leads to another server from now on.
func (n *network) redirect(server string) {
	n.t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		n.t.Fatal(err)
	}
	n.update(u.Host, true)
}

// down lets nobody through until up.
func (n *network) down() { n.enable(false) }
func (n *network) up()   { n.enable(true) }

func (n *network) enable(enabled bool) {
	n.t.Helper()
	n.update(n.proxy.Upstream, enabled)
}

// update closes the proxy's port and opens it again. The kernel may need a moment to free a port to
// which clients connect meanwhile.
func (n *network) update(upstream string, enabled bool) {
	n.t.Helper()
	var err error
	shoptest.Eventually(n.t, 10*time.Second, "the network has its port again", func() bool {
		err = n.proxy.Update(&toxiproxy.Proxy{Listen: n.proxy.Listen, Upstream: upstream, Enabled: enabled})
		return !errors.Is(err, syscall.EADDRINUSE)
	})
	if err != nil {
		n.t.Fatal(err)
	}
}

// slow delays every answer.
func (n *network) slow(milliseconds int) {
	n.add("slow", "latency", "downstream", fmt.Sprintf(`{"latency":%d}`, milliseconds))
}

// swallow loses everything that is sent, on connections that stay open.
func (n *network) swallow() {
	n.add("deaf", "timeout", "upstream", `{"timeout":0}`)
	n.add("dumb", "timeout", "downstream", `{"timeout":0}`)
}

// heal is the end of every fault.
func (n *network) heal() { n.proxy.Toxics.ResetToxics(n.t.Context()) }

func (n *network) add(name, kind, stream, attributes string) {
	n.t.Helper()
	toxic := fmt.Sprintf(`{"name":%q,"type":%q,"stream":%q,"attributes":%s}`, name, kind, stream, attributes)
	if _, err := n.proxy.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
		n.t.Fatal(err)
	}
}
