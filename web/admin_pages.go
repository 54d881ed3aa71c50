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
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/timeline"
)

const (
	// adminRows is the number of rows on a page of an operators' list.
	adminRows = 50
	// attentionRows is the number of charges, and of events, on the page of what needs attention.
	attentionRows = 20
	// brokerTimeout bounds the wait for the broker.
	brokerTimeout = 3 * time.Second
)

func (w *Web) registerAdmin(e *echo.Echo) {
	for path, page := range map[string]echo.HandlerFunc{
		"/admin":            w.showStock,
		"/admin/stock/:sku": w.showMovements,
		"/admin/orders":     w.showAllOrders,
		"/admin/orders/:id": w.showAnyOrder,
		"/admin/attention":  w.showAttention,
		"/admin/charges":    w.showCharges,
		"/admin/events":     w.showQuarantine,
		"/admin/letters":    w.showLetters,
	} {
		e.GET(path, page, guard, w.adminOnly)
		e.HEAD(path, page, guard, w.adminOnly)
	}
	e.POST("/admin/actions", w.operate, guard, w.adminOnly)
	e.POST("/admin/charges/:id/refund", w.refundCharge, guard, w.adminOnly)
	e.POST("/admin/orders/:id/cancel", w.cancelOrder, guard, w.adminOnly)
	e.POST("/admin/letters/:seq/retry", w.retryLetter, guard, w.adminOnly)
	e.GET("/admin/login", w.showLogin, guard)
	e.POST("/admin/login", w.logIn, guard)
	e.POST("/admin/logout", w.logOut, guard, w.adminOnly)
}

func parseAdmin(name string) *template.Template {
	return template.Must(parsePage(name).ParseFS(pageFiles, "admin_parts.html"))
}

var (
	stockPage     = parseAdmin("admin_stock.html")
	attentionPage = parseAdmin("admin_attention.html")
	movementsPage = parseAdmin("admin_movements.html")
	allOrdersPage = parseAdmin("admin_orders.html")
	anyOrderPage  = parseAdmin("admin_order.html")
	chargesPage   = parseAdmin("admin_charges.html")
	eventsPage    = parseAdmin("admin_events.html")
	lettersPage   = parseAdmin("admin_letters.html")
)

func (w *Web) showStock(c echo.Context) error {
	products, err := w.Orders.Products(c.Request().Context())
	if err != nil {
		return err
	}
	return w.render(c, http.StatusOK, stockPage, page{Title: "Stock", Content: products})
}

