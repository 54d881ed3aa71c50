package web

import (
	"context"
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/coalesce"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/problem"
	"github.com/onceshop/onceshop/internal/ratelimit"
)

var errorPage = parsePage("error.html")

// failure is the content of the error page.
type failure struct {
	Status int
	Title  string
	Detail string
}

var (
	notFound = failure{http.StatusNotFound, "Page not found",
		"The address may be mistyped. Orders can be viewed only in the browser that placed them."}
	noProduct = failure{http.StatusNotFound, "Product not found",
		"We do not sell this product. The shop page lists all our products."}
	unavailable = failure{http.StatusServiceUnavailable, "The shop is busy",
		"We could not finish this just now. Your cart is safe in your browser: please try again in a moment."}
	internal = failure{http.StatusInternalServerError, "Something went wrong on our side",
		"It is not your fault, and we have logged it. Your cart is safe in your browser: please try again."}
)

// failureOf turns any error into an error page. It does not show the text of an unexpected error.
func failureOf(err error) failure {
	if invalid, ok := errors.AsType[problem.InvalidError](err); ok {
		return failure{http.StatusBadRequest, "We could not understand that",
			"The form's " + invalid.Field + " " + invalid.Reason + ". Please go back and try again."}
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return failure{http.StatusRequestEntityTooLarge, "That was too large",
			"The form was larger than this shop accepts. Nothing was changed."}
	}
	switch {
	case errors.Is(err, orders.ErrNotFound):
		return notFound
	case errors.Is(err, errNoProduct):
		return noProduct
	case errors.Is(err, ratelimit.ErrTooMany):
		return failure{http.StatusTooManyRequests, "One at a time, please",
			"Your network is sending requests faster than this shop accepts them. Nothing was changed: please " +
				"try again in a moment."}
	case errors.Is(err, errCard):
		return failure{http.StatusBadRequest, "Please keep your card number",
			"Something you typed looks like a payment card number. This shop never asks for one and never stores " +
				"one, so nothing was changed."}
	case errors.Is(err, errCrossSite):
		return failure{http.StatusForbidden, "That did not come from this shop",
			"The form was sent from another site, so nothing was changed. If you meant to do this, please do it here."}
	case pg.IsUnavailable(err), errors.Is(err, coalesce.ErrFull), errors.Is(err, context.Canceled):
		return unavailable
	}
	if known, ok := errors.AsType[*echo.HTTPError](err); ok {
		switch {
		case known.Code == http.StatusNotFound:
			return notFound
		case known.Code == http.StatusMethodNotAllowed:
			return failure{known.Code, "That does not work here",
				"This page cannot be used in that way. Nothing was changed."}
		case known.Code < http.StatusInternalServerError:
			return failure{known.Code, "We could not understand that",
				"Nothing was changed. Please go back and try again."}
		}
	}
	return internal
}

// WriteError answers a request outside /v1 that failed with err. It logs the errors that the page
// hides.
func (w *Web) WriteError(c echo.Context, err error) {
	if c.Response().Committed {
		return
	}
	f := failureOf(err)
	if f.Status >= http.StatusInternalServerError {
		w.logFailure(c, err)
	}
	setSecurityHeaders(c)
	c.Response().Header().Set("Cache-Control", "no-store")
	if f.Status == http.StatusTooManyRequests {
		c.Response().Header().Set("Retry-After", "1")
	}
	if err := w.render(c, f.Status, errorPage, page{Title: f.Title, Content: f}); err != nil {
		w.Log.DebugContext(c.Request().Context(), "the error page could not be sent", "error", err)
	}
}

// logFailure logs an error that the page hides. A client that disconnected is no failure.
func (w *Web) logFailure(c echo.Context, err error) {
	if errors.Is(c.Request().Context().Err(), context.Canceled) {
		return
	}
	w.Log.ErrorContext(c.Request().Context(), "page failed", "method", c.Request().Method, "route", c.Path(),
		"error", err)
}

var retryPage = parsePage("retry.html")

// retry is a form to send again unchanged.
type retry struct {
	Action string
	Fields map[string]string
}

// askAgain answers a form whose outcome is unknown. It offers to send the form again with the same
// key, which is safe.
func (w *Web) askAgain(c echo.Context, err error, again retry) error {
	w.logFailure(c, err)
	return w.render(c, failureOf(err).Status, retryPage, page{Title: "We are not sure that worked", Content: again})
}
