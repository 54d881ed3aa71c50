package web

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/problem"
	"github.com/onceshop/onceshop/internal/timeline"
)

const (
	// ordersPerPage is the number of orders on a page of the history.
	ordersPerPage = 20
	// maxTries bounds the attempt number of a payment form.
	maxTries = 1000
	// quietAfter is how long a page stays live after the order's last event, if no payment is open.
	// The receipt of a paid order is sent within seconds.
	quietAfter = 10 * time.Second
)

var (
	ordersPage = parsePage("orders.html")
	orderPage  = parsePage("order.html")
)

// listOrders shows the visitor's orders, newest first.
func (w *Web) listOrders(c echo.Context) error {
	var after *uuid.UUID
	if id, err := uuid.Parse(c.QueryParam("after")); err == nil {
		after = &id
	}
	list, more, err := w.Orders.List(c.Request().Context(), w.visitor(c).ID, ordersPerPage, after)
	if err != nil {
		return err
	}
	content := struct {
		Orders []orders.Order
		Older  string
	}{Orders: list}
	if more {
		content.Older = "/orders?after=" + list[len(list)-1].ID.String()
	}
	return w.render(c, http.StatusOK, ordersPage, page{Title: "Your orders", Content: content})
}

// orderView is the content of the order page.
type orderView struct {
	orders.Order
	Methods choice
	// Try is the number of declined charges, and so the number of the next attempt.
	Try int
	// Declined is the reason for the last decline.
	Declined string
	// Refunded is the amount refunded so far.
	Refunded int64
	Timeline []timeline.Event
	// Live reports whether the page can still change without the buyer.
	Live bool
}

// Title returns the page's title, which depends on the order's status.
func (v orderView) Title() string { return orderTitles[v.Status] }

// HasReceipt reports whether the order was paid.
func (v orderView) HasReceipt() bool { return v.Status == orders.Paid || v.Status == orders.Refunded }

var orderTitles = map[orders.Status]string{
	orders.Placed:   "Almost yours",
	orders.Paying:   "One moment, please",
	orders.Paid:     "Thank you. It is yours.",
	orders.Refunded: "Refunded",
	orders.Canceled: "Canceled",
	orders.Expired:  "Expired",
}

// declines are the reasons of declines, by the provider's code.
var declines = map[string]string{
	"card_declined":       "the card's bank declined it",
	"insufficient_funds":  "there is not enough money on the card",
	"refused_by_provider": "the payment provider did not accept the request",
}

func (w *Web) showOrder(c echo.Context) error {
	order, err := w.ownOrder(c)
	if err != nil {
		return err
	}
	view, err := w.viewOrder(c.Request().Context(), order)
	if err != nil {
		return err
	}
	return w.render(c, http.StatusOK, orderPage, page{Title: view.Title(), Content: view})
}

func (w *Web) viewOrder(ctx context.Context, order orders.Order) (orderView, error) {
	view := orderView{Order: order, Methods: w.methods("")}
	charges, err := w.Payments.OfOrder(ctx, order.ID)
	if err != nil {
		return view, err
	}
	for _, charge := range charges {
		view.Refunded += charge.AmountRefunded
		if charge.Status == payments.Declined {
			view.Try++
			view.Declined = "the payment provider declined it"
			if reason, known := declines[charge.DeclineCode]; known {
				view.Declined = reason
			}
		}
	}
	if view.Timeline, err = w.Timeline.Of(ctx, order.ID); err != nil {
		return view, err
	}
	last := order.CreatedAt
	if n := len(view.Timeline); n > 0 {
		last = view.Timeline[n-1].At
	}
	view.Live = order.Status == orders.Paying || time.Since(last) < quietAfter
	return view, nil
}

// payOrder makes the form's attempt to pay.
func (w *Web) payOrder(c echo.Context) error {
	form, err := postForm(c)
	if err != nil {
		return err
	}
	try, err := strconv.Atoi(form.Get("try"))
	if err != nil || try < 0 || try > maxTries {
		return problem.InvalidError{Field: "try", Reason: "must be the number that the order's page put there"}
	}
	chosen := form.Get("payment_method")
	if !w.offers(chosen) {
		return problem.InvalidError{Field: "payment_method", Reason: "must be one of those on the order's page"}
	}
	order, err := w.ownOrder(c)
	if err == nil {
		err = w.pay(c, order.CustomerID, order.ID, try, chosen)
	}
	switch {
	case errors.Is(err, orders.ErrNotFound):
		return err
	case errors.Is(err, errOutdated):
		return seeOther(c, "/orders/"+order.ID.String()+"?notice=outdated")
	case err != nil:
		return w.askAgain(c, err, retry{Action: c.Request().URL.Path,
			Fields: map[string]string{"try": form.Get("try"), "payment_method": chosen}})
	}
	return seeOther(c, "/orders/"+order.ID.String())
}

// ownOrder returns the order of the path. It returns orders.ErrNotFound for another visitor's
// order.
func (w *Web) ownOrder(c echo.Context) (orders.Order, error) {
	id, err := uuid.Parse(c.Param("id"))
	if err != nil || len(c.Param("id")) != 36 {
		return orders.Order{}, orders.ErrNotFound
	}
	order, err := w.Orders.Get(c.Request().Context(), id)
	if err != nil {
		return orders.Order{}, err
	}
	if order.CustomerID != w.visitor(c).ID {
		return orders.Order{}, orders.ErrNotFound
	}
	return order, nil
}
