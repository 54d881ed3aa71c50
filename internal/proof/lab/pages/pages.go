// Package pages shows the duplicates lab in a browser: a matrix of all experiments, and a page for
// each. A reader predicts what the naive program does, runs both, and sees them played back. A
// process keeps the last run of each experiment in memory.
package pages

import (
	"bytes"
	"context"
	"embed"
	"html/template"
	"log/slog"
	"sync"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/proof/lab"
	"github.com/onceshop/onceshop/web"
)

//go:embed *.html
var files embed.FS

//go:embed static
var staticFiles embed.FS

var assets = web.NewAssets("/lab/static", staticFiles, "static")

var (
	overviewPage   = web.ParsePage(files, funcs, "overview.html", "pictures.html", "parts.html")
	experimentPage = web.ParsePage(files, funcs, "experiment.html", "parts.html")
	// parts are the pieces of both pages, for pages that are open.
	parts = template.Must(template.New("parts.html").Funcs(funcs).ParseFS(files, "parts.html"))
)

// Pages are the lab's pages of one node.
type Pages struct {
	shop *web.Web
	lab  *lab.Lab // nil on a node that has no Redis and no broker
	log  *slog.Logger

	ctx     context.Context // of the runs: they outlive the request that starts them
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	latest map[string]*run // by experiment
	round  *round          // the last one; nil until all have run for the first time
}

// New returns the pages of a lab inside the layout of the shop. Without a lab, they explain that
// this node has none.
func New(shop *web.Web, l *lab.Lab, log *slog.Logger) *Pages {
	ctx, cancel := context.WithCancel(context.Background())
	return &Pages{shop: shop, lab: l, log: log, ctx: ctx, cancel: cancel, latest: map[string]*run{}}
}

// Register adds the pages, for operators. In the demo, every visitor is one.
func (p *Pages) Register(e *echo.Echo) {
	guards := p.shop.Operators()
	get := func(path string, page echo.HandlerFunc) {
		e.GET(path, page, guards...)
		e.HEAD(path, page, guards...)
	}
	assets.Register(e)
	get("/lab", p.showOverview)
	get("/lab/:id", p.showExperiment)
	if p.lab == nil {
		return
	}
	e.POST("/lab", p.startRound, guards...)
	e.POST("/lab/:id", p.startRun, guards...)
	e.GET("/lab/events", p.followRound, guards...)
}

// Close ends the experiments under way and waits for them. No page may be served any more.
func (p *Pages) Close() {
	p.cancel()
	p.running.Wait()
}

// part renders a piece of a page.
func (p *Pages) part(name string, content any) string {
	var html bytes.Buffer
	if err := parts.ExecuteTemplate(&html, name, content); err != nil {
		p.log.Error("a piece of the lab's page is missing", "piece", name, "error", err)
		return ""
	}
	return html.String()
}
