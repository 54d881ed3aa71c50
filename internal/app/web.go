package app

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/api"
	"github.com/onceshop/onceshop/internal/timeline"
	"github.com/onceshop/onceshop/web"
)

const (
	// WebhookPath is where the simulated provider sends its events.
	WebhookPath = "/v1/webhooks/payments"
	// stripeWebhookPath is where Stripe sends its events.
	stripeWebhookPath = "/v1/webhooks/stripe"
)

// requestTimeout bounds a request, without its call to the payment provider.
const requestTimeout = 10 * time.Second

// webHandler serves the public address: the pages, the JSON API, and the health checks.
func (a *App) webHandler() http.Handler {
	e := echo.New()
	e.IPExtractor = a.config.clientAddress()
	timelines := timeline.New(a.pool)
	pages := &web.Web{
		Orders:   a.orders,
		Payments: a.payments,
		Accounts: a.accounts,
		Signer:   accounts.NewSigner(a.config.Secret),
		Replays:  a.replays,
		Timeline: timelines,
		Recorder: a.recorder,
		Letters:  a.letters,
		Secure:   strings.HasPrefix(a.config.PublicURL, "https://"),
		Demo:     a.config.Demo,
		Stripe:   a.config.stripe(),
		Streams:  make(chan struct{}, maxStreams),
		Draining: a.draining,
		Log:      a.log,
	}
	for _, section := range a.config.Sections {
		pages.Sections = append(pages.Sections, section.Section)
	}
	e.HTTPErrorHandler = func(err error, c echo.Context) {
		if isAPI(c) {
			api.WriteError(c, err, a.log)
			return
		}
		pages.WriteError(c, err)
	}
	recoverPanics := middleware.RecoverWithConfig(middleware.RecoverConfig{
		DisableStackAll: true,
		LogErrorFunc:    a.logPanic,
	})
	e.Use(a.logRequests, recoverPanics, a.limitPages, a.bound)
	v1 := &api.API{
		Orders:   a.orders,
		Payments: a.payments,
		Accounts: a.accounts,
		Replays:  a.replays,
		Timeline: timelines,
		Recorder: a.recorder,
		Webhooks: a.webhooks,
		Limits:   a.limits,
		Log:      a.log,
	}
	v1.Register(e)
	pages.Register(e)
	redisURL := ""
	if a.redis != nil {
		redisURL = a.config.RedisURL
	}
	for _, section := range a.config.Sections {
		stop := section.Start(e, pages, Node{Pool: a.pool, RedisURL: redisURL, NATS: a.nats, Log: a.log})
		a.closeSections = append(a.closeSections, stop)
	}
	e.GET("/healthz", echo.WrapHandler(http.HandlerFunc(healthz)))
	e.GET("/readyz", echo.WrapHandler(http.HandlerFunc(a.readyz)))
	return e
}

// logPanic logs the stack of a panic. The client gets the usual 500.
func (a *App) logPanic(c echo.Context, err error, stack []byte) error {
	a.log.ErrorContext(c.Request().Context(), "panic",
		append(api.LogFields(c), "error", err, "stack", string(stack))...)
	return err
}

func isAPI(c echo.Context) bool {
	path := c.Request().URL.Path
	return path == "/v1" || strings.HasPrefix(path, "/v1/")
}

// limitPages applies the limit for guests. The API has its own limits, by token. Static files are
// cheap, and health checks must always get through.
func (a *App) limitPages(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		path := c.Request().URL.Path
		if !isAPI(c) && !strings.HasPrefix(path, "/static/") && path != "/healthz" && path != "/readyz" {
			if err := a.limits.Guest(c.RealIP()); err != nil {
				return err
			}
		}
		return next(c)
	}
}

// bound gives each request a deadline, in case a server accepts a connection and never replies.
// Event streams and sections last longer and set their own.
func (a *App) bound(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if strings.HasSuffix(c.Path(), "/events") || a.inSection(c.Path()) {
			return next(c)
		}
		ctx, cancel := context.WithTimeout(c.Request().Context(), requestTimeout+a.config.ProviderTimeout)
		defer cancel()
		c.SetRequest(c.Request().WithContext(ctx))
		return next(c)
	}
}

// logRequests logs one line per request, after its error has been answered.
func (a *App) logRequests(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		begin := time.Now()
		if err := next(c); err != nil {
			c.Error(err)
		}
		a.log.InfoContext(c.Request().Context(), "request", append(api.LogFields(c),
			"status", c.Response().Status, "duration", time.Since(begin).Round(time.Microsecond),
			"replayed", c.Response().Header().Get("Idempotent-Replayed") != "")...)
		return nil
	}
}
