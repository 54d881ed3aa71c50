// Package web is the storefront: pages rendered on the server that work without JavaScript. Each
// page is a handler and a template. The cart is the intent to buy: it carries the idempotency key
// of its order.
package web

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/cards"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/timeline"
)

const (
	// maxBody is in bytes.
	maxBody = 64 << 10
	// operationTimeout bounds the work for one form, even if its browser has disconnected.
	operationTimeout = 10 * time.Second
)

// Web answers everything outside /v1.
type Web struct {
	Orders   *orders.Service
	Payments *payments.Service
	Accounts *accounts.Service
	Signer   accounts.Signer
	// Replays may be nil: every repeated form then goes to the database.
	Replays *dedup.Replays
	// Timeline is shown on an order's page. Recorder records stopped duplicates for it, and may be
	// nil.
	Timeline *timeline.Service
	Recorder *timeline.Recorder
	// Letters is nil on a node without a broker, which cannot show dead letters.
	Letters *outbox.Letters
	// Secure is for a shop behind https: browsers send its cookies only over https, and no other
	// host can set them.
	Secure bool
	// Demo offers every payment method of the simulated provider, including those that fail.
	Demo bool
	// Stripe offers Stripe's test cards instead. The shop has no card form, and Stripe rejects test
	// cards with a live key.
	Stripe bool
	// Sections are linked in the layout in the demo.
	Sections []Section
	// Streams is a semaphore for event streams: its capacity bounds them. A page without a stream
	// polls instead.
	Streams chan struct{}
	// Draining is closed when the node stops. Streams then end, so that the drain does not wait for
	// them. It may be nil.
	Draining <-chan struct{}
	Log      *slog.Logger
}

// Register adds the pages and their static files. The handlers return their errors to echo's error
// handler, which should call WriteError.
func (w *Web) Register(e *echo.Echo) {
	get := func(path string, page echo.HandlerFunc) {
		e.GET(path, page, guard)
		e.HEAD(path, page, guard)
	}
	get("/", w.showProducts)
	get("/products/:sku", w.showProduct)
	get("/cart", w.showCart)
	e.POST("/cart", w.changeCart, guard)
	get("/checkout", w.showCheckout)
	e.POST("/checkout", w.submitCheckout, guard)
	get("/orders", w.listOrders)
	get("/orders/:id", w.showOrder)
	e.GET("/orders/:id/events", w.streamOrder, guard)
	get("/orders/:id/receipt", w.showReceipt)
	get("/orders/:id/confirm", w.confirmPayment)
	e.POST("/orders/:id/pay", w.payOrder, guard)
	e.POST("/orders/:id/again", w.orderAgain, guard)

	w.registerAdmin(e)

	e.GET("/static/*", serveStatic)
	e.HEAD("/static/*", serveStatic)
}

var (
	errCrossSite  = errors.New("web: the form was sent from another site")
	errCard       = errors.New("web: a field of the form looks like a card number")
	sameSiteForms = http.NewCrossOriginProtection()
)

// guard keeps pages out of caches and frames, rejects forms of other sites, and bounds the body.
func guard(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		setSecurityHeaders(c)
		c.Response().Header().Set("Cache-Control", "no-store")
		if err := sameSiteForms.Check(c.Request()); err != nil {
			return errors.Join(errCrossSite, err)
		}
		c.Request().Body = http.MaxBytesReader(c.Response(), c.Request().Body, maxBody)
		return next(c)
	}
}

func setSecurityHeaders(c echo.Context) {
	header := c.Response().Header()
	header.Set("Content-Security-Policy",
		"default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "same-origin")
}

// once runs an operation under its idempotency key. A double click on this node shares one
// execution.
func (w *Web) once(
	c echo.Context, operation string, customer uuid.UUID, key dedup.Key, meaning dedup.Fingerprint,
	run func(context.Context) (dedup.Answer, error),
) (dedup.Answer, error) {
	id := dedup.RequestIDOf(operation, customer, key, meaning)
	answer, err := w.Replays.Do(c.Request().Context(), id, func(ctx context.Context) (dedup.Answer, error) {
		ctx, cancel := context.WithTimeout(ctx, operationTimeout)
		defer cancel()
		return run(ctx)
	})
	w.Recorder.Answered(operation, answer, err)
	return answer, err
}

// postForm returns the fields of the body, without those of the query. A card number in a field is
// an error.
func postForm(c echo.Context) (url.Values, error) {
	if err := c.Request().ParseForm(); err != nil {
		if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, tooLarge
		}
		return nil, echo.ErrBadRequest // without the submitted text
	}
	form := c.Request().PostForm
	for name, values := range form {
		if cards.In(name) || slices.ContainsFunc(values, cards.In) {
			return nil, errCard
		}
	}
	return form, nil
}

// seeOther redirects the browser, so that a reload does not repeat a form.
func seeOther(c echo.Context, to string) error {
	return c.Redirect(http.StatusSeeOther, to)
}
