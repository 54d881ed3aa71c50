package app

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/pg"
)

// readyTimeout bounds each dependency's answer.
const readyTimeout = 2 * time.Second

// opsHandler serves the operators' endpoints, which the public address does not have.
func (a *App) opsHandler() http.Handler {
	own := prometheus.NewRegistry()
	own.MustRegister(outbox.NewBacklog(a.pool), payments.NewOpen(a.pool))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", healthz)
	mux.HandleFunc("GET /readyz", a.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(prometheus.Gatherers{prometheus.DefaultGatherer, own},
		promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

func healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
}

// readyz answers 200 only if every server that the role needs answers and the schema is up to date.
// It lists the dependencies that fail; the reasons are in the log.
func (a *App) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	checks := map[string]func(context.Context) error{
		"postgres":         a.pool.Ping,
		"schema":           a.migrated,
		"payment provider": a.provider.Ping,
	}
	if a.role.Workers {
		checks["redis"] = func(ctx context.Context) error { return a.redis.Ping(ctx).Err() }
		checks["nats"] = a.nats.FlushWithContext
		checks["smtp"] = a.mailer.Ping
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	status, results := http.StatusOK, make(map[string]string, len(checks))
	for name, check := range checks {
		group.Go(func() {
			err := check(ctx)
			mu.Lock()
			defer mu.Unlock()
			results[name] = "ok"
			if err != nil {
				status, results[name] = http.StatusServiceUnavailable, "down"
				a.log.WarnContext(ctx, "not ready", "dependency", name, "error", err)
			}
		})
	}
	group.Wait()
	text := "ready"
	if status != http.StatusOK {
		text = "not ready"
	}
	writeJSON(w, status, map[string]any{"status": text, "checks": results})
}

func (a *App) migrated(ctx context.Context) error {
	done, err := pg.IsMigrated(ctx, a.pool)
	if err == nil && !done {
		err = errors.New("the schema is behind this binary: run `shop migrate up`")
	}
	return err
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may have disconnected
}
