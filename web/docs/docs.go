// Package docs serves the pages about the API: its calls under /docs, from the OpenAPI document,
// and its problems under /problems, from the problem table.
package docs

import (
	"embed"
	"html/template"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/problem"
	"github.com/onceshop/onceshop/web"
)

//go:embed *.html
var files embed.FS

var funcs = template.FuncMap{
	"markdown": markdown,
	"phrase":   phrase,
	"status":   func(status int) string { return http.StatusText(status) },
	"indented": func(p problem.Problem) string { return indentedJSON(p.Body()) },
}

var (
	overviewPage = web.ParsePage(files, funcs, "overview.html")
	callPage     = web.ParsePage(files, funcs, "call.html", "fields.html")
	objectsPage  = web.ParsePage(files, funcs, "objects.html", "fields.html")
	problemsPage = web.ParsePage(files, funcs, "problems.html")
	problemPage  = web.ParsePage(files, funcs, "problem.html")
)

// Pages are the pages about the API of a shop.
type Pages struct {
	Shop *web.Web
	// URL is the shop's address for the examples.
	URL      string
	Document Document
}

// Register adds the pages.
func (p *Pages) Register(e *echo.Echo) {
	get := func(path string, page echo.HandlerFunc) {
		e.Match([]string{http.MethodGet, http.MethodHead}, path, page, web.Public()...)
	}
	get("/docs", func(c echo.Context) error {
		return p.Shop.Render(c, http.StatusOK, overviewPage, "API", p.Document)
	})
	get("/docs/objects", func(c echo.Context) error {
		return p.Shop.Render(c, http.StatusOK, objectsPage, "Objects of the API", p.Document)
	})
	get("/docs/:call", p.showCall)
	get("/problems", func(c echo.Context) error {
		return p.Shop.Render(c, http.StatusOK, problemsPage, "Problems of the API", problem.Kinds())
	})
	get("/problems/:code", p.showProblem)
}

// shownCall is the content of a call's page.
type shownCall struct {
	Call
	Curl, Go string
	// Panel is the part of another package, and empty without one.
	Panel template.HTML
	// Signed reports that only the payment provider can send the call.
	Signed bool
}

func (p *Pages) showCall(c echo.Context) error {
	call, ok := p.Document.Call(c.Param("call"))
	if !ok {
		return echo.ErrNotFound
	}
	request := call.Request(p.token(call))
	shown := shownCall{Call: call, Curl: request.Curl(p.URL), Go: request.Go(p.URL),
		Signed: strings.HasPrefix(call.Path, "/v1/webhooks/")}
	if p.Shop.CallPanel != nil {
		shown.Panel = p.Shop.CallPanel(call.ID)
	}
	return p.Shop.Render(c, http.StatusOK, callPage, call.Summary, shown)
}

// token returns the token of the examples: the demo's, or the shell's variable.
func (p *Pages) token(call Call) string {
	switch {
	case !p.Shop.Demo:
		return "$TOKEN"
	case call.Token == "admin":
		return "demo-admin"
	default:
		return "demo-alice"
	}
}

func (p *Pages) showProblem(c echo.Context) error {
	kind, ok := problem.Find(c.Param("code"))
	if !ok {
		return echo.ErrNotFound
	}
	return p.Shop.Render(c, http.StatusOK, problemPage, kind.Title, kind)
}
