package torture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// kind is a way to go wrong. Two of one target never happen at a time.
type kind struct {
	name, target string
	// strike lets it happen, waits until ctx ends, and takes it back.
	strike func(ctx context.Context, r *run, f fault) error
}

var kinds []kind

func init() {
	kinds = []kind{
		{"postgres.immediate", "postgres", downPostgres(syscall.SIGQUIT)},
		{"postgres.kill", "postgres", downPostgres(syscall.SIGKILL)},
		{"postgres.terminate", "postgres", terminateBackends},
		{"postgres.latency", "postgres", onEdge("postgres", latency(150, 100))},
		{"postgres.blackhole", "postgres", onEdge("postgres", blackHole)},
		{"postgres.reset", "postgres", resetEdge("postgres")},
		{"postgres.cut-commit", "postgres", cutCommits},
		{"redis.kill", "redis", downServer(func(s *servers) *server { return s.redis })},
		{"redis.flush", "redis", flushRedis},
		{"redis.latency", "redis", onEdge("redis", latency(2000, 0))},
		{"redis.refuse", "redis", shutEdge("redis")},
		{"broker.kill", "broker", downServer(func(s *servers) *server { return s.nats })},
		{"broker.cut", "broker", shutEdge("broker")},
		{"broker.latency", "broker", onEdge("broker", latency(500, 300))},
		{"provider.kill", "provider", downServer(func(s *servers) *server { return s.psp })},
		{"provider.latency", "provider", onEdge("psp", latency(700, 600))},
		{"provider.reset", "provider", onEdge("psp", toxic{Type: "reset_peer", Stream: "downstream", Toxicity: 0.5})},
		{"provider.webhooks-late", "webhooks", holdWebhooks},
		{"mail.refuse", "mail", shutEdge("smtp")},
		{"mail.cut", "mail", onEdge("smtp",
			toxic{Type: "limit_data", Stream: "downstream", Toxicity: 0.5, Attributes: map[string]any{"bytes": 240}})},
		{"node.kill", "node", onNode(func(_ context.Context, n *node) { n.end((*process).kill) })},
		{"node.stop", "node", onNode(stopAndGo)},
		{"node.term", "node", onNode(terminate)},
		{"clients.reset", "clients", onFront(toxic{Type: "reset_peer", Stream: "downstream", Toxicity: 0.3})},
		{"clients.latency", "clients", onFront(latency(300, 300))},
	}
}

var nodeNames = []string{"node-a", "node-b"}

func kindOf(name string) kind {
	return kinds[slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })]
}

// misfortune lets the schedule happen.
func (r *run) misfortune(ctx context.Context, all []fault) {
	var group sync.WaitGroup
	defer group.Wait()
	for _, f := range all {
		if !sleep(ctx, f.At-r.now()) {
			return
		}
		group.Go(func() { r.suffer(ctx, f) })
	}
}

func (r *run) suffer(ctx context.Context, f fault) {
	during, cancel := context.WithTimeout(ctx, f.For)
	defer cancel()
	begin := r.now()
	err := kindOf(f.Kind).strike(during, r, f)
	r.note(disturbance{at: begin, until: r.now(), what: f.Kind, node: f.Node})
	if err != nil {
		r.troubled("the fault %s could not be injected or undone: %v", f.Kind, err)
		return
	}
	r.count.fault(f.Kind)
	if ctx.Err() == nil {
		r.measureHealing(ctx, f.Kind)
	}
}

// measureHealing finds out when the shop first said yes to something sent after the fault.
func (r *run) measureHealing(ctx context.Context, kind string) {
	begin := r.now()
	err := poll(ctx, healing, func() (bool, error) { return time.Duration(r.count.lastGood.Load()) >= begin, nil })
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		r.fail("healing", fmt.Sprintf("nothing was acknowledged for %s after %s", healing, kind))
	}
	r.count.healed(kind, r.now()-begin)
}

// finish is for what has to be done after a fault, also when the run is over.
func finish(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
}

func downPostgres(sig syscall.Signal) func(context.Context, *run, fault) error {
	return func(ctx context.Context, r *run, _ fault) error {
		r.servers.postgres.down(sig)
		if err := r.backUp(); err != nil {
			return err
		}
		sleep(ctx, r.outage(ctx))
		after, cancel := finish(ctx)
		defer cancel()
		return r.servers.postgres.up(after)
	}
}

// outage is a short part of what is left of a fault: a server that has died is started again soon.
func (r *run) outage(ctx context.Context) time.Duration {
	deadline, _ := ctx.Deadline()
	return time.Until(deadline) / 2
}

func downServer(which func(*servers) *server) func(context.Context, *run, fault) error {
	return func(ctx context.Context, r *run, _ fault) error {
		s := which(&r.servers)
		s.down()
		sleep(ctx, r.outage(ctx))
		after, cancel := finish(ctx)
		defer cancel()
		return s.up(after)
	}
}

