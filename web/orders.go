package web

import (
	"context"
	"errors"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/problem"
)

const (
	// ordersPerPage is the number of orders on a page of the history.
	ordersPerPage = 20
	// maxTries bounds the attempt number of a payment form.
	maxTries = 1000
	// quietAfter is how long a page stays live after the order's last event, if no payment is open.
	// The receipt of a paid order is sent within seconds.
	quietAfter = 10 * time.Second
	// lateAfter is when a buyer wonders whether a payment works.
	lateAfter = 2 * time.Second
	// quietReturn is quietAfter while money is on its way back, which can take days.
	quietReturn = 5 * time.Minute
	// quietPanel is quietAfter for a page with a panel, whose buttons make news at any time.
	quietPanel = time.Hour
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
	return w.renderOrders(c, http.StatusOK, w.visitor(c), "", after)
}

// renderOrders shows a page of the visitor's orders, which starts behind the order after.
func (w *Web) renderOrders(c echo.Context, status int, v visitor, notice string, after *uuid.UUID) error {
	list, more, err := w.Orders.List(c.Request().Context(), v.ID, ordersPerPage, after)
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
	return w.render(c, status, ordersPage, page{Title: "Your orders", Notice: notice, Content: content})
}

// orderView is the content of the order page.
type orderView struct {
	orders.Order
	Shop    string
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
	Timeline events
	Layers   way
	// inWindow reports whether a paid order is young enough to be canceled.
	inWindow bool
	// Live reports whether the page can still change without the buyer.
	Live bool
	// Panel is the part of another package, and nil without one.
	Panel *OrderPanel
	// PanelHTML is its content.
	PanelHTML template.HTML
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

// Asking reports whether the provider has just been asked, and its answer is not late yet.
func (v orderView) Asking() bool {
	return v.Open != nil && v.Open.Status == payments.Pending && time.Since(v.Open.CreatedAt) < lateAfter
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
	"authentication_failed":   "it was not confirmed with the bank",
	"authentication_required": "the bank requires a confirmation that this card does not support",
	"card_declined":           "the bank declined it",
	"card_not_supported":      "the card cannot be used for this payment",
	"currency_not_supported":  "the card cannot pay in this currency",
	"declined":                "the bank declined it",
	"do_not_honor":            "the bank declined it",
	"expired_card":            "the card has expired",
	"generic_decline":         "the bank declined it",
	"incorrect_cvc":           "the security code is incorrect",
	"incorrect_number":        "the card number is incorrect",
	"insufficient_funds":      "the card has insufficient funds",
	"not_captured":            "it was not completed in time, so we stopped it",
	"processing_error":        "the payment provider could not process it",
	"refused_by_provider":     "the payment provider did not accept the request",
}

func (w *Web) showOrder(c echo.Context) error {
	order, err := w.ownOrder(c)
	if err != nil {
		return err
	}
	view, err := w.viewOrder(c.Request().Context(), order, timelinePage(c))
	if err != nil {
		return err
	}
	view.Forward = c.QueryParams().Has("forward")
	return w.render(c, http.StatusOK, orderPage, page{Title: view.Title(), Content: view})
}

func (w *Web) viewOrder(ctx context.Context, order orders.Order, timelinePage int) (orderView, error) {
	view := orderView{Order: order, Shop: w.Name, Methods: w.methods("")}
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
			view.Paying, view.inWindow = &charge, w.Payments.MayCancel(charge.CreatedAt)
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
	if err := w.explain(ctx, &view, timelinePage); err != nil {
		return view, err
	}
	last := order.CreatedAt
	if n := len(view.Timeline.Events); n > 0 {
		last = view.Timeline.Events[n-1].At
	}
	quiet := quietAfter
	switch {
	case w.Panel != nil:
		quiet = quietPanel
	case view.returning():
		quiet = quietReturn
	}
	view.Live = timelinePage == 1 && (view.Refreshes() > 0 || time.Since(last) < quiet)
	return view, nil
}

// explain sets why the order happened once. The counts come first, so that the timeline has what
// they count.
func (w *Web) explain(ctx context.Context, view *orderView, timelinePage int) (err error) {
	if view.Panel = w.Panel; w.Panel != nil {
		if view.PanelHTML, err = w.Panel.Render(ctx, view.Order); err != nil {
			return err
		}
	}
	steps, err := w.Timeline.Way(ctx, view.ID)
	if err != nil {
		return err
	}
	view.Layers = layers(steps)
	view.Timeline, err = readTimeline(ctx, view.ID, timelinePage, w.Timeline.Of)
	return err
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
