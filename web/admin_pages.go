package web

import (
	"context"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/payments"
)

const (
	// adminRows is the number of rows on a page of an operators' list.
	adminRows = 50
	// attentionRows is the number of charges, and of events, on the page of what needs attention.
	attentionRows = 20
	// brokerTimeout bounds the wait for the broker.
	brokerTimeout = 3 * time.Second
	// retryAllTimeout bounds a retry of all dead letters.
	retryAllTimeout = 20 * time.Second
)

func (w *Web) registerAdmin(e *echo.Echo) {
	for path, page := range map[string]echo.HandlerFunc{
		"/admin":               w.showStock,
		"/admin/stock/:sku":    w.showMovements,
		"/admin/orders":        w.showAllOrders,
		"/admin/orders/:id":    w.showAnyOrder,
		"/admin/attention":     w.showAttention,
		"/admin/charges":       w.showCharges,
		"/admin/events":        w.showQuarantine,
		"/admin/letters":       w.showLetters,
		"/admin/products/:sku": w.showEdit,
	} {
		e.Match(readMethods, path, page, guard, w.adminOnly)
	}
	e.POST("/admin/actions", w.operate, guard, w.adminOnly)
	e.POST("/admin/charges/:id/refund", w.refundCharge, guard, w.adminOnly)
	e.POST("/admin/products/:sku", w.saveProduct, guard, w.adminOnly)
	e.POST("/admin/orders/:id/cancel", w.cancelOrder, guard, w.adminOnly)
	e.POST("/admin/letters/retry", w.retryLetters, guard, w.adminOnly)
	e.POST("/admin/letters/:letter/retry", w.retryLetter, guard, w.adminOnly)
	e.POST("/admin/letters/receipts/:id/retry", w.retryReceipt, guard, w.adminOnly)
	e.Match(readMethods, "/admin/login", w.showLogin, guard)
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
	product, err := w.productOf(c)
	if err != nil {
		return err
	}
	var before *int64
	if id, err := strconv.ParseInt(c.QueryParam("before"), 10, 64); err == nil {
		before = &id
	}
	list, more, err := w.Orders.Movements(c.Request().Context(), product.SKU, adminRows, before)
	if err != nil {
		return err
	}
	content := struct {
		orders.Product
		Movements []orders.Movement
		Older     string
	}{Product: product, Movements: list}
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
	search := strings.TrimSpace(c.QueryParam("number"))
	var list []orders.Order
	var more bool
	var err error
	if search != "" {
		list, err = w.Orders.ByNumber(c.Request().Context(), adminRows, search)
	} else {
		list, more, err = w.Orders.All(c.Request().Context(), adminRows, beforeID(c))
	}
	if err != nil {
		return err
	}
	content := struct {
		Search string
		Orders []orders.Order
		Older  string
	}{Search: search, Orders: list}
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
	story, err := readTimeline(ctx, id, timelinePage(c), w.Timeline.ForOperators)
	if err != nil {
		return err
	}
	notice := operatorNotices[c.QueryParam("notice")]
	return w.render(c, http.StatusOK, anyOrderPage, page{Title: "Order", Notice: notice, Content: struct {
		orders.Order
		Cancelable bool
		Charges    []payments.ChargeDetail
		Timeline   events
	}{order, order.Status == orders.Placed || order.Status == orders.Paying || order.Status == orders.Paid, charges,
		story}})
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
	"retried": "The event was published to its consumers again. If they fail again, it returns as a new dead " +
		"letter.",
	"receipt": "The receipt is sent again. If it fails, it returns to this list.",
	"all":     "All dead letters are retried. Those that fail again return to this list.",
	"some":    "Many dead letters are retried, and there are more: retry again.",
	"gone":    "That dead letter was already retried.",
}

// letterList is a page of dead letters. Unconnected means that the broker does not answer.
type letterList struct {
	Receipts             []notify.Letter
	Letters              []outbox.Letter
	OlderReceipts, Older string
	Unconnected          bool
}