// terminateBackends ends connections at random, again and again.
func terminateBackends(ctx context.Context, r *run, _ fault) error {
	for {
		after, cancel := finish(ctx)
		_, err := r.servers.postgres.direct().Exec(after, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = 'shop' AND pid <> pg_backend_pid() AND random() < 0.3`)
		cancel()
		if err != nil && ctx.Err() == nil {
			// It may have been our own other connection.
			sleep(ctx, 50*time.Millisecond)
		}
		if !sleep(ctx, 400*time.Millisecond) {
			return nil
		}
	}
}

func flushRedis(ctx context.Context, r *run, _ fault) error {
	client := redis.NewClient(&redis.Options{Addr: r.servers.redis.address, MaxRetries: -1})
	defer client.Close()
	for {
		after, cancel := finish(ctx)
		err := client.FlushAll(after).Err()
		cancel()
		if err != nil {
			return fmt.Errorf("flush Redis: %w", err)
		}
		if !sleep(ctx, 200*time.Millisecond) {
			return nil
		}
	}
}

// latency is in milliseconds, each way.
func latency(mean, jitter int) toxic {
	return toxic{Type: "latency", Stream: "downstream", Toxicity: 1,
		Attributes: map[string]any{"latency": mean, "jitter": jitter}}
}

// blackHole swallows everything and says nothing.
var blackHole = toxic{Type: "timeout", Stream: "both", Toxicity: 1, Attributes: map[string]any{"timeout": 0}}

// lines are the edges to a server that the fault happens to.
func (r *run) lines(server string, f fault) (lines []*edge) {
	for _, n := range r.nodes {
		if f.Node == "" || f.Node == n.name {
			lines = append(lines, n.edges[server])
		}
	}
	return lines
}

func onEdge(server string, t toxic) func(context.Context, *run, fault) error {
	return func(ctx context.Context, r *run, f fault) error { return poisoned(ctx, r.lines(server, f), t) }
}

func onFront(t toxic) func(context.Context, *run, fault) error {
	return func(ctx context.Context, r *run, _ fault) error {
		return poisoned(ctx, []*edge{r.nodes[0].front, r.nodes[1].front}, t)
	}
}

// poisoned begins with what is to be done to each line once it is poisoned.
func poisoned(ctx context.Context, lines []*edge, t toxic, then ...func(*edge) error) (err error) {
	streams := directions(t.Stream)
	for _, e := range lines {
		for _, stream := range streams {
			t.Stream = stream
			err = errors.Join(err, e.poison(t))
		}
		for _, do := range then {
			err = errors.Join(err, do(e))
		}
	}
	<-ctx.Done()
	after, cancel := finish(ctx)
	defer cancel()
	for _, e := range lines {
		e.heal(after)
	}
	return err
}

// cutCommits begins with new connections, whose statements it knows from the first.
func cutCommits(ctx context.Context, r *run, f fault) error {
	lines := r.lines("postgres", f)
	for _, e := range lines {
		e.shut()
	}
	return poisoned(ctx, lines, toxic{Type: cutCommit, Stream: "upstream", Toxicity: 0.5}, (*edge).reopen)
}

func directions(stream string) []string {
	if stream == "both" {
		return []string{"upstream", "downstream"}
	}
	return []string{stream}
}

func shutEdge(server string) func(context.Context, *run, fault) error {
	return func(ctx context.Context, r *run, f fault) (err error) {
		for _, e := range r.lines(server, f) {
			e.shut()
		}
		<-ctx.Done()
		for _, e := range r.lines(server, f) {
			err = errors.Join(err, e.reopen())
		}
		return err
	}
}

// resetEdge ends all connections again and again.
func resetEdge(server string) func(context.Context, *run, fault) error {
	return func(ctx context.Context, r *run, f fault) error {
		for {
			for _, e := range r.lines(server, f) {
				e.shut()
				if err := e.reopen(); err != nil {
					return err
				}
			}
			if !sleep(ctx, 300*time.Millisecond) {
				return nil
			}
		}
	}
}

// holdWebhooks lets no event of the provider arrive; they come late.
func holdWebhooks(ctx context.Context, r *run, _ fault) error {
	r.servers.webhooks.shut()
	<-ctx.Done()
	return r.servers.webhooks.reopen()
}

func onNode(do func(context.Context, *node)) func(context.Context, *run, fault) error {
	return func(ctx context.Context, r *run, f fault) error {
		n := r.nodes[0]
		if f.Node == r.nodes[1].name {
			n = r.nodes[1]
		}
		do(ctx, n)
		return nil
	}
}

// stopAndGo holds a node for longer than its leases: when it goes on, others have taken over its
// work.
func stopAndGo(ctx context.Context, n *node) {
	n.mu.Lock()
	p := n.process
	n.mu.Unlock()
	if p == nil {
		return
	}
	p.signal(syscall.SIGSTOP)
	after, cancel := finish(ctx)
	defer cancel()
	sleep(after, longestStop)
	p.signal(syscall.SIGCONT)
}

// terminate asks the node to end in order, as an operator does.
func terminate(_ context.Context, n *node) {
	n.end(func(p *process) {
		if !p.stop(drainPatience) {
			n.run.fail("node", fmt.Sprintf("%s did not end within %s of SIGTERM; see %s.log", n.name, drainPatience,
				n.name))
		}
	})
}
