package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/api"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
	"github.com/onceshop/onceshop/internal/payments/provider/stripe"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/ratelimit"
	"github.com/onceshop/onceshop/internal/redisclient"
	"github.com/onceshop/onceshop/internal/timeline"
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

	pool   *pgxpool.Pool
	redis  redisclient.Client
	nats   *nats.Conn
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

	// draining is closed when Run begins to stop.
	draining chan struct{}
}

// New connects to the servers that the role needs. They need not be up: /readyz reports those that
// are down, and the clients reconnect.
func New(ctx context.Context, config Config, role Role, log *slog.Logger) (_ *App, err error) {
	if err := config.Require(role); err != nil {
		return nil, err
	}
	if err := errors.Join(config.Check(), config.check()); err != nil {
		return nil, UsageError{err}
	}
	a := &App{config: config, role: role, log: log, draining: make(chan struct{})}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	if a.pool, err = pg.Open(ctx, config.DatabaseURL, maxConns); err != nil {
		return nil, UsageError{err}
	}
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
	policy := payments.Policy{ProviderTimeout: config.ProviderTimeout, Lease: config.ChargeLease,
		Horizon: config.ReconcileHorizon, PayAttempts: config.PayAttempts, CancelWindow: config.CancelWindow,
		ReturnURL: strings.TrimSuffix(public.String(), "/") + "/orders/"}
	a.payments = payments.New(a.pool, a.orders, a.provider, policy, time.Now, a.recorder, log)
	a.replays = dedup.NewReplays(replayBytes, replayFor)
	a.limits = config.limiter()
	a.warnOfProxy(ctx)
	if role.Workers || config.NATSURL != "" {
		if err := a.connectBroker(); err != nil {
			return nil, UsageError{err}
		}
	}
	if role.Workers {
		if err := a.connectWorkers(); err != nil {
			return nil, UsageError{err}
		}
	}
	return a, nil
}

// provider is a node's client of the payment provider: the simulator or Stripe.
type provider interface {
	payments.Provider
	Ping(ctx context.Context) error
	CloseIdleConnections()
}

func (a *App) connectProvider() error {
	c := a.config
	if c.stripe() {
		client, err := stripe.New(c.StripeSecretKey, c.StripeURL, c.ProviderTimeout)
		if err != nil {
			return err
		}
		receiver, err := client.NewReceiver(c.StripeWebhookSecret, time.Now)
		if err != nil {
			return err
		}
		a.provider = client
		a.webhooks = map[string]api.EventReader{stripeWebhookPath: receiver.Read}
		return nil
	}
	receiver, err := psp.NewReceiver(c.PSPWebhookSecret, time.Now)
	if err != nil {
		return err
	}
	a.provider = psp.NewClient(c.PSPURL, c.ProviderTimeout)
	a.webhooks = map[string]api.EventReader{WebhookPath: receiver.Read}
	return nil
}

// connectBroker does not wait for the broker: the client keeps trying to connect.
func (a *App) connectBroker() error {
	conn, err := nats.Connect(a.config.NATSURL, nats.Name("onceshop"), nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1))
	if parse, ok := errors.AsType[*url.Error](err); ok {
		err = parse.Err // without the address, which contains the password
	}
	if err != nil {
		return fmt.Errorf("NATS_URL is not an address such as nats://user:password@host:4222: %w", err)
	}
	a.nats = conn
	js, err := jetstream.New(conn)
	if err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	a.letters = outbox.NewLetters(js)
	return nil
}

func (a *App) connectWorkers() error {
	public, err := a.config.publicURL()
	if err != nil {
		return err
	}
	if a.redis, err = redisclient.Open(a.config.RedisURL); err != nil {
		return err
	}
	if a.mailer, err = notify.NewMailer(a.config.SMTPURL, notify.SendTimeout); err != nil {
		return err
	}
	host := mailHost(public)
	shop := notify.Shop{
		Name: "Onceshop",
		URL:  strings.TrimSuffix(public.String(), "/"),
		Host: host,
		From: "receipts@" + host,
	}
	a.notify = notify.New(a.pool, a.orders, dedup.NewClaims(a.redis, "onceshop:"), a.mailer, shop, a.recorder, a.log)
	return nil
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
	if a.nats != nil {
		a.nats.Close()
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
}

// Run serves on the listeners and runs the workers until ctx ends. Then it stops in order: it waits
// for requests in flight, then for the workers. Web may be nil for a role without it. Run must be
// called only once.
func (a *App) Run(ctx context.Context, web, ops net.Listener) error {
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	stopRecording := a.record(ctx)
	defer stopRecording()
	group, failed := errgroup.WithContext(work)
	servers := []*http.Server{a.serve(group, ops, a.opsHandler())}
	if a.role.Web {
		//nolint:contextcheck // echo carries each request's context
		servers = append(servers, a.serve(group, web, a.webHandler()))
	}
	if a.role.Workers {
		group.Go(func() error { return a.runRelay(failed) })
		group.Go(func() error { return a.runReceipts(failed) })
		group.Go(func() error { return a.payments.RunReconciler(failed) })
		group.Go(func() error { return a.payments.RunInbox(failed) })
		group.Go(func() error { return a.orders.RunExpiry(failed) })
	}
	select {
	case <-ctx.Done():
	case <-failed.Done():
	}
	close(a.draining)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	for i := len(servers) - 1; i >= 0; i-- {
		if err := servers[i].Shutdown(drain); err != nil {
			a.log.WarnContext(ctx, "requests were still running at the end of the drain", "error", err)
			_ = servers[i].Close()
		}
	}
	stopWork()
	return group.Wait()
}

// record runs the recorder of stopped duplicates until stop is called. Call stop after everything
// else has ended.
func (a *App) record(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.recorder.Run(ctx)
	}()
	return func() {
		cancel()
		<-ended
	}
}

// serve serves on the listener. Its timeouts bound what a slow or hostile client can hold open.
func (a *App) serve(group *errgroup.Group, listener net.Listener, handler http.Handler) *http.Server {
	server := &http.Server{
		Handler:           handler,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    32 << 10,
	}
	group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", listener.Addr(), err)
		}
		return nil
	})
	return server
}
