package web

import (
	"html/template"
	"io/fs"
	"strings"

	"github.com/labstack/echo/v4"
)

// Section is a part of the site that another package serves, for operators and in the demo for all.
type Section struct {
	// Path is where the section begins, such as "/lab".
	Path string
	// Name is the section's link at the top of a page, Title the one at the bottom.
	Name, Title string
}

// ParsePage returns the template of a page that another package serves inside the shop's layout.
// Its files define "content", and "head" for style sheets of their own.
func ParsePage(files fs.FS, funcs template.FuncMap, names ...string) *template.Template {
	layout := template.Must(template.New("layout.html").Funcs(pageFuncs).Funcs(funcs).ParseFS(pageFiles, "layout.html"))
	return template.Must(layout.ParseFS(files, names...))
}

// Render answers with such a page; content is for the page's own templates, as .Content.
func (w *Web) Render(c echo.Context, status int, tmpl *template.Template, title string, content any) error {
	return w.render(c, status, tmpl, page{Title: title, Content: content})
}

// Operators returns what such a page is registered with, if it is for operators, and in the demo
// for everybody.
func (w *Web) Operators() []echo.MiddlewareFunc { return []echo.MiddlewareFunc{guard, w.adminOnly} }

// Stream is an answer of server-sent events for a page with htmx.
type Stream struct{ *stream }

// StartStream begins the answer.
func StartStream(c echo.Context) Stream { return Stream{startStream(c)} }

// SendHTML sends what the page takes in. A browser that comes back says the id of the last it got,
// as Last-Event-ID.
func (s Stream) SendHTML(id, html string) error {
	return s.send("id: " + id + "\ndata: " + strings.ReplaceAll(strings.TrimSpace(html), "\n", "\ndata: "))
}

// Done tells the page that there will be no more news.
func (s Stream) Done() error { return s.send("event: done\ndata:") }
