package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/coalesce"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/money"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/problem"
)

// operatorNotices are the notices after an operator's form, by the value of ?notice=.
var operatorNotices = map[string]string{
	"done":          "Done. The order's timeline has your name and your reason.",
	"event":         "Done. If the event is still quarantined, it still contradicts the shop's records.",
	"canceled":      "The order is canceled. What was paid is refunded automatically.",
	"refunded":      "The refund has succeeded.",
	"refund-open":   "The refund is in progress. This page shows its outcome.",
	"refund-failed": "The provider refused the refund, so no money moved.",
}

// act is an operator's form. Its key was made with the form: sending it again repeats its answer.
type act struct {
	url.Values
	key      dedup.Key
	operator uuid.UUID
	name     string
}

func (w *Web) readAct(c echo.Context) (act, error) {
	form, err := postForm(c)
	if err != nil {
		return act{}, err
	}
	key, err := dedup.ParseKey(form.Get("key"))
	if err != nil {
		return act{}, problem.InvalidError{Field: "key", Reason: "must be the one that the page put there"}
	}
	id, name, err := w.operator(c)
	return act{form, key, id, name}, err
}

// operate carries out a decision by hand.
func (w *Web) operate(c echo.Context) error {
	form, err := w.readAct(c)
	if err != nil {
		return err
	}
	command := payments.Operation{CustomerID: form.operator, Operator: form.name, Key: form.key,
		Action: payments.Action(form.Get("action")), Subject: form.Get("subject"),
		ProviderID: strings.TrimSpace(form.Get("provider_id")), Reason: strings.TrimSpace(form.Get("reason"))}
	answer, err := w.once(c, "operations", form.operator, form.key, command.Fingerprint(),
		func(ctx context.Context) (dedup.Answer, error) {
			return w.Payments.Operate(ctx, command)
		})
	if err != nil {
		return w.refuseAct(c, form, err)
	}
	var done payments.OperatorAction
	if err := json.Unmarshal(answer.Body, &done); err != nil {
		return fmt.Errorf("read the action: %w", err)
	}
	if done.OrderID == nil || done.Action == payments.RedoEvent || done.Action == payments.DismissEvent {
		return seeOther(c, "/admin/events?notice=event")
	}
	return seeOther(c, "/admin/orders/"+done.OrderID.String()+"?notice=done")
}

// refundCharge returns a part of a charge, or the rest if the form has no amount.
func (w *Web) refundCharge(c echo.Context) error {
	form, err := w.readAct(c)
	if err != nil {
		return err
	}
	id, err := uuid.Parse(c.Param("id"))
	if err != nil {
		return orders.ErrNotFound
	}
	charge, err := w.Payments.Get(c.Request().Context(), id)
	if err != nil {
		return w.refuseAct(c, form, err)
	}
	command := payments.RefundCharge{CustomerID: form.operator, Key: form.key, ChargeID: id,
		Reason: strings.TrimSpace(form.Get("reason"))}
	if command.Reason == "" {
		return problem.InvalidError{Field: "reason", Reason: "must not be empty"}
	}
	if text := strings.TrimSpace(form.Get("amount")); text != "" {
		amount, err := money.Parse(text, charge.Currency)
		if err != nil {
			return problem.InvalidError{Field: "amount", Reason: "must be an amount such as 12.50, or empty"}
		}
		command.Amount = &amount.Minor
	}
	answer, err := w.once(c, "refunds", form.operator, form.key, command.Fingerprint(),
		func(ctx context.Context) (dedup.Answer, error) {
			return w.Payments.Refund(ctx, command)
		})
	if err != nil {
		return w.refuseAct(c, form, err)
	}
	notice := "refunded"
	switch answer.Status {
	case http.StatusAccepted:
		notice = "refund-open"
	case http.StatusPaymentRequired:
		notice = "refund-failed"
	}
	return seeOther(c, "/admin/orders/"+charge.OrderID.String()+"?notice="+notice)
}

// cancelOrder cancels any customer's order.
func (w *Web) cancelOrder(c echo.Context) error {
	form, err := w.readAct(c)
	if err != nil {
		return err
	}
	id, err := uuid.Parse(c.Param("id"))
	if err != nil {
		return orders.ErrNotFound
	}
	command := payments.CancelOrder{CustomerID: form.operator, Key: form.key, Admin: true, OrderID: id}
	_, err = w.once(c, "cancellations", form.operator, form.key, command.Fingerprint(),
		func(ctx context.Context) (dedup.Answer, error) {
			return w.Payments.Cancel(ctx, command)
		})
	if err != nil {
		return w.refuseAct(c, form, err)
	}
	return seeOther(c, "/admin/orders/"+id.String()+"?notice=canceled")
}

var operatorRetryPage = parsePage("admin_retry.html")

// refuseAct shows why an operator's form changed nothing. If its outcome is unknown, it offers to
// send the form again.
func (w *Web) refuseAct(c echo.Context, form act, err error) error {
	if errors.Is(err, payments.ErrNotFound) {
		return orders.ErrNotFound
	}
	if pg.IsUnavailable(err) || errors.Is(err, coalesce.ErrFull) || errors.Is(err, context.DeadlineExceeded) {
		w.logFailure(c, err)
		fields := make(map[string]string, len(form.Values))
		for name := range form.Values {
			fields[name] = form.Get(name)
		}
		return w.render(c, http.StatusServiceUnavailable, operatorRetryPage, page{Title: "We are not sure that worked",
			Content: retry{Action: c.Request().URL.Path, Fields: fields}})
	}
	status := http.StatusConflict
	var detail string
	refused, isRefused := errors.AsType[payments.RefusedError](err)
	exceeds, isExceeding := errors.AsType[payments.RefundExceedsError](err)
	switch {
	case isRefused:
		detail = "The shop refused this: " + refused.Reason + "."
	case isExceeding:
		detail = "The charge can still give back " + exceeds.Refundable.String() + "."
	case errors.Is(err, payments.ErrDisputed):
		detail = "The charge is disputed at the buyer's bank. Nothing is refunded until the dispute is over."
	case errors.Is(err, payments.ErrOrderNotCancelable):
		detail = "The order has ended."
	case errors.Is(err, dedup.ErrKeyReused):
		status = http.StatusUnprocessableEntity
		detail = "This form was sent before with other values. Reload its page to decide again."
	case errors.Is(err, dedup.ErrErased):
		status = http.StatusGone
		detail = "This was done before, and its data has been erased since."
	case errors.Is(err, dedup.ErrInProgress):
		detail = "The first request is still running. Check the order in a moment."
	default:
		return err
	}
	refusal := failure{status, "Nothing was changed", detail}
	return w.render(c, status, errorPage, page{Title: refusal.Title, Content: refusal})
}
