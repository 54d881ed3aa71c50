package web

import (
	"context"
	"errors"
	"net/http"
	"slices"
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
	// quietReturn is quietAfter while money is on its way back, which can take days.
	quietReturn = 5 * time.Minute
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
	// Try is the number of charges that have ended without paying, and so the number of the next
	// attempt.
	Try int
	// Declined is the reason for the last decline.
	Declined string
	// Exhausted reports whether the order takes no further attempt.
	Exhausted bool
	// Open is the charge whose outcome is open, Paying the one that paid the order; nil if there is
	// none. Late are the charges whose money came too late to pay.
	Open, Paying *payments.Charge
	Late         []payments.Charge
	Refunds      []payments.Refund
	// Deadline is when an order that waits for its payment expires.
	Deadline time.Time
	// Forward lets a script go on to the provider's page, which the buyer has just asked for.
	Forward  bool
	Timeline []timeline.Event
	// Live reports whether the page can still change without the buyer.
	Live bool
}

// Title returns the page's title, which depends on the order's status.
func (v orderView) Title() string {
	if v.Confirms() {
		return "Please confirm your payment"
	}
	return orderTitles[v.Status]
}

// Confirms reports whether the order waits for its buyer to confirm the payment at the provider.
func (v orderView) Confirms() bool { return confirms(v.Order, v.Open) }

// Refreshes is after how many seconds a page without scripts reloads, 0 if never.
func (v orderView) Refreshes() int {
	switch {
	case v.Confirms():
		return 10
	case v.Open != nil || v.Status == orders.Paying:
		return 3
	default:
		return 0
	}
}

// Disputed returns the charges with a dispute.
func (v orderView) Disputed() (disputed []payments.Charge) {
	for _, charge := range v.captured() {
		if charge.Dispute != "" {
			disputed = append(disputed, charge)
		}
	}
	return disputed
}

// returning reports whether money is on its way back.
func (v orderView) returning() bool {
	return slices.ContainsFunc(v.captured(), func(charge payments.Charge) bool { return charge.Owes }) ||
		slices.ContainsFunc(v.Refunds, func(refund payments.Refund) bool {
			return refund.Status == payments.Pending || refund.Status == payments.Unknown
		})
}

// captured returns the charges that have moved money.
func (v orderView) captured() []payments.Charge {
	if v.Paying == nil {
		return v.Late
	}
	return append([]payments.Charge{*v.Paying}, v.Late...)
}

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
	"authentication_failed":   "it was not confirmed at the bank",
	"authentication_required": "the card's bank wants the payment to be confirmed, and this card cannot do that",
	"card_declined":           "the card's bank declined it",
	"card_not_supported":      "the card cannot be used for this payment",
	"currency_not_supported":  "the card cannot pay in this currency",
	"declined":                "the card's bank declined it",
	"do_not_honor":            "the card's bank declined it",
	"expired_card":            "the card has expired",
	"generic_decline":         "the card's bank declined it",
	"incorrect_cvc":           "the card's security code is wrong",
	"incorrect_number":        "the card's number is wrong",
	"insufficient_funds":      "there is not enough money on the card",
	"not_captured":            "it was not completed in time, so we ended it",
	"processing_error":        "the payment provider could not process it",
	"refused_by_provider":     "the payment provider did not accept the request",
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
	view.Forward = c.QueryParams().Has("forward")
	return w.render(c, http.StatusOK, orderPage, page{Title: view.Title(), Content: view})
}

func (w *Web) viewOrder(ctx context.Context, order orders.Order) (orderView, error) {
	view := orderView{Order: order, Methods: w.methods("")}
	charges, err := w.Payments.OfOrder(ctx, order.ID)
	if err != nil {
		return view, err
	}
	for _, charge := range charges {
		switch {
		case charge.Status == payments.Declined:
			view.Try++
			view.Declined = "the payment provider declined it"
			if reason, known := declines[charge.DeclineCode]; known {
				view.Declined = reason
			}
		case charge.Status != payments.Succeeded:
			view.Open = &charge
		case charge.Pays:
			view.Paying = &charge
		default:
			view.Try++
			view.Late = append(view.Late, charge)
		}
	}
	view.Exhausted = w.Payments.TooManyAttempts(charges)
	if len(view.captured()) > 0 {
		if view.Refunds, err = w.Payments.RefundsOfOrder(ctx, order.ID); err != nil {
			return view, err
		}
	}
	if order.Status == orders.Placed || order.Status == orders.Paying {
		if view.Deadline, err = w.Orders.Deadline(ctx, order.ID); err != nil {
			return view, err
		}
	}
	if view.Timeline, err = w.Timeline.Of(ctx, order.ID); err != nil {
		return view, err
	}
	last := order.CreatedAt
	if n := len(view.Timeline); n > 0 {
		last = view.Timeline[n-1].At
	}
	quiet := quietAfter
	if view.returning() {
		quiet = quietReturn
	}
	view.Live = view.Refreshes() > 0 || time.Since(last) < quiet
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
	next := ""
	if err == nil {
		next, err = w.pay(c, order.CustomerID, order.ID, try, chosen)
	}
	switch {
	case errors.Is(err, orders.ErrNotFound):
		return err
	case err != nil:
		return w.askAgain(c, err, retry{Action: c.Request().URL.Path,
			Fields: map[string]string{"try": form.Get("try"), "payment_method": chosen}})
	}
	return seeOther(c, next)
}

// confirms reports whether the order waits for its buyer to confirm the open charge.
func confirms(order orders.Order, open *payments.Charge) bool {
	return order.Status == orders.Paying && open != nil && open.NextAction != nil
}

// confirmPayment leads to the provider's page where the buyer confirms the payment. If the payment
// does not wait for that, or not any more, it leads to the order's page.
func (w *Web) confirmPayment(c echo.Context) error {
	order, err := w.ownOrder(c)
	if err != nil {
		return err
	}
	charges, err := w.Payments.OfOrder(c.Request().Context(), order.ID)
	if err != nil {
		return err
	}
	for _, charge := range charges {
		if confirms(order, &charge) {
			return seeOther(c, charge.NextAction.URL)
		}
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
