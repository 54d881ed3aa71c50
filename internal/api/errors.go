package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"

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

// known maps the errors of the services to codes of the problem table. An empty detail is the one
// in the table.
var known = []struct {
	err    error
	code   string
	detail string
}{
	{dedup.ErrKeyMissing, "idempotency_key_missing", ""},
	{dedup.ErrKeyInvalid, "idempotency_key_invalid", ""},
	{errCardAsKey, "idempotency_key_invalid", "The Idempotency-Key looks like a payment card number, which this shop " +
		"never keeps. Make up another name for this intent, such as a UUID."},
	{dedup.ErrKeyReused, "idempotency_key_reused", ""},
	{dedup.ErrErased, "erased", ""},
	{dedup.ErrInProgress, "request_in_progress", ""},
	{accounts.ErrUnauthorized, "unauthorized", ""},
	{errForbidden, "forbidden", ""},
	{orders.ErrNotFound, "not_found", ""},
	{payments.ErrNotFound, "not_found", "There is no such charge."},
	{payments.ErrOrderNotPayable, "order_not_payable", ""},
	{payments.ErrTooManyAttempts, "too_many_attempts", ""},
	{payments.ErrOrderNotCancelable, "order_not_cancelable", ""},
	{payments.ErrDisputed, "charge_disputed", ""},
	{payments.ErrNotSigned, "invalid_request", "The webhook's signature or timestamp is not valid."},
	{echo.ErrNotFound, "not_found", "There is nothing at this path. See /docs for the paths of this API."},
	{echo.ErrMethodNotAllowed, "method_not_allowed", ""},
	{orders.ErrTooManyUnpaid, "too_many_unpaid_orders", ""},
	{ratelimit.ErrTooMany, "too_many_requests", ""},
	{errUnavailable, "unavailable", ""},
	{errInternal, "internal", ""},
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
			return problem.New(k.code, k.detail)
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
		repriced   orders.PriceChangedError
		busy       payments.InProgressError
		paid       payments.AlreadyPaidError
		exceeds    payments.RefundExceedsError
		tooLarge   *http.MaxBytesError
	)
	switch {
	case errors.As(err, &invalid):
		return problem.New("invalid_request", invalid.Error()), true
	case errors.As(err, &unknownSKU):
		return problem.New("unknown_sku", "The shop has no product with this "+unknownSKU.Error()+
			". GET /v1/products lists what there is."), true
	case errors.As(err, &short):
		p := problem.New("out_of_stock", "Nothing was ordered: "+short.Error()+".")
		p.Items = short.Items
		return p, true
	case errors.As(err, &repriced):
		p := problem.New("price_changed", "Nothing was ordered: "+repriced.Error()+
			". Ask the buyer, then send the new total.")
		p.Total, p.Currency = &repriced.Total, repriced.Currency
		return p, true
	case errors.As(err, &busy):
		p := problem.New("charge_in_progress", "")
		p.ChargeID = busy.ChargeID.String()
		return p, true
	case errors.As(err, &paid):
		p := problem.New("order_already_paid", "")
		p.ChargeID = paid.ChargeID.String()
		return p, true
	case errors.As(err, &exceeds):
		p := problem.New("refund_exceeds_charge", fmt.Sprintf("Nothing was refunded: you asked for %s, and the charge "+
			"can still give back %s.", exceeds.Asked, exceeds.Refundable))
		p.Refundable = &exceeds.Refundable.Minor
		return p, true
	case errors.As(err, &tooLarge):
		return problem.New("too_large", ""), true
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
	case "too_many_unpaid_orders":
		header.Set("Retry-After", strconv.Itoa(int(orders.UnpaidRetry.Seconds())))
	}
	// A client that disconnected is no failure.
	ctx := c.Request().Context()
	if p.Status >= http.StatusInternalServerError && !errors.Is(ctx.Err(), context.Canceled) {
		log.ErrorContext(ctx, "request failed", append(LogFields(c), "error", err)...)
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
// the key. The context adds the request's id.
func LogFields(c echo.Context) []any {
	fields := []any{"method", c.Request().Method, "route", c.Path()}
	for _, name := range []string{keyHash, objectID} {
		if value := c.Get(name); value != nil {
			fields = append(fields, name, value)
		}
	}
	return fields
}
