// Package bar is the bar at the top of every page of the demo: the shop, the lab, the operators'
// pages, the mailbox and the provider, with how many mails and captures there are, and whether the
// invariants hold. The pages of the mailbox and the provider use the shop's style sheet.
package bar

import (
	"bytes"
	"context"
	"embed"
	"html/template"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/check"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/web"
)

//go:embed bar.html top.html check.html bar.css
var files embed.FS

var (
	barPage   = template.Must(template.ParseFS(files, "bar.html"))
	checkPage = web.ParsePage(files, nil, "check.html")
)

const (
	path = "/demo/"
	// lookEvery is the shortest time between two checks. A check of a large shop takes longer, and
	// takes at most a tenth of the time.
	lookEvery   = 3 * time.Second
	restFactor  = 9
	lookTimeout = 20 * time.Second
)

// Bar knows the demo's addresses and what the last check found. A nil *Bar is empty.
type Bar struct {
	sections []app.Section

	mu      sync.Mutex
	running app.Running
	pool    *pgxpool.Pool // nil while the shop does not run
	ctx     context.Context
	busy    bool
	next    time.Time
	found   findings
	looks   sync.WaitGroup
}

// findings are what the last look has found. Report is nil before the first.
type findings struct {
	Report          check.Report
	orders          map[string]orders.Order // by the id of a row that breaks an invariant
	Mails, Captures int
	Err             error
}

// New returns a bar that links these sections of the shop.
func New(sections []app.Section) *Bar { return &Bar{sections: sections} }

// Show sets the addresses that the bar links.
func (b *Bar) Show(running app.Running) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running = running
}

// Section returns the section that puts the bar onto the shop's pages. Its checks end with the
// section.
func (b *Bar) Section() app.Section {
	return app.Section{Section: web.Section{Path: path}, Start: b.start}
}

func (b *Bar) start(e *echo.Echo, shop *web.Web, node app.Node) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	b.mu.Lock()
	b.pool, b.ctx = node.Pool, ctx
	b.mu.Unlock()
	shop.Bar = func() template.HTML { return b.html("") }
	show := func(c echo.Context) error { return c.HTML(http.StatusOK, string(b.nav(""))) }
	e.GET(path+"bar", show, web.Public()...)
	e.GET(path+"bar.css", echo.WrapHandler(http.HandlerFunc(styleSheet)))
	e.GET(path+"check", func(c echo.Context) error {
		b.look()
		return shop.Render(c, http.StatusOK, checkPage, "Invariants", b.last())
	}, web.Public()...)
	b.look()
	return func() {
		cancel()
		b.looks.Wait()
	}
}

// HTML returns the bar for a page of another server than the shop.
func (b *Bar) HTML() template.HTML {
	if b == nil {
		return ""
	}
	b.mu.Lock()
	base := b.running.Shop
	b.mu.Unlock()
	return b.html(base)
}

// ShopURL is where the shop is, or empty.
func (b *Bar) ShopURL() string {
	if b == nil {
		return ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.running.Shop
}

func (b *Bar) html(base string) template.HTML {
	return `<link rel="stylesheet" href="/demo/bar.css">` + b.nav(base)
}

// nav renders the bar from what the last look has found, and looks again if that is old. Links to
// the shop begin with base: the shop's own pages must keep the host name that has the cookies.
func (b *Bar) nav(base string) template.HTML {
	b.look()
	b.mu.Lock()
	shown := struct {
		findings
		Base     string
		Running  app.Running
		Sections []app.Section
	}{b.found, base, b.running, b.sections}
	b.mu.Unlock()
	var html bytes.Buffer
	if err := barPage.Execute(&html, shown); err != nil {
		return ""
	}
	return template.HTML(html.String()) //nolint:gosec // made by html/template
}

func (b *Bar) last() findings {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.found
}

// look checks in the background, unless the last check is fresh or another one runs. No page waits
// for it.
func (b *Bar) look() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pool == nil || b.busy || b.ctx.Err() != nil || time.Now().Before(b.next) {
		return
	}
	b.busy = true
	ctx, begin := b.ctx, time.Now()
	sources := check.Sources{DB: b.pool, ProviderURL: b.running.Provider, MailboxURL: b.running.Mailbox}
	b.looks.Go(func() {
		found := find(ctx, sources)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.busy, b.found = false, found
		b.next = time.Now().Add(max(lookEvery, restFactor*time.Since(begin)))
	})
}

// find runs the check and counts what the witnesses hold.
func find(ctx context.Context, sources check.Sources) (found findings) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	found.Mails, found.Captures = count(ctx, sources.MailboxURL, "/api/v1/messages?limit=1"),
		count(ctx, sources.ProviderURL, "/v1/captures")
	if found.Report, found.Err = check.Run(ctx, sources); found.Err == nil {
		found.orders, found.Err = ordersOf(ctx, sources.DB, found.Report)
	}
	return found
}

// ordersOf returns the order of each row that breaks an invariant and belongs to one.
func ordersOf(ctx context.Context, db *pgxpool.Pool, report check.Report) (map[string]orders.Order, error) {
	var ids []uuid.UUID
	for _, result := range report.Violated() {
		for _, finding := range result.Violations.First {
			if id, err := uuid.Parse(finding.ID); err == nil {
				ids = append(ids, id)
			}
		}
	}
	if len(ids) == 0 {
		return nil, nil //nolint:nilnil // no row belongs to an order
	}
	rows, err := db.Query(ctx, `
		SELECT id, id FROM orders WHERE id = ANY($1)
		UNION SELECT id, order_id FROM charges WHERE id = ANY($1)
		UNION SELECT r.id, c.order_id FROM refunds r JOIN charges c ON c.id = r.charge_id WHERE r.id = ANY($1)
		UNION SELECT id, order_id FROM outbox WHERE id = ANY($1)`, ids)
	if err != nil {
		return nil, err
	}
	found := make(map[string]orders.Order)
	var id, order uuid.UUID
	_, err = pgx.ForEachRow(rows, []any{&id, &order}, func() error {
		found[id.String()] = orders.Order{ID: order}
		return nil
	})
	return found, err
}

// Order returns the order of a row that breaks an invariant, or nil.
func (f findings) Order(id string) *orders.Order {
	if order, ok := f.orders[id]; ok {
		return &order
	}
	return nil
}

// Checked returns how many results there are, without those that could not be checked.
func (f findings) Checked() (n int) {
	for _, result := range f.Report {
		if result.NotChecked == "" {
			n++
		}
	}
	return n
}

// Broken returns how many results have violations.
func (f findings) Broken() int { return len(f.Report.Violated()) }