func (w *Web) showLetters(c echo.Context) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), brokerTimeout)
	defer cancel()
	list := letterList{Unconnected: w.Letters == nil}
	receipts, more, err := w.Receipts.List(ctx, beforeReceipt(c), adminRows)
	if err != nil {
		return err
	}
	if list.Receipts = receipts; more {
		list.OlderReceipts = "?receipt=" + receipts[len(receipts)-1].OrderID.String()
	}
	status := http.StatusOK
	if w.Letters != nil {
		if list.Letters, more, err = w.Letters.List(ctx, c.QueryParam("before"), adminRows); err != nil {
			w.logFailure(c, err)
			status, list.Unconnected = http.StatusServiceUnavailable, true
		} else if more {
			list.Older = "?before=" + url.QueryEscape(list.Letters[len(list.Letters)-1].ID)
		}
	}
	return w.renderLetters(c, status, letterNotices[c.QueryParam("notice")], list)
}

// beforeReceipt returns the order at which the previous page of dead receipts ended, or nil.
func beforeReceipt(c echo.Context) *uuid.UUID {
	id, err := uuid.Parse(c.QueryParam("receipt"))
	if err != nil {
		return nil
	}
	return &id
}

func (w *Web) renderLetters(c echo.Context, status int, notice string, list letterList) error {
	return w.render(c, status, lettersPage, page{Title: "Dead letters", Notice: notice, Content: list})
}

// retryLetters retries every dead letter, as far as the time goes. A second press does nothing to
// those that the first one retried.
func (w *Web) retryLetters(c echo.Context) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), retryAllTimeout)
	defer cancel()
	receipts, err := w.Receipts.RetryAll(ctx)
	if err != nil {
		return err
	}
	letters, more := 0, false
	if w.Letters != nil {
		if letters, more, err = w.Letters.RetryAll(ctx); err != nil {
			w.logFailure(c, err)
			more = true
		}
	}
	w.Log.InfoContext(ctx, "an operator retried all dead letters",
		"receipts", receipts, "events", letters, "more", more)
	if more {
		return seeOther(c, "/admin/letters?notice=some")
	}
	return seeOther(c, "/admin/letters?notice=all")
}

// retryReceipt has a dead receipt sent. A second press does nothing.
func (w *Web) retryReceipt(c echo.Context) error {
	id, err := uuid.Parse(c.Param("id"))
	if err != nil {
		return echo.ErrNotFound
	}
	ctx := c.Request().Context()
	retried, err := w.Receipts.Retry(ctx, id)
	if err != nil {
		return err
	}
	if !retried {
		return seeOther(c, "/admin/letters?notice=gone")
	}
	w.Log.InfoContext(ctx, "an operator retried a dead receipt", "order_id", id)
	return seeOther(c, "/admin/letters?notice=receipt")
}

// retryLetter publishes a dead letter's event again. A second press does nothing.
func (w *Web) retryLetter(c echo.Context) error {
	if w.Letters == nil {
		return echo.ErrNotFound
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), brokerTimeout)
	defer cancel()
	letter, err := w.Letters.Retry(ctx, c.Param("letter"))
	switch {
	case errors.Is(err, broker.ErrNoLetter):
		return seeOther(c, "/admin/letters?notice=gone")
	case err != nil:
		w.logFailure(c, err)
		return w.renderLetters(c, http.StatusServiceUnavailable,
			"The broker did not answer, so the retry may have happened or not. Retry again later if the letter is "+
				"still there.", letterList{Unconnected: true})
	}
	w.Log.InfoContext(ctx, "an operator retried a dead letter", "letter", letter.ID, "consumer", letter.Consumer,
		"event_id", letter.Event.ID, "order_id", letter.Event.OrderID)
	return seeOther(c, "/admin/letters?notice=retried")
}
