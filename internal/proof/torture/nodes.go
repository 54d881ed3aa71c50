package torture

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/proof/kill"
)

// Windows of the nodes, short so that what a dead node holds is free soon.
const (
	providerTimeout = time.Second
	chargeLease     = 6500 * time.Millisecond
	relayLease      = 5 * time.Second
	orderExpiry     = 30 * time.Second
	// longestStop is longer than either lease: a node that is let go again finds that others have
	// taken over.
	longestStop = 8 * time.Second
	// drainPatience is what a node gets after SIGTERM. It promises 10 s for its requests, and its
	// workers finish what they hold.
	drainPatience = 30 * time.Second
)

// node is a shop that is started again whenever it dies.
type node struct {
	run      *run
	name     string
	address  string
	ops      string
	env      []string
	front    *edge            // from the clients
	edges    map[string]*edge // to the servers, by their names
	sequence *rand.Rand       // of the points to die at

	mu      sync.Mutex
	process *process
	point   crash.Point // armed in the process
	ours    bool        // whoever ended the process was us
	calm    bool        // from now on it is not armed
	held    bool        // it is not started again
	deck    []crash.Point
}

// startNodes opens the edges of two nodes; they start in keepAlive.
func (r *run) openNodes() error {
	for i, name := range nodeNames {
		n := &node{run: r, name: name, edges: map[string]*edge{},
			sequence: rand.New(rand.NewPCG(r.Seed, uint64(100+i)))} //nolint:gosec // replayed from the seed
		var err error
		if n.address, err = r.addresses.free(); err != nil {
			return err
		}
		if n.ops, err = r.addresses.free(); err != nil {
			return err
		}
		if n.front, err = r.edges.open("clients>"+name, n.address); err != nil {
			return err
		}
		if err := n.openEdges(); err != nil {
			return err
		}
		r.nodes = append(r.nodes, n)
	}
	return nil
}

func (n *node) openEdges() error {
	s := &n.run.servers
	database, broker := s.postgres.url, s.broker.url
	for name, upstream := range map[string]string{"postgres": hostOf(database), "redis": s.redis.address,
		"broker": s.broker.host, "psp": s.psp.address, "smtp": s.smtpAddress} {
		if upstream == "" { // the nodes connect to a broker themselves that no proxy fits before
			continue
		}
		e, err := n.run.edges.open(n.name+">"+name, upstream)
		if err != nil {
			return err
		}
		n.edges[name] = e
	}
	s.postgres.edges = append(s.postgres.edges, n.edges["postgres"])
	if e := n.edges["broker"]; e != nil {
		broker = replaceHost(broker, e.address())
	}
	n.env = []string{
		"SHOP_ADDR=" + n.address, "SHOP_OPS_ADDR=" + n.ops, "SHOP_URL=http://shop.localhost",
		"SHOP_DATA_DIR=" + n.run.dir,
		"SHOP_SECRET=torture-torture-torture-torture-32",
		"DATABASE_URL=" + replaceHost(database, n.edges["postgres"].address()),
		"REDIS_URL=redis://" + n.edges["redis"].address() + "/0", "BROKER_URL=" + broker,
		"SMTP_URL=smtp://" + n.edges["smtp"].address() + "?tls=none",
		"PSP_URL=http://" + n.edges["psp"].address(), "PSP_WEBHOOK_SECRET=" + s.webhookSecret,
		"SHOP_PROVIDER_TIMEOUT=" + providerTimeout.String(), "SHOP_CHARGE_LEASE=" + chargeLease.String(),
		"SHOP_RELAY_LEASE=" + relayLease.String(),
		"SHOP_ORDER_EXPIRY=" + orderExpiry.String(),
		"SHOP_DRAIN_DELAY=0s",                                // no balancer
		"SHOP_GUEST_RATE_LIMIT=0", "SHOP_TOKEN_RATE_LIMIT=0", // all clients come from one address
	}
	n.env = append(n.env, n.run.BrokerSettings...)
	return nil
}

// keepAlive starts the node again whenever it has died, until ctx ends.
func (n *node) keepAlive(ctx context.Context) {
	for ctx.Err() == nil {
		if n.isHeld() {
			sleep(ctx, 50*time.Millisecond)
			continue
		}
		p, err := n.start()
		if err != nil {
			n.run.troubled("%s does not start: %v", n.name, err)
			return
		}
		if answers(ctx, p, n.address) == nil {
			n.run.listening(n)
		}
		select {
		case <-p.exited:
			n.died()
			sleep(ctx, 100*time.Millisecond)
		case <-ctx.Done():
			n.end((*process).kill) // all is said and done, or somebody is in a hurry
		}
	}
}

// start arms the node at the next point of its sequence, to die there after a time.
func (n *node) start() (*process, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	env := n.env
	if n.point, n.ours = "", false; !n.calm {
		if len(n.deck) == 0 {
			n.deck = kill.Points()
			n.sequence.Shuffle(len(n.deck), func(i, j int) { n.deck[i], n.deck[j] = n.deck[j], n.deck[i] })
		}
		n.point = n.deck[0]
		life := n.run.lifetime/4 + time.Duration(n.sequence.Int64N(int64(n.run.lifetime*3/4)))
		env = append(env[:len(env):len(env)], kill.Env+"="+string(n.point), kill.EnvAfter+"="+life.String())
	}
	var err error
	n.process, err = n.run.startProcess(n.name, env, n.run.Node[0], n.run.Node[1:]...)
	return n.process, err
}

// died finds out why, and turns the page of the sequence when the node has died at its point.
func (n *node) died() {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.ours:
	case n.process.killed() && n.point != "":
		n.deck = n.deck[1:]
		n.run.count.crash(n.point)
		n.run.note(disturbance{what: "crash at " + string(n.point), node: n.name})
	case n.portTaken():
		n.run.troubled("another program took a port of %s; see %s.log", n.name, n.name)
	default:
		n.run.fail("node", fmt.Sprintf("%s ended by itself: %s; see %s.log", n.name, n.process.cmd.ProcessState,
			n.name))
	}
	n.process = nil
}

// portTaken reports whether the last line of the node's log is the error of a port in use.
func (n *node) portTaken() bool {
	log, err := os.ReadFile(filepath.Join(n.run.dir, n.name+".log"))
	if err != nil {
		return false
	}
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return strings.Contains(lines[len(lines)-1], "in use by another program")
}

// end has the process end and returns when it has; keepAlive starts another.
func (n *node) end(how func(*process)) {
	n.mu.Lock()
	p := n.process
	n.ours = true
	n.mu.Unlock()
	if p != nil {
		how(p)
	}
}

// hold ends the node in order, and lets it start again when the function is called.
func (n *node) hold() (release func()) {
	n.setHeld(true)
	n.end(func(p *process) { p.stop(drainPatience) })
	return func() { n.setHeld(false) }
}

func (n *node) setHeld(held bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held = held
}

func (n *node) isHeld() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.held
}

// soothe restarts the node if it is armed: from now on it lives.
func (n *node) soothe() {
	n.mu.Lock()
	n.calm = true
	armed := n.point != "" && n.process != nil
	n.mu.Unlock()
	if armed {
		n.end(func(p *process) { p.stop(drainPatience) })
	}
}

// ready asks the node itself, around the edges.
func (n *node) ready(ctx context.Context) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.ops+"/readyz", nil)
	if err != nil {
		return false
	}
	answer, err := n.run.probe.Do(request)
	if err != nil {
		return false
	}
	_ = answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

func split(address string) (host, port string) {
	host, port, _ = net.SplitHostPort(address)
	return host, port
}
