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
	// ordersPerPage is how many orders the history shows at once.
	ordersPerPage = 20
	// maxTries bounds the number that a form to pay may carry.
	maxTries = 1000
	// quietAfter is how long after the last event of an order, unless its payment is open, no more
	// are awaited: the receipt of a paid order goes out within seconds.
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

// orderView is an order, where its payment stands, and why.
type orderView struct {
	orders.Order
	Methods choice
	// Try is the number of charges that were declined so far, and so the number of the next try.
	Try int
	// Declined is why the last of them was.
	Declined string
	// Refunded is what went back to the buyer so far.
	Refunded int64
	Timeline []timeline.Event
	// Live says that there will be news without the buyer doing anything.
	Live bool
}

// Title is the page's, and changes with the order.
func (v orderView) Title() string { return orderTitles[v.Status] }

// HasReceipt says whether the order was paid.
func (v orderView) HasReceipt() bool { return v.Status == orders.Paid || v.Status == orders.Refunded }

var orderTitles = map[orders.Status]string{
	orders.Placed:   "Almost yours",
	orders.Paying:   "One moment, please",
	orders.Paid:     "Thank you. It is yours.",
	orders.Refunded: "Refunded",
	orders.Canceled: "Canceled",
	orders.Expired:  "Expired",
}

// declines says why a charge was declined, by the provider's code.
var declines = map[string]string{
	"card_declined":       "the bank behind the card said no",
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
			view.Declined = "the payment provider said no"
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

// payOrder makes the try to pay that the form stands for.
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

// ownOrder returns the visitor's order of the path. Another's is answered like one that does not
// exist.
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
