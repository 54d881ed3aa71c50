package web

import (
	"bytes"
	"crypto/rand"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/money"
	"github.com/onceshop/onceshop/internal/orders"
)

//go:embed *.html
var pageFiles embed.FS

var pageFuncs = template.FuncMap{
	"asset": static.Address,
	"art":   art,
	"money": money.Format,
	// number shortens the id of an order, a charge or a refund for people.
	"number": orders.Number,
	"when":   func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") },
	"day":    func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04") },
	"clock":  func(t time.Time) string { return t.UTC().Format("2 Jan 15:04:05.000") },
	// newKey makes the idempotency key of a form.
	"newKey": rand.Text,
	"stamp":  func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
}

// parsePage returns a page's template in the layout. The page defines "content".
func parsePage(name string) *template.Template {
	return template.Must(template.New("layout.html").Funcs(pageFuncs).ParseFS(pageFiles, "layout.html", "payment.html",
		"timeline.html", "shelf.html", name))
}

// page is the data of the layout. Content is for the page's template.
type page struct {
	Title  string
	Shop   string
	Notice string
	// Next is a link after the notice, or empty.
	Next      link
	CartUnits int64
	// Path is the page's path. The demo links the operators' pages.
	Path     string
	Demo     bool
	Sections []Section
	// Bar is the demo's bar, or empty.
	Bar     template.HTML
	Content any
}

type link struct{ To, Text string }

// notices are the notices of redirects, by the value of ?notice=.
var notices = map[string]string{
	"short": "Nothing was ordered: we no longer have enough of some products. Your cart is unchanged and shows how " +
		"many are left.",
	"empty": "Nothing was ordered: your cart is empty.",
	"full":  fmt.Sprintf("Your cart has %d different products and cannot hold more. Order these first.", maxLines),
	"outdated": "That page was out of date, so nothing was charged just now. This is the current state of your " +
		"order.",
	"underway": "Another payment for this order is in progress, so nothing was charged just now. Please finish that " +
		"one first.",
	"uncancelable": "This order can no longer be canceled, so nothing was changed.",
	"disputed":     "This payment is disputed with your bank, so the order cannot be canceled now.",
	"saved":        "Saved.",
	"attempts":     "This order has had too many declined payments, so nothing was charged just now.",
}

// render answers with a page. A page without a notice shows the one of the query parameter notice.
func (w *Web) render(c echo.Context, status int, tmpl *template.Template, p page) error {
	p.CartUnits, p.Path = w.visitor(c).Cart.units(), c.Request().URL.Path
	p.Shop, p.Demo, p.Sections = w.Name, w.Demo, w.Sections
	if w.Bar != nil {
		p.Bar = w.Bar()
	}
	if p.Notice == "" {
		p.Notice = notices[c.QueryParam("notice")]
	}
	var html bytes.Buffer
	if err := tmpl.Execute(&html, p); err != nil {
		return fmt.Errorf("render the page: %w", err)
	}
	if status == http.StatusServiceUnavailable {
		c.Response().Header().Set("Retry-After", "1")
	}
	return c.HTMLBlob(status, html.Bytes())
}
