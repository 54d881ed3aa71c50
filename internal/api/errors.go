package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/coalesce"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/problem"
	"github.com/onceshop/onceshop/internal/ratelimit"
)

// retryAfter is in seconds.
const retryAfter = "1"

var (
	errForbidden = errors.New("api: an admin's token is needed")
	errInternal  = errors.New("api: internal error")
	errCardAsKey = errors.New("api: the idempotency key looks like a card number")
)

// known maps the errors of the services to answers. The last column is safe_new_key: false if this
// key's request, or another attempt for the same order, may have had an effect.
var known = []struct {
	err        error
	status     int
	code       string
	title      string
	detail     string
	safeNewKey bool
}{
	{dedup.ErrKeyMissing, 400, "idempotency_key_missing", "Idempotency key missing",
		"Send an Idempotency-Key header: a name of your choice for this intent, such as a UUID, and the same again " +
			"when you retry.", true},
	{dedup.ErrKeyInvalid, 400, "idempotency_key_invalid", "Idempotency key invalid",
		"Idempotency-Key must be sent once and have 1 to 255 visible ASCII characters, bare or as a quoted string.",
		true},
	{errCardAsKey, 400, "idempotency_key_invalid", "Idempotency key invalid",
		"The Idempotency-Key looks like a payment card number, which this shop never keeps. Make up another name " +
			"for this intent, such as a UUID.", true},
	{dedup.ErrKeyReused, 422, "idempotency_key_reused", "Idempotency key reused",
		"This key stands for another request that you sent before. Nothing was done. Use one key per intent.", false},
	{dedup.ErrInProgress, 409, "request_in_progress", "Request in progress",
		"The first request with this key is still running. Send it again with the same key.", false},
	{accounts.ErrUnauthorized, 401, "unauthorized", "Unauthorized", "Send a valid token: Authorization: Bearer TOKEN.",
		true},
	{errForbidden, 403, "forbidden", "Forbidden", "This call needs an admin's token.", true},
	{orders.ErrNotFound, 404, "not_found", "Not found", "There is no such order.", true},
	{payments.ErrNotFound, 404, "not_found", "Not found", "There is no such charge.", true},
	{payments.ErrOrderNotPayable, 409, "order_not_payable", "Order not payable",
		"The order was canceled, has expired or was refunded. Place a new one.", true},
	{payments.ErrTooManyAttempts, 409, "too_many_attempts", "Too many attempts",
		"Too many payments of this order were declined. Nothing was charged: place a new order.", true},
	{payments.ErrOrderNotCancelable, 409, "order_not_cancelable", "Order not cancelable",
		"The order has ended already, or was paid too long ago.", true},
	{payments.ErrDisputed, 409, "charge_disputed", "Charge disputed",
		"The buyer disputes this charge at the bank. Nothing was refunded: wait until the dispute is closed.", true},
	{payments.ErrNotSigned, 400, "invalid_request", "Bad signature",
		"The webhook's signature or timestamp is not valid.", true},
	{echo.ErrNotFound, 404, "not_found", "Not found", "There is nothing at this path; see /v1/openapi.yaml.", true},
	{echo.ErrMethodNotAllowed, 405, "method_not_allowed", "Method not allowed",
		"This path does not take this method; see the Allow header and /v1/openapi.yaml.", true},
	{ratelimit.ErrTooMany, 429, "too_many_requests", "Too many requests",
		"Nothing was done. Send the same request with the same key again, after the seconds that Retry-After names.",
		true},
	{errUnavailable, 503, "unavailable", "Unavailable",
		"The shop could not finish this now, and it may have happened. Send the same request with the same key again.",
		false},
	{errInternal, 500, "internal", "Internal error",
		"Something went wrong on our side, and it may have happened. Send the same request with the same key again.",
		false},
}

var errUnavailable = errors.New("api: unavailable")

// problemOf turns any error into a problem. The text of an unexpected error does not reach the
// client.
func problemOf(err error) problem.Problem {
	if p, ok := typed(err); ok {
		return p
	}
	switch {
	case pg.IsUnavailable(err), errors.Is(err, coalesce.ErrFull), errors.Is(err, context.Canceled):
		err = errUnavailable
	}
	for _, k := range known {
		if errors.Is(err, k.err) {
			return problem.New(k.status, k.code, k.title, k.detail, k.safeNewKey)
		}
	}
	return problemOf(errInternal)
}

// typed handles the errors that carry data.
func typed(err error) (problem.Problem, bool) {
	var (
		invalid    problem.InvalidError
		unknownSKU orders.UnknownSKUError
		short      orders.OutOfStockError
		busy       payments.InProgressError
		paid       payments.AlreadyPaidError
		exceeds    payments.RefundExceedsError
		tooLarge   *http.MaxBytesError
	)
	switch {
	case errors.As(err, &invalid):
		return problem.New(400, "invalid_request", "Invalid request", invalid.Error(), true), true
	case errors.As(err, &unknownSKU):
		detail := "The shop has no product with this " + unknownSKU.Error() + ". GET /v1/products lists what there is."
		return problem.New(400, "unknown_sku", "Unknown product", detail, true), true
	case errors.As(err, &short):
		p := problem.New(409, "out_of_stock", "Out of stock", "Nothing was ordered: "+short.Error()+".", true)
		p.Items = short.Items
		return p, true
	case errors.As(err, &busy):
		p := problem.New(409, "charge_in_progress", "Charge in progress",
			"Another charge for this order is not settled yet. Do not pay again: ask for that charge.", false)
		p.ChargeID = busy.ChargeID.String()
		return p, true
	case errors.As(err, &paid):
		p := problem.New(409, "order_already_paid", "Order already paid",
			"Another charge has paid this order. Nothing was charged now.", false)
		p.ChargeID = paid.ChargeID.String()
		return p, true
	case errors.As(err, &exceeds):
		p := problem.New(409, "refund_exceeds_charge", "Refund exceeds the charge",
			fmt.Sprintf("Nothing was refunded: you asked for %s, and the charge can still give back %s.",
				exceeds.Asked, exceeds.Refundable), true)
		p.Refundable = &exceeds.Refundable.Minor
		return p, true
	case errors.As(err, &tooLarge):
		return problem.New(413, "too_large", "Body too large", "The body must not be larger than 64 KiB.", true), true
	}
	return problem.Problem{}, false
}

// WriteError answers a request under /v1 that failed with err. It logs the errors that the answer
// hides.
func WriteError(c echo.Context, err error, log *slog.Logger) {
	if c.Response().Committed {
		return
	}
	p := problemOf(err)
	header := c.Response().Header()
	header.Set("Cache-Control", "no-store")
	switch p.Code {
	case "unauthorized":
		header.Set("WWW-Authenticate", "Bearer")
	case "unavailable", "request_in_progress", "charge_in_progress", "too_many_requests":
		header.Set("Retry-After", retryAfter)
	}
	if p.Status >= http.StatusInternalServerError {
		log.ErrorContext(c.Request().Context(), "request failed", append(LogFields(c), "error", err)...)
	}
	if err := p.Write(c.Response()); err != nil {
		log.DebugContext(c.Request().Context(), "the client has gone", "error", err)
	}
}

const (
	keyHash  = "key_hash"
	objectID = "object_id"
)

// LogFields returns the request's fields for a log line: the object and the hash of the key, never
// the key.
func LogFields(c echo.Context) []any {
	fields := []any{"method", c.Request().Method, "route", c.Path()}
	for _, name := range []string{keyHash, objectID} {
		if value := c.Get(name); value != nil {
			fields = append(fields, name, value)
		}
	}
	return fields
}
