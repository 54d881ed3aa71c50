package app

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/trace"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/api"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/ratelimit"
	"github.com/onceshop/onceshop/internal/redisclient"
	"github.com/onceshop/onceshop/internal/timeline"
	"github.com/onceshop/onceshop/internal/tracing"
)

const (
	maxConns = 16
	// Answers for replays stay in memory for as long as clients usually retry.
	replayBytes = 64 << 20
	replayFor   = 10 * time.Minute
	// maxStreams bounds the pages with live updates: each one polls the database once a second.
	maxStreams = 100
	// drainTimeout is how long requests in flight may take after the stop signal.
	drainTimeout = 10 * time.Second
)

// App is one node: its connections and services.
type App struct {
	config Config
	role   Role
	log    *slog.Logger
	// publicURL is the shop's address, without a slash at its end.
	publicURL string

	// traces and its tracer are nil if nothing is traced.
	traces      trace.TracerProvider
	tracer      trace.Tracer
	closeTraces func() // sends the last spans

	pool   *pgxpool.Pool
	cell   string
	redis  redisclient.Client
	broker broker.Broker // nil on a node without one
	mailer *notify.Mailer

	provider provider
	// webhooks reads the provider's events, by path.
	webhooks map[string]api.EventReader

	accounts *accounts.Service
	orders   *orders.Service
	payments *payments.Service
	replays  *dedup.Replays
	limits   *ratelimit.Limiter
	recorder *timeline.Recorder
	letters  *outbox.Letters
	notify   *notify.Service
	// closeSections stop the sections. They are set when the node serves.
	closeSections []func()

	ready, status      *probe
	proxies            []netip.Prefix
	warnedOfForwarding sync.Once

	// draining is closed when Run begins to stop.
	draining chan struct{}
}

// New connects to the servers that the role needs. They need not be up: /readyz reports those that
// are down, and the clients reconnect.
func New(ctx context.Context, config Config, role Role, log *slog.Logger) (_ *App, err error) {
	if err := config.Require(role); err != nil {
		return nil, err
	}
	if err := config.Valid(); err != nil {
		return nil, err
	}
	log = slog.New(tracing.Handler{Handler: log.Handler()})
	a := &App{config: config, role: role, log: log, draining: make(chan struct{})}
	if a.proxies, err = config.proxies(); err != nil {
		return nil, UsageError{err}
	}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	if err := a.openTraces(ctx); err != nil {
		return nil, UsageError{err}
	}
	if a.pool, err = pg.Open(ctx, config.DatabaseURL, maxConns, a.tracers()...); err != nil {
		return nil, UsageError{err}
	}
	a.cell = pg.Cell(a.pool)
	if err := a.connectProvider(); err != nil {
		return nil, UsageError{err}
	}
	a.recorder = timeline.NewRecorder(a.pool, log)
	a.accounts = accounts.New(a.pool, config.Demo)
	a.orders = orders.New(a.pool, config.OrderExpiry, time.Now, log)
	public, err := config.publicURL()
	if err != nil {
		return nil, UsageError{err}
	}
	a.publicURL = strings.TrimSuffix(public.String(), "/")
	policy := payments.Policy{ProviderTimeout: config.ProviderTimeout, Lease: config.ChargeLease,
		Horizon: config.ReconcileHorizon, PayAttempts: config.PayAttempts, CancelWindow: config.CancelWindow,
		ReturnURL: a.publicURL + "/orders/"}
	a.payments = payments.New(a.pool, a.orders, a.provider, policy, time.Now, a.recorder, log)
	a.replays = dedup.NewReplays(replayBytes, replayFor)
	a.limits = config.limiter()
	a.warnOfProxy(ctx)
	if role.Workers || config.BrokerURL != "" {
		if err := a.connectBroker(); err != nil {
			return nil, UsageError{err}
		}
	}
	if role.Workers {
		if err := a.connectWorkers(); err != nil {
			return nil, UsageError{err}
		}
	}
	a.newProbes()
	return a, nil
}

// Close closes the connections. It is safe on an App that New did not finish.
func (a *App) Close() {
	if a.replays != nil {
		a.replays.Close()
	}
	if a.limits != nil {
		a.limits.Close()
	}
	for _, stop := range a.closeSections {
		stop()
	}
	if a.broker != nil {
		a.broker.Close()
	}
	if a.redis != nil {
		_ = a.redis.Close()
	}
	if a.provider != nil {
		a.provider.CloseIdleConnections()
	}
	if a.pool != nil {
		a.pool.Close()
	}
	if a.closeTraces != nil {
		a.closeTraces()
	}
}
