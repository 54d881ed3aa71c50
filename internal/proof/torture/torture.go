// Package torture runs two shops and all their servers as processes, lets random faults happen to
// them while clients buy, heals everything, and then holds what clients were told, what the
// witnesses saw and what the database says against each other. All that it decides comes from a
// seed. What the operating system makes of it does not: the same seed makes the same faults at the
// same times, and the same intents, but not the same interleaving.
package torture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/pg"
)

// MinDuration is the shortest run that makes sense.
const MinDuration = 10 * time.Second

// Options say what to run.
type Options struct {
	Seed     uint64
	Duration time.Duration // of the faults; healing and checking come on top
	Program  string        // the shop command, which the children run
	Dir      string        // keeps the servers' data and all logs; everybody must be able to enter
	Progress io.Writer     // is told what goes on, line by line
	Node     []string      // the command of a node
	// BrokerURL is a broker to use instead of one that the run starts, or empty. BrokerSettings are
	// the nodes' settings for it, as NAME=VALUE.
	BrokerURL      string
	BrokerSettings []string
}

// run is a run under way.
type run struct {
	Options
	begin     time.Time
	dir       string
	lifetime  time.Duration // the longest time after which a node looks for its next crash point
	addresses *addresses
	edges     *edges
	servers   servers
	nodes     []*node
	world     world
	kinds     []kind   // of faults
	leftOut   []string // of what must have happened
	count     *counters
	probe     *http.Client
	products  []string
	drained   time.Duration          // how long it took after the last fault
	mails     map[string][]time.Time // the receipts before the restore

	mu           sync.Mutex
	backup       backup
	disturbances []disturbance
	violations   []Violation
	troubles     []string
}

// disturbance is something that we did, or that happened, to a process.
type disturbance struct {
	at, until  time.Duration
	what, node string
}

// Violation is a broken promise.
type Violation struct {
	Invariant string   `json:"invariant"`
	Order     string   `json:"order,omitempty"`
	Says      string   `json:"says"`
	Timeline  []string `json:"timeline,omitempty"`
}

// Run tortures the shop and returns the report; the error says what kept it from being run.
func Run(ctx context.Context, o Options) (report Report, err error) {
	r := &run{Options: o, dir: o.Dir, kinds: kinds, begin: time.Now(), addresses: newAddresses(), count: newCounters(),
		lifetime: min(max(o.Duration/60, time.Second), 8*time.Second),
		probe:    &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	r.edges = newEdges(r.addresses)
	defer r.servers.stop() //nolint:contextcheck // it ends what is left when ctx has ended
	r.tell("starting the servers")
	if err := r.startServers(ctx); err != nil {
		return report, err
	}
	if b := r.servers.broker; b.cell != "" && b.keeps() {
		defer func() {
			after, cancel := finish(ctx)
			defer cancel()
			err = errors.Join(err, r.dropStreams(after))
		}()
	}
	if err := r.seedShop(ctx); err != nil {
		return report, err
	}
	if err := r.openNodes(); err != nil {
		return report, err
	}
	return r.attack(ctx)
}

// attack runs clients and faults for the time, then heals everything and verifies the result.
func (r *run) attack(ctx context.Context) (report Report, err error) {
	alive, letDie := context.WithCancel(context.WithoutCancel(ctx))
	var nodes sync.WaitGroup
	defer nodes.Wait()
	defer letDie()
	for _, n := range r.nodes {
		nodes.Go(func() { n.keepAlive(alive) })
	}
	if err := r.awaitReady(ctx); err != nil {
		return report, fmt.Errorf("the nodes do not get ready: %w", err)
	}
	faults := schedule(r.Seed, r.Duration, r.kinds)
	if err := r.writeSchedule(faults); err != nil {
		return report, err
	}
	r.begin = time.Now()
	busy, stop := context.WithCancel(ctx)
	defer stop()
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() { r.newClient(i).live(busy) })
	}
	group.Go(func() { r.watch(busy) })
	group.Go(func() { r.misfortune(busy, faults) })
	r.lastLong(ctx)
	stop()
	group.Wait()
	if err := ctx.Err(); err != nil {
		return report, err
	}
	return r.settleAndCheck(ctx)
}

// lastLong waits for the end of the duration, and on a slow machine until enough has happened, but
// no longer than twice as long.
func (r *run) lastLong(ctx context.Context) {
	enough := func() bool {
		return r.count.operations.Load() >= r.leastOperations() && r.count.met(r.leastCrashes())
	}
	if !sleep(ctx, r.Duration) || r.Duration < demanding || enough() {
		return
	}
	r.tell("going on until there were %d operations, and %d crashes at each point", r.leastOperations(),
		r.leastCrashes())
	// The report says if it was not enough.
	_ = poll(ctx, r.Duration, func() (bool, error) { return enough(), nil })
}

