package web

import (
	"context"
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
)

var cancelPage = parsePage("cancel.html")

// Cancelable reports whether the buyer may cancel the order. The cancellation decides it anew.
func (v orderView) Cancelable() bool {
	switch v.Status {
	case orders.Placed, orders.Paying:
		return true
	case orders.Paid:
		return v.Paying != nil && v.Paying.Dispute != "open" && v.inWindow
	default:
		return false
	}
}

// showCancel asks the buyer to confirm, which works without scripts.
func (w *Web) showCancel(c echo.Context) error {
	order, err := w.ownOrder(c)
	if err != nil {
		return err
	}
	view, err := w.viewOrder(c.Request().Context(), order, 1)
	if err != nil {
		return err
	}
	if !view.Cancelable() {
		return seeOther(c, "/orders/"+order.ID.String())
	}
	return w.render(c, http.StatusOK, cancelPage, page{Title: "Cancel this order?", Content: view})
}

// cancelOwn cancels the visitor's order. An order is canceled once, so its key is made of its id.
func (w *Web) cancelOwn(c echo.Context) error {
	order, err := w.ownOrder(c)
	if err != nil {
		return err
	}
	command := payments.CancelOrder{CustomerID: order.CustomerID, OrderID: order.ID,
		Key: dedup.Key("cancel-" + order.ID.String())}
	_, err = w.once(c, "cancellations", order.CustomerID, command.Key, command.Fingerprint(),
		func(ctx context.Context) (dedup.Answer, error) {
			return w.Payments.Cancel(ctx, command)
		})
	page := "/orders/" + order.ID.String()
	switch {
	case errors.Is(err, payments.ErrOrderNotCancelable):
		return seeOther(c, page+"?notice=uncancelable")
	case errors.Is(err, payments.ErrDisputed):
		return seeOther(c, page+"?notice=disputed")
	case err == nil, errors.Is(err, dedup.ErrInProgress), errors.Is(err, dedup.ErrErased):
		return seeOther(c, page)
	}
	return w.askAgain(c, err, retry{Action: c.Request().URL.Path})
}
