package nats

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/shoptest"
)

// Streams of a cluster have three copies, even if the node starts before the brokers, or cannot
// connect at first to brokers that have the streams.
func TestStreamsOfACluster(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	before := opening(t, strings.Join(cluster.urls(), ","), Settings{Window: time.Minute, MaxAge: time.Hour})
	cluster.start(t)
	if err := <-before; err != nil {
		t.Fatal(err)
	}
	cluster.wantReplicas(t, 3)

	late := shoptest.FreeAddr(t)
	settings := Settings{Window: 2 * time.Minute, MaxAge: time.Hour}
	opened := opening(t, "nats://"+late, settings)
	forward(t, late, cluster.servers[0].URL())
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	cluster.wantReplicas(t, 3)

	settings.Replicas = 1
	if err := <-opening(t, cluster.urls()[1], settings); err != nil {
		t.Fatal(err)
	}
	cluster.wantReplicas(t, 3) // a start never makes a stream smaller
}

// A stream grows when the setting or the cluster asks for more copies.
func TestStreamsGrow(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	cluster.start(t)
	settings := Settings{Window: time.Minute, MaxAge: time.Hour}
	for _, replicas := range []int{1, 2, 0} {
		settings.Replicas = replicas
		if err := <-opening(t, cluster.urls()[0], settings); err != nil {
			t.Fatal(err)
		}
		if replicas == 0 {
			replicas = 3
		}
		cluster.wantReplicas(t, replicas)
	}
}

// opening tries to open the streams until it succeeds, as a node does.
func opening(t *testing.T, address string, settings Settings) <-chan error {
	t.Helper()
	conn, err := nats.Connect(address, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	opened := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		for {
			attempt, stop := context.WithTimeout(ctx, time.Second)
			err := New(js, settings, quiet).Open(attempt)
			stop()
			if err == nil || ctx.Err() != nil {
				opened <- err
				return
			}
		}
	}()
	return opened
}

// natsCluster is three NATS servers with JetStream.
type natsCluster struct {
	options []*server.Options
	servers []*shoptest.NATSServer
}

// newCluster reserves the servers' ports.
func newCluster(t *testing.T) *natsCluster {
	t.Helper()
	c := &natsCluster{}
	var routes []*url.URL
	for n := range 3 {
		var ports [2]int
		for i := range ports {
			addr, err := net.ResolveTCPAddr("tcp", shoptest.FreeAddr(t))
			if err != nil {
				t.Fatal(err)
			}
			ports[i] = addr.Port
		}
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", ports[1])})
		c.options = append(c.options, &server.Options{
			ServerName: fmt.Sprintf("n%d", n), Host: "127.0.0.1", Port: ports[0], StoreDir: t.TempDir(),
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: ports[1]},
		})
	}
	for _, options := range c.options {
		options.Routes = routes
	}
	return c
}

func (c *natsCluster) start(t *testing.T) {
	t.Helper()
	for _, options := range c.options {
		c.servers = append(c.servers, shoptest.StartNATS(t, options))
	}
}

func (c *natsCluster) urls() []string {
	var urls []string
	for _, options := range c.options {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", options.Port))
	}
	return urls
}

func (c *natsCluster) wantReplicas(t *testing.T, want int) {
	t.Helper()
	js, err := jetstream.New(connect(t, c.urls()[0]))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{EventStream, DeadStream} {
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if got := stream.CachedInfo().Config.Replicas; got != want {
			t.Errorf("%s has %d copies, want %d", name, got, want)
		}
	}
}

// forward passes connections from an address on to a server, until the test ends.
func forward(t *testing.T, from, to string) {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go pipe(client, u.Host)
		}
	}()
}

func pipe(client net.Conn, to string) {
	defer client.Close()
	broker, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer broker.Close()
	go func() { _, _ = io.Copy(broker, client); broker.Close() }()
	_, _ = io.Copy(client, broker)
}
