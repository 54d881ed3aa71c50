package api

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/problem"
	"github.com/onceshop/onceshop/internal/ratelimit"
	"github.com/onceshop/onceshop/internal/timeline"
)

const (
	// maxBody is in bytes.
	maxBody = 64 << 10
	// operationTimeout bounds the work for one request, even if its client has disconnected.
	operationTimeout = 10 * time.Second
)

// API answers everything under /v1.
type API struct {
	Orders   *orders.Service
	Payments *payments.Service
	Accounts *accounts.Service
	// Replays may be nil: every repeated request then goes to the database.
	Replays  *dedup.Replays
	Timeline *timeline.Service
	// Recorder records stopped twins for the orders' timelines. It may be nil.
	Recorder *timeline.Recorder
	// Webhooks reads a provider's events, by path.
	Webhooks map[string]EventReader
	// UnpaidOrders is how many unpaid orders a customer may have. Zero is any number.
	UnpaidOrders int
	// Limits bounds what one client may send. It may be nil.
	Limits *ratelimit.Limiter
	Log    *slog.Logger
}

// Register adds the routes. The handlers return their errors to echo's error handler, which should
// call WriteError.
func (a *API) Register(e *echo.Echo) {
	get := func(path string, handler echo.HandlerFunc, middleware ...echo.MiddlewareFunc) {
		e.Match([]string{http.MethodGet, http.MethodHead}, path, handler, middleware...)
	}
	get("/v1/openapi.yaml", func(c echo.Context) error {
		return c.Blob(http.StatusOK, "application/yaml", OpenAPI)
	}, a.limitGuests)
	get("/v1/products", a.listProducts, limits, a.limitGuests)

	customer := []echo.MiddlewareFunc{limits, a.limitTokens, a.authenticate}
	e.POST("/v1/orders", a.placeOrder, customer...)
	get("/v1/orders", a.listOrders, customer...)
	get("/v1/orders/:id", a.getOrder, customer...)
	e.POST("/v1/orders/:id/charges", a.chargeOrder, customer...)
	get("/v1/charges/:id", a.getCharge, customer...)
	get("/v1/charges/:id/refunds", a.listRefunds, customer...)
	get("/v1/refunds/:id", a.getRefund, customer...)
	get("/v1/orders/:id/timeline", a.getTimeline, customer...)
	e.POST("/v1/orders/:id/cancel", a.cancelOrder, customer...)

	admin := append(slices.Clone(customer), a.adminOnly)
	e.POST("/v1/charges/:id/refunds", a.refundCharge, admin...)
	e.POST("/v1/deliveries", a.receiveDelivery, admin...)
	for path, read := range a.Webhooks {
		e.POST(path, a.receiveEvent(read), limits)
	}
}

// limits bounds the body and keeps answers out of caches.
func limits(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		c.Request().Body = http.MaxBytesReader(c.Response(), c.Request().Body, maxBody)
		c.Response().Header().Set("Cache-Control", "no-store")
		return next(c)
	}
}

const customerKey = "customer"

// CustomerOf returns the customer of a request with a valid token.
func CustomerOf(c echo.Context) (customer accounts.Customer, ok bool) {
	customer, ok = c.Get(customerKey).(accounts.Customer)
	return customer, ok
}

func customerOf(c echo.Context) accounts.Customer {
	return c.Get(customerKey).(accounts.Customer)
}

func (a *API) authenticate(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		customer, err := a.Accounts.Authenticate(c.Request().Context(), bearer(c))
		if err != nil {
			return err
		}
		c.Set(customerKey, customer)
		return next(c)
	}
}

func (a *API) adminOnly(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if customer := customerOf(c); !customer.Admin {
			a.Log.WarnContext(c.Request().Context(), "a customer tried an admin call", "customer_id", customer.ID,
				"path", c.Path(), "peer", c.RealIP())
			return errForbidden
		}
		return next(c)
	}
}

// once answers an operation under its idempotency key: from memory if this node holds the final
// answer, with the result of a twin that is running, or by calling run. A 201 gets a Location
// header of location and the object's id, unless location is empty.
func (a *API) once(
	c echo.Context, operation string, key dedup.Key, meaning dedup.Fingerprint, location string,
	run func(context.Context) (dedup.Answer, error),
) error {
	c.Set(keyHash, key.Hash())
	id := dedup.RequestIDOf(operation, customerOf(c).ID, key, meaning)
	answer, err := a.Replays.Do(c.Request().Context(), id, func(ctx context.Context) (dedup.Answer, error) {
		ctx, cancel := context.WithTimeout(ctx, operationTimeout)
		defer cancel()
		return run(ctx)
	})
	a.Recorder.Answered(operation, answer, err)
	if err != nil {
		return err
	}
	header := c.Response().Header()
	if answer.Replayed {
		header.Set("Idempotent-Replayed", "true")
	}
	contentType := echo.MIMEApplicationJSON
	switch {
	case answer.Status == http.StatusCreated && location != "":
		header.Set("Location", location+answer.ID.String())
	case answer.Status == http.StatusAccepted:
		header.Set("Retry-After", retryAfter)
	case answer.Status >= http.StatusBadRequest:
		contentType = problem.ContentType
	}
	return c.Blob(answer.Status, contentType, answer.Body)
}

// pathID parses the id in the path. It returns missing if the text is not an id.
func pathID(c echo.Context, missing error) (uuid.UUID, error) {
	id, err := uuid.Parse(c.Param("id"))
	if err != nil || len(c.Param("id")) != 36 {
		return uuid.Nil, missing
	}
	c.Set(objectID, id.String())
	return id, nil
}
