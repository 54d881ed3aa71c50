package ha

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	natsbroker "github.com/onceshop/onceshop/internal/outbox/broker/nats"
	"github.com/onceshop/onceshop/internal/proof/fleet"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// serveBroker runs a NATS server with the settings in the environment until ctx ends.
func serveBroker(ctx context.Context) error {
	var s brokerSettings
	if err := json.Unmarshal([]byte(os.Getenv(asBroker)), &s); err != nil {
		return err
	}
	options := &server.Options{ServerName: s.Name, Host: "127.0.0.1", Port: s.Port, StoreDir: s.Dir, JetStream: true,
		SyncAlways: true, NoSigs: true, NoLog: true,
		Cluster: server.ClusterOpts{Name: "ha", Host: "127.0.0.1", Port: s.ClusterPort}}
	for _, route := range s.Routes {
		options.Routes = append(options.Routes, &url.URL{Scheme: "nats", Host: route})
	}
	broker, err := server.NewServer(options)
	if err != nil {
		return err
	}
	broker.Start()
	<-ctx.Done()
	broker.Shutdown()
	broker.WaitForShutdown()
	return nil
}

type brokerSettings struct {
	Name, Dir         string
	Port, ClusterPort int
	Routes            []string
}

// brokers is a cluster of three NATS servers with JetStream, by name.
type brokers struct {
	t        *testing.T
	settings map[string]brokerSettings
	running  map[string]*fleet.Process
	url      string
}

func startBrokers(t *testing.T) *brokers {
	t.Helper()
	b := &brokers{t: t, settings: map[string]brokerSettings{}, running: map[string]*fleet.Process{}}
	var urls, routes []string
	number := func(address string) int {
		n, err := strconv.Atoi(port(t, address))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for n := range 3 {
		client, route := shoptest.FreeAddr(t), shoptest.FreeAddr(t)
		urls, routes = append(urls, "nats://"+client), append(routes, route)
		name := fmt.Sprintf("n%d", n)
		b.settings[name] = brokerSettings{Name: name, Dir: t.TempDir(), Port: number(client),
			ClusterPort: number(route)}
	}
	b.url = strings.Join(urls, ",")
	for name, s := range b.settings {
		s.Routes = routes
		b.settings[name] = s
		b.start(name)
	}
	shoptest.Eventually(t, fleet.Soon, "the brokers have a leader", func() bool {
		return b.ask(func(ctx context.Context, js jetstream.JetStream) error {
			_, err := js.AccountInfo(ctx)
			return err
		}) == nil
	})
	return b
}

func (b *brokers) start(name string) {
	b.t.Helper()
	settings, err := json.Marshal(b.settings[name])
	if err != nil {
		b.t.Fatal(err)
	}
	b.running[name] = fleet.Start(b.t, "broker "+name, exec.Command(os.Args[0]), asBroker+"="+string(settings))
	b.running[name].AwaitListening(fmt.Sprintf("127.0.0.1:%d", b.settings[name].Port))
}

// ask asks any of the brokers.
func (b *brokers) ask(question func(ctx context.Context, js jetstream.JetStream) error) error {
	b.t.Helper()
	conn, err := nats.Connect(b.url)
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), 2*time.Second)
	defer cancel()
	return question(ctx, js)
}

// leader waits until the event stream has a leader, and all its copies if whole is true. It returns
// the leader's name and the number of copies.
func (b *brokers) leader(whole bool) (name string, copies int) {
	b.t.Helper()
	shoptest.Eventually(b.t, fleet.Soon, "the event stream has a leader", func() bool {
		err := b.ask(func(ctx context.Context, js jetstream.JetStream) error {
			stream, err := js.Stream(ctx, natsbroker.EventStream)
			if err != nil {
				return err
			}
			info := stream.CachedInfo()
			name, copies = info.Cluster.Leader, info.Config.Replicas
			for _, replica := range info.Cluster.Replicas {
				if whole && (replica.Offline || !replica.Current) {
					name = ""
				}
			}
			return nil
		})
		return err == nil && name != ""
	})
	return name, copies
}

// The leader of the event stream is killed under load, twice. Orders do not notice, and every
// receipt is sent once.
func TestBrokerLeaderKilled(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	b := startBrokers(t)
	w := setup(t, map[string]string{"BROKER_URL": b.url})
	nodes := []*node{w.serve(), w.serve()}
	buyers := w.buy(8, nodes[0].addr, nodes[1].addr)
	for range 2 {
		buyers.more(100)
		leader, copies := b.leader(true)
		if copies != 3 {
			t.Errorf("the event stream has %d copies, want 3", copies)
		}
		b.running[leader].Kill()
		killed := time.Now()
		w.receiptsAgain(killed)
		t.Logf("FIGURES receipts again %s after the leader was killed", time.Since(killed).Round(time.Millisecond))
		b.start(leader)
	}
	buyers.more(100)
	if len(buyers.failures) > 0 {
		t.Errorf("orders noticed that a broker was away: %s", buyers.failures[0])
	}
	buyers.verify()
	if _, copies := b.leader(true); copies != 3 {
		t.Errorf("the event stream has %d copies in the end, want 3", copies)
	}
}

// receiptsAgain waits for the receipt of an order that was paid after the moment.
func (w *world) receiptsAgain(moment time.Time) {
	w.t.Helper()
	shoptest.Eventually(w.t, fleet.Healed, "receipts are sent again", func() bool {
		return w.Count(w.t, "SELECT count(*) FROM receipts WHERE sent_at IS NOT NULL AND paid_at > $1", moment) > 0
	})
}
