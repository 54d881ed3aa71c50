package web

import (
	"context"
	"html/template"
	"io/fs"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/orders"
)

// Section is a part of the site that another package serves, for operators and, in the demo, for
// every visitor.
type Section struct {
	// Path is the prefix of the section's paths, such as "/lab".
	Path string
	// Name is the section's link at the top of a page, Title the one at the bottom. A section
	// without a name has no links.
	Name, Title string
}

// ParsePage returns the template of another package's page in the shop's layout. Its files define
// "content", and may define "head" for style sheets.
func ParsePage(files fs.FS, funcs template.FuncMap, names ...string) *template.Template {
	layout := template.Must(template.New("layout.html").Funcs(pageFuncs).Funcs(funcs).ParseFS(pageFiles, "layout.html"))
	return template.Must(layout.ParseFS(files, names...))
}

// Render answers with a page of ParsePage. The page's templates get content as .Content.
func (w *Web) Render(c echo.Context, status int, tmpl *template.Template, title string, content any) error {
	return w.render(c, status, tmpl, page{Title: title, Content: content})
}

// Operators returns the middleware for a page for operators that the demo opens to every visitor.
func (w *Web) Operators() []echo.MiddlewareFunc { return []echo.MiddlewareFunc{guard, w.adminOnly} }

// Public returns the middleware for a page for every visitor.
func Public() []echo.MiddlewareFunc { return []echo.MiddlewareFunc{guard} }

// OwnOrder returns the order that the path's parameter id names. It returns orders.ErrNotFound for
// another visitor's order.
func (w *Web) OwnOrder(c echo.Context) (orders.Order, error) { return w.ownOrder(c) }

// OrderPanel is a part of an order's page that another package renders. Its style sheet and script
// have the address of the package's own section.
type OrderPanel struct {
	Style, Script string
	Render        func(ctx context.Context, order orders.Order) (template.HTML, error)
}

// Stream is a stream of server-sent events for a page with htmx.
type Stream struct{ *stream }

// StartStream begins the answer.
func StartStream(c echo.Context) Stream { return Stream{startStream(c)} }

// SendHTML sends HTML for the page. A browser that reconnects sends the id of its last event as
// Last-Event-ID.
func (s Stream) SendHTML(id, html string) error {
	return s.send("id: " + id + "\n" + asData(html))
}

// Done ends the page's updates.
func (s Stream) Done() error { return s.send("event: done\ndata:") }
