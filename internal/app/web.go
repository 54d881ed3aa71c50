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
	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/timeline"
	"github.com/onceshop/onceshop/web"
	"github.com/onceshop/onceshop/web/docs"
)

const (
	// WebhookPath is where the simulated provider sends its events.
	WebhookPath = "/v1/webhooks/payments"
	// stripeWebhookPath is where Stripe sends its events.
	stripeWebhookPath = "/v1/webhooks/stripe"
)

// payWait is how long a form waits for the payment's outcome. Most providers answer within it, and
// the page that follows shows the outcome at once; a longer wait would look like a broken page.
const payWait = 400 * time.Millisecond

// requestTimeout bounds a request, without its call to the payment provider.
const requestTimeout = 10 * time.Second

// webHandler serves the public address: the pages, the JSON API, and the health checks.
func (a *App) webHandler() http.Handler {
	e := echo.New()
	e.IPExtractor = a.config.clientAddress()
	timelines := timeline.New(a.pool)
	pages := &web.Web{
		Name:     a.config.Name,
		Orders:   a.orders,
		Payments: a.payments,
		Accounts: a.accounts,
		Signer:   accounts.NewSigner(a.config.Secret, a.config.audience()),
		Replays:  a.replays,
		Timeline: timelines,
		Recorder: a.recorder,
		Receipts: notify.NewLetters(a.pool),
		Letters:  a.letters,
		Secure:   a.config.secure(),
		Demo:     a.config.Demo,
		Stripe:   a.config.stripe(),
		Streams:  web.NewStreams(maxStreams),
		PayWait:  payWait,
		Draining: a.draining,
		Unpaid:   orders.UnpaidLimit{Customer: a.config.UnpaidOrders.Guest, Network: a.config.UnpaidOrders.Address},
		Log:      a.log,
	}
	for _, section := range a.config.Sections {
		if section.Name != "" {
			pages.Sections = append(pages.Sections, section.Section)
		}
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
	e.Use(a.trace, a.logRequests(pages), recoverPanics, a.protect, a.limitPages, a.bound)
	v1 := &api.API{
		Orders:   a.orders,
		Payments: a.payments,
		Accounts: a.accounts,
		Replays:  a.replays,
		Timeline: timelines,
		Recorder: a.recorder,
		Webhooks: a.webhooks,
		Limits:   a.limits,

		UnpaidOrders: a.config.PerTokenUnpaid,
		Log:          a.log,
	}
	v1.Register(e)
	pages.Register(e)
	a.apiPages(pages).Register(e)
	node := Node{Pool: a.pool, Broker: a.broker, BrokerURL: a.config.BrokerURL, Log: a.log}
	if a.redis != nil {
		node.RedisURL = a.config.RedisURL
	}
	for _, section := range a.config.Sections {
		stop := section.Start(e, pages, node)
		a.closeSections = append(a.closeSections, stop)
	}
	read := []string{http.MethodGet, http.MethodHead}
	e.Match(read, "/healthz", echo.WrapHandler(http.HandlerFunc(healthz)))
	e.Match(read, "/readyz", echo.WrapHandler(http.HandlerFunc(a.readyz)))
	return e
}

// apiPages returns the pages about the API.
func (a *App) apiPages(shop *web.Web) *docs.Pages {
	document, err := docs.Read(api.OpenAPI)
	if err != nil {
		panic("app: " + err.Error()) // the document is part of the program
	}
	return &docs.Pages{Shop: shop, URL: a.publicURL, Document: document}
}

// protect sets what a browser needs to know of every answer. Pages replace the policy by their own.
func (a *App) protect(next echo.HandlerFunc) echo.HandlerFunc {
	secure := a.config.secure()
	return func(c echo.Context) error {
		header := c.Response().Header()
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		if secure {
			header.Set("Strict-Transport-Security", "max-age=31536000")
		}
		return next(c)
	}
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
		request := c.Request()
		ctx, cancel := context.WithTimeout(request.Context(), requestTimeout+a.config.ProviderTimeout)
		defer cancel()
		c.SetRequest(request.WithContext(ctx))
		defer c.SetRequest(request) // whose context ends early only if the client disconnects
		return next(c)
	}
}
