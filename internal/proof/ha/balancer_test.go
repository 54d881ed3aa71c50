package ha

import (
	"encoding/csv"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/template"

	"github.com/onceshop/onceshop/internal/proof/fleet"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// balancerConfig repeats no request, asks /readyz twice a second, and sends every request over
// whatever connection to the node is open.
var balancerConfig = template.Must(template.New("").Parse(`
defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 30s
  retries 0
  http-reuse always

frontend shop
  bind {{.Addr}}
  default_backend nodes

backend nodes
  balance roundrobin
  option httpchk GET /readyz
  default-server check inter 500ms fall 2 rise 1
{{range $i, $n := .Nodes}}  server n{{$i}} {{$n.Addr}}
{{end}}
frontend stats
  bind {{.Stats}}
  stats enable
  stats uri /
`))

// balancer is HAProxy.
type balancer struct {
	*fleet.Process
	addr, stats string
}

func (w *world) balance() *balancer {
	t := w.t
	t.Helper()
	haproxy := program(t, "haproxy", "haproxy")
	b := &balancer{addr: shoptest.FreeAddr(t), stats: shoptest.FreeAddr(t)}
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	type server struct{ Addr string }
	var servers []server
	for _, n := range w.nodes {
		servers = append(servers, server{n.addr})
	}
	err = balancerConfig.Execute(file, map[string]any{"Addr": b.addr, "Stats": b.stats, "Nodes": servers})
	if err != nil {
		t.Fatal(err)
	}
	b.Process = fleet.Start(t, "haproxy", exec.Command(haproxy, "-db", "-f", path))
	b.AwaitListening(b.addr)
	return b
}

// state is what the balancer thinks of a node, such as UP or DOWN.
func (b *balancer) state(t *testing.T, node int) string {
	t.Helper()
	_, body, err := fleet.Get(t, "http://"+b.stats+"/;csv")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(body)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if row[0] == "nodes" && row[1] == fmt.Sprintf("n%d", node) {
			return row[17]
		}
	}
	t.Fatalf("the balancer does not know node %d: %s", node, body)
	return ""
}

// Four nodes behind a balancer are replaced one after the other while orders flow. No request
// fails.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	w := setup(t, nil)
	w.environ["SHOP_DRAIN_DELAY"] = "2s" // longer than the balancer takes to notice
	for range 4 {
		w.serve()
	}
	balancer := w.balance()
	buyers := w.buy(8, balancer.addr)
	for i, old := range w.nodes {
		shoptest.Eventually(t, fleet.Soon, "the balancer sends requests to the node", func() bool {
			return balancer.state(t, i) == "UP"
		})
		buyers.more(20)
		old.Signal(syscall.SIGTERM)
		if code := old.AwaitExit().ExitStatus(); code != 0 {
			t.Errorf("node %d ended with %d: %s", i, code, old.Output())
		}
		w.nodes[i] = w.launch(old.addr)
		w.nodes[i].AwaitReady()
	}
	buyers.more(50)
	buyers.stop()
	if len(buyers.failures) > 0 {
		t.Errorf("%d requests failed: %s", len(buyers.failures), buyers.failures[:min(5, len(buyers.failures))])
	}
	buyers.verify()
}