// leastOperations is how many requests a run must have made.
func (r *run) leastOperations() int64 {
	switch {
	case r.Duration >= long:
		return 200_000
	case r.Duration >= demanding:
		return 20_000
	default:
		return 1
	}
}

// leastCrashes is how often each crash point must be met.
func (r *run) leastCrashes() int64 {
	switch {
	case r.Duration >= long:
		return 20
	case r.Duration >= demanding:
		return 3
	default:
		return 1
	}
}

// awaitReady waits until every node is ready.
func (r *run) awaitReady(ctx context.Context) error {
	return poll(ctx, healing, func() (bool, error) {
		for _, n := range r.nodes {
			if !n.ready(ctx) {
				return false, nil
			}
		}
		return true, nil
	})
}

// now is the time since the run's begin.
func (r *run) now() time.Duration { return time.Since(r.begin) }

func (r *run) tell(format string, args ...any) {
	fmt.Fprintf(r.Progress, "%8s  %s\n", r.now().Round(100*time.Millisecond), fmt.Sprintf(format, args...))
}

// note keeps what was done to a process.
func (r *run) note(d disturbance) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d.until == 0 {
		d.at, d.until = r.now(), r.now()
	}
	r.disturbances = append(r.disturbances, d)
}

// violate keeps a broken promise; of each kind the first are enough.
func (r *run) violate(invariant, order, says string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.violations) < 200 {
		r.violations = append(r.violations, Violation{Invariant: invariant, Order: order, Says: says})
	}
	if len(r.violations) < 10 {
		r.tell("VIOLATED %s: %s", invariant, says)
	}
}

// troubled records a failure of the harness: a port that another program took, a server that does
// not start, a fault that could not be injected. It says nothing about the shop and is no
// violation.
func (r *run) troubled(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	says := fmt.Sprintf(format, args...)
	if len(r.troubles) < 20 {
		r.troubles = append(r.troubles, says)
		r.tell("TROUBLE of the harness: %s", says)
	}
}

// fail is violate for a promise that has no number in the design.
func (r *run) fail(what, says string) { r.violate(what, "", says) }

// listening sends the provider's events to the node that came up last: it is the one that may have
// to die over one.
func (r *run) listening(n *node) {
	if err := r.servers.webhooks.pointTo(n.address); err != nil {
		r.troubled("%v", err)
	}
}

const (
	plenty, scarce           = 20, 10
	plentyUnits, scarceUnits = 1_000_000, 25
)

// sku makes a few products popular; a third of them is scarce.
func (r *run) sku(rank int) string { return r.products[rank%len(r.products)] }

// seedShop makes the schema, the catalog, its stock and the customers.
func (r *run) seedShop(ctx context.Context) error {
	pool := r.servers.postgres.pool
	if _, err := pg.Migrate(ctx, pool); err != nil {
		return err
	}
	shop := orders.New(pool, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
	delivery := "delivery_id,line,sku,quantity\n"
	add := func(name string, units int) error {
		r.products = append(r.products, name)
		delivery += fmt.Sprintf("opening,%d,%s,%d\n", len(r.products), name, units)
		return shop.AddProduct(ctx, orders.Product{SKU: name, Name: name, Description: "Torture.", Currency: "EUR",
			UnitPrice: int64(100 + len(r.products))}, len(r.products))
	}
	for i := range plenty {
		if err := add(fmt.Sprintf("PLENTY-%d", i), plentyUnits); err != nil {
			return err
		}
		if i%2 == 1 {
			if err := add(fmt.Sprintf("SCARCE-%d", i/2), scarceUnits); err != nil {
				return err
			}
		}
	}
	if _, err := shop.Import(ctx, strings.NewReader(delivery), "torture", false); err != nil {
		return fmt.Errorf("stock the shop: %w", err)
	}
	known := accounts.New(pool, false)
	for i := range customers + 1 {
		c := &customer{email: fmt.Sprintf("buyer-%d@torture.test", i), admin: i == customers}
		var err error
		if c.token, err = known.IssueToken(ctx, c.email, c.admin); err != nil {
			return err
		}
		owner, err := known.Authenticate(ctx, c.token)
		if err != nil {
			return err
		}
		if c.id = owner.ID; c.admin {
			r.world.admin = c
			continue
		}
		r.world.customers = append(r.world.customers, c)
	}
	return nil
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}

func replaceHost(address, host string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	u.Host = host
	return u.String()
}

// MakeDir makes a folder for a run that Postgres, which does not run as root, can enter.
func MakeDir(parent string) (string, error) {
	dir, err := os.MkdirTemp(parent, "onceshop-torture-")
	if err != nil {
		return "", fmt.Errorf("make a folder for the run: %w", err)
	}
	return filepath.Clean(dir), errors.Join(os.Chmod(dir, 0o755)) //nolint:gosec // the folders in it are closed
}
