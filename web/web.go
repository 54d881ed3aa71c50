// Package web is the storefront: pages rendered on the server that work without JavaScript. Each
// page is a handler and a template. The cart is the intent to buy: it carries the idempotency key
// of its order.
package web

import (
	"context"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/cards"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/problem"
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
	// Name is the shop's name, in titles and on every page.
	Name     string
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
	// Receipts are those that became dead letters.
	Receipts *notify.Letters
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
	// Panel is shown on an order's page. It may be nil.
	Panel *OrderPanel
	// CallPanel returns what the page of a call of the API shows below its request, by the call's
	// operationId. It may be nil.
	CallPanel func(operation string) template.HTML
	// Bar makes the bar above every page of the demo. It is nil outside the demo.
	Bar func() template.HTML
	// Streams bounds the event streams. A page without a stream polls instead.
	Streams *Streams
	// PayWait is how long a form waits for the outcome of its payment. The order's page shows an
	// outcome that comes later.
	PayWait time.Duration
	// Unpaid bounds the unpaid orders of a guest and of a guest's network.
	Unpaid orders.UnpaidLimit
	// Draining is closed when the node stops. Streams then end, so that the drain does not wait for
	// them. It may be nil.
	Draining <-chan struct{}
	Log      *slog.Logger
}

// Register adds the pages and their static files. The handlers return their errors to echo's error
// handler, which should call WriteError.
func (w *Web) Register(e *echo.Echo) {
	get := func(path string, page echo.HandlerFunc) { e.Match(readMethods, path, page, guard) }
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
	get("/orders/:id/cancel", w.showCancel)
	e.POST("/orders/:id/cancel", w.cancelOwn, guard)
	e.POST("/orders/:id/again", w.orderAgain, guard)

	w.registerAdmin(e)

	static.Register(e)
}

var readMethods = []string{http.MethodGet, http.MethodHead}

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
// an error, and so is what no text column can hold.
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
		if !isText(name) {
			return nil, problem.InvalidError{Field: "fields", Reason: "must have names that are text"}
		}
		if !isText(strings.Join(values, "")) {
			return nil, problem.InvalidError{Field: name, Reason: "must be text"}
		}
	}
	return form, nil
}

func isText(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

// seeOther redirects the browser, so that a reload does not repeat a form.
func seeOther(c echo.Context, to string) error {
	return c.Redirect(http.StatusSeeOther, to)
}
