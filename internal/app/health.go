package app

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/pg"
)

const (
	// probeTimeout bounds each dependency's answer.
	probeTimeout = 2 * time.Second
	// probeAge is how long a result is kept. However often a probe is asked for, it runs once.
	probeAge = time.Second
)

// checks are probes by the name of what they look at.
type checks map[string]func(context.Context) error

// probe runs its checks when its last result is old.
type probe struct {
	checks checks
	failed func(ctx context.Context, name string, err error)

	mu   sync.Mutex
	at   time.Time
	last map[string]bool
}

// results returns which checks succeeded, a second ago at most.
func (p *probe) results(ctx context.Context) map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last != nil && time.Since(p.at) < probeAge {
		return p.last
	}
	// The result is for everybody who asks, so the first client's departure does not end the
	// checks.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
	defer cancel()
	var group sync.WaitGroup
	var mu sync.Mutex
	results := make(map[string]bool, len(p.checks))
	for name, check := range p.checks {
		group.Go(func() {
			err := check(ctx)
			if err != nil {
				p.failed(ctx, name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			results[name] = err == nil
		})
	}
	group.Wait()
	p.last, p.at = results, time.Now()
	return results
}

// newProbes sets what /readyz and /statusz look at. A node is ready when it can take an order. What
// happens after the order waits for its server, so these servers take no node out.
func (a *App) newProbes() {
	log := func(message string) func(context.Context, string, error) {
		return func(ctx context.Context, name string, err error) {
			a.log.WarnContext(ctx, message, "dependency", name, "error", err)
		}
	}
	a.ready = &probe{failed: log("not ready"), checks: checks{"postgres": a.writable, "schema": a.migrated}}
	others := checks{"postgres": a.writable, "schema": a.migrated, "payment provider": a.provider.Ping}
	if a.redis != nil {
		others["redis"] = func(ctx context.Context) error { return a.redis.Ping(ctx).Err() }
	}
	if a.broker != nil {
		others["broker"] = a.brokerAnswers
	}
	if a.mailer != nil {
		others["mail"] = a.mailer.Ping
	}
	a.status = &probe{failed: log("a dependency is down"), checks: others}
}

// brokerAnswers returns nil also if the broker is new: the first relay opens it.
func (a *App) brokerAnswers(ctx context.Context) error {
	if err := a.broker.Ready(ctx); !errors.Is(err, broker.ErrNotOpen) {
		return err
	}
	return nil
}

func (a *App) writable(ctx context.Context) error {
	var writable bool
	err := pg.Patient{Pool: a.pool}.QueryRow(ctx, "SELECT current_setting('transaction_read_only') = 'off'").
		Scan(&writable)
	if err == nil && !writable {
		err = errors.New("the database is read-only")
	}
	return err
}

func (a *App) migrated(ctx context.Context) error {
	done, err := pg.IsMigrated(ctx, a.pool)
	if err == nil && !done {
		err = errors.New("the schema is behind this binary: run `shop migrate up`")
	}
	return err
}

// readyz answers 200 if this node can take an order and is not draining. It does not name what is
// missing: that is in the log and in statusz.
func (a *App) readyz(w http.ResponseWriter, r *http.Request) {
	ready := true
	select {
	case <-a.draining:
		ready = false
	default:
		for _, ok := range a.ready.results(r.Context()) {
			ready = ready && ok
		}
	}
	if !ready {
		writeJSON(w, http.StatusServiceUnavailable, map[string]string{"status": "not ready"})
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
}

// statusz lists every server that the node uses, and whether it answers.
func (a *App) statusz(w http.ResponseWriter, r *http.Request) {
	text, answers := "ok", map[string]string{}
	for name, ok := range a.status.results(r.Context()) {
		answers[name] = "ok"
		if !ok {
			text, answers[name] = "degraded", "down"
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"status": text, "checks": answers})
}

// dependencyMetric is what statusz lists, as a metric.
type dependencyMetric struct{ status *probe }

var dependencyUp = prometheus.NewDesc("onceshop_dependency_up", "Whether a server that the node uses answers.",
	[]string{"dependency"}, nil)

func (dependencyMetric) Describe(to chan<- *prometheus.Desc) { to <- dependencyUp }

func (d dependencyMetric) Collect(to chan<- prometheus.Metric) {
	for name, ok := range d.status.results(context.Background()) {
		up := 0.0
		if ok {
			up = 1
		}
		to <- prometheus.MustNewConstMetric(dependencyUp, prometheus.GaugeValue, up, name)
	}
}