func (w *Web) showMovements(c echo.Context) error {
	ctx := c.Request().Context()
	products, err := w.Orders.Products(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(products, func(p orders.Product) bool { return p.SKU == c.Param("sku") })
	if at < 0 {
		return echo.ErrNotFound
	}
	var before *int64
	if id, err := strconv.ParseInt(c.QueryParam("before"), 10, 64); err == nil {
		before = &id
	}
	list, more, err := w.Orders.Movements(ctx, products[at].SKU, adminRows, before)
	if err != nil {
		return err
	}
	content := struct {
		orders.Product
		Movements []orders.Movement
		Older     string
	}{Product: products[at], Movements: list}
	if more {
		content.Older = "?before=" + strconv.FormatInt(list[len(list)-1].ID, 10)
	}
	return w.render(c, http.StatusOK, movementsPage, page{Title: content.Name, Content: content})
}

// beforeID returns the id at which the previous page of a list ended, or nil.
func beforeID(c echo.Context) *uuid.UUID {
	id, err := uuid.Parse(c.QueryParam("before"))
	if err != nil {
		return nil
	}
	return &id
}

func (w *Web) showAllOrders(c echo.Context) error {
	list, more, err := w.Orders.All(c.Request().Context(), adminRows, beforeID(c))
	if err != nil {
		return err
	}
	content := struct {
		Orders []orders.Order
		Older  string
	}{Orders: list}
	if more {
		content.Older = "?before=" + list[len(list)-1].ID.String()
	}
	return w.render(c, http.StatusOK, allOrdersPage, page{Title: "Orders", Content: content})
}

func (w *Web) showAnyOrder(c echo.Context) error {
	id, err := uuid.Parse(c.Param("id"))
	if err != nil {
		return orders.ErrNotFound
	}
	ctx := c.Request().Context()
	order, err := w.Orders.Get(ctx, id)
	if err != nil {
		return err
	}
	charges, err := w.Payments.OfOrderInDetail(ctx, id)
	if err != nil {
		return err
	}
	events, err := w.Timeline.ForOperators(ctx, id)
	if err != nil {
		return err
	}
	notice := operatorNotices[c.QueryParam("notice")]
	return w.render(c, http.StatusOK, anyOrderPage, page{Title: "An order", Notice: notice, Content: struct {
		orders.Order
		Cancelable bool
		Charges    []payments.ChargeDetail
		Timeline   []timeline.Event
	}{order, order.Status == orders.Placed || order.Status == orders.Paying || order.Status == orders.Paid, charges,
		events}})
}

// showAttention shows what waits for an operator.
func (w *Web) showAttention(c echo.Context) error {
	ctx := c.Request().Context()
	charges, err := w.Payments.Attention(ctx, attentionRows)
	if err != nil {
		return err
	}
	events, more, err := w.Payments.Quarantined(ctx, attentionRows, nil)
	if err != nil {
		return err
	}
	return w.render(c, http.StatusOK, attentionPage, page{Title: "Needs attention", Content: struct {
		Charges []payments.ChargeDetail
		Full    bool
		Events  []payments.QuarantinedEvent
		More    bool
	}{charges, len(charges) == attentionRows, events, more}})
}

// showCharges shows unsettled charges at the top of the first page, unknown before pending.
func (w *Web) showCharges(c echo.Context) error {
	ctx, before := c.Request().Context(), beforeID(c)
	var content struct {
		Unsettled, Charges []payments.ChargeDetail
		Older              string
	}
	var err error
	if before == nil {
		if content.Unsettled, err = w.Payments.Unsettled(ctx, adminRows); err != nil {
			return err
		}
	}
	var more bool
	if content.Charges, more, err = w.Payments.Charges(ctx, adminRows, before); err != nil {
		return err
	}
	if more {
		content.Older = "?before=" + content.Charges[len(content.Charges)-1].ID.String()
	}
	return w.render(c, http.StatusOK, chargesPage, page{Title: "Charges", Content: content})
}

func (w *Web) showQuarantine(c echo.Context) error {
	var before *time.Time
	if at, err := time.Parse(time.RFC3339Nano, c.QueryParam("before")); err == nil {
		before = &at
	}
	list, more, err := w.Payments.Quarantined(c.Request().Context(), adminRows, before)
	if err != nil {
		return err
	}
	content := struct {
		Events []payments.QuarantinedEvent
		Older  string
	}{Events: list}
	if more {
		content.Older = "?before=" + list[len(list)-1].At.Format(time.RFC3339Nano)
	}
	notice := operatorNotices[c.QueryParam("notice")]
	return w.render(c, http.StatusOK, eventsPage, page{Title: "Quarantined events", Notice: notice, Content: content})
}

// letterNotices are the notices after a retry of a dead letter, by the value of ?notice=.
var letterNotices = map[string]string{
	"retried": "The event was published to its consumers again. If they fail again, it comes back as a new " +
		"letter.",
	"gone": "That letter is gone: it was already retried.",
}

// letterList is a page of dead letters. Unconnected means that the broker does not answer.
type letterList struct {
	Letters     []outbox.Letter
	Older       string
	Unconnected bool
}

func (w *Web) showLetters(c echo.Context) error {
	if w.Letters == nil {
		return w.renderLetters(c, http.StatusOK, "", letterList{Unconnected: true})
	}
	before, err := strconv.ParseUint(c.QueryParam("before"), 10, 64)
	if err != nil {
		before = 0
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), brokerTimeout)
	defer cancel()
	list, more, err := w.Letters.List(ctx, before, adminRows)
	if err != nil {
		w.logFailure(c, err)
		return w.renderLetters(c, http.StatusServiceUnavailable, "", letterList{Unconnected: true})
	}
	content := letterList{Letters: list}
	if more {
		content.Older = "?before=" + strconv.FormatUint(list[len(list)-1].Seq, 10)
	}
	return w.renderLetters(c, http.StatusOK, letterNotices[c.QueryParam("notice")], content)
}

func (w *Web) renderLetters(c echo.Context, status int, notice string, list letterList) error {
	return w.render(c, status, lettersPage, page{Title: "Dead letters", Notice: notice, Content: list})
}

// retryLetter publishes a dead letter's event again. A second press does nothing.
func (w *Web) retryLetter(c echo.Context) error {
	seq, err := strconv.ParseUint(c.Param("seq"), 10, 64)
	if err != nil || w.Letters == nil {
		return echo.ErrNotFound
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), brokerTimeout)
	defer cancel()
	letter, err := w.Letters.Retry(ctx, seq)
	switch {
	case errors.Is(err, outbox.ErrNoLetter):
		return seeOther(c, "/admin/letters?notice=gone")
	case err != nil:
		w.logFailure(c, err)
		return w.renderLetters(c, http.StatusServiceUnavailable,
			"The broker did not answer, so the retry may have happened or not. Retry again later if the letter is "+
				"still there.", letterList{Unconnected: true})
	}
	w.Log.InfoContext(ctx, "an operator retried a dead letter", "dead_seq", seq, "consumer", letter.Consumer,
		"event_id", letter.Event.ID, "order_id", letter.Event.OrderID)
	return seeOther(c, "/admin/letters?notice=retried")
}
