package app

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/payments"
)

// opsHandler serves the operators' endpoints, which the public address does not have.
func (a *App) opsHandler() http.Handler {
	own := prometheus.NewRegistry()
	own.MustRegister(outbox.BacklogMetrics(a.pool), payments.OpenMetrics(a.pool), orders.UnpaidMetrics(a.pool),
		notify.OpenMetrics(a.pool), poolMetric{a.pool}, dependencyMetric{a.status})
	if a.broker != nil {
		own.MustRegister(outbox.LagMetrics(a.broker, notify.ConsumerName))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", healthz)
	mux.HandleFunc("GET /readyz", a.readyz)
	mux.HandleFunc("GET /statusz", a.statusz)
	// A database that is down must not hide the other metrics.
	mux.Handle("GET /metrics", promhttp.HandlerFor(prometheus.Gatherers{prometheus.DefaultGatherer, own},
		promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError,
			ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelWarn)}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

func healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may have disconnected
}
