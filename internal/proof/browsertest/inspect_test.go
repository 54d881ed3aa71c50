package browsertest

import (
	"context"
	_ "embed"
	"os"
	"path/filepath"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// maxBytes is what a page may cost over the wire without its images.
const maxBytes = 100_000

// look is a size and a color scheme that every page is shown in.
type look struct {
	name          string
	width, height int64
	mobile        bool
	scheme        string
}

// looks have each size and each scheme once.
var looks = []look{
	{"desktop-light", 1280, 900, false, "light"},
	{"phone-dark", 390, 844, true, "dark"},
}

// Options of axe-core: every rule for the first look, and for the others the rules whose outcome
// depends on size or color.
const (
	allRules  = `{resultTypes: ['violations']}`
	lookRules = `{resultTypes: ['violations'],
		runOnly: ['color-contrast', 'link-in-text-block', 'scrollable-region-focusable', 'target-size']}`
)

// visit goes to a page and inspects it.
func (b *tab) visit(v visit) {
	b.t.Helper()
	if v.status == 0 {
		v.status = 200
	}
	if status := b.load(v.path); status != v.status {
		b.t.Errorf("%s answers %d", v.path, status)
		return
	}
	if !b.shows(v.says) {
		b.t.Errorf("%s does not say %q", v.path, v.says)
	}
	if b.bytes > maxBytes {
		b.t.Errorf("%s (%s) takes %.0f bytes without images", v.path, v.name, b.bytes)
	}
	b.inspect(v.name)
}

// inspect looks at the page that the tab shows in every way, once no form is in flight.
func (b *tab) inspect(name string) {
	b.t.Helper()
	b.await("no form is in flight", "document.querySelector('form.htmx-request') == null")
	if n := eval[int](b, "document.querySelectorAll('[aria-current]').length"); n > 1 {
		b.t.Errorf("%s: %d links are marked as the current page", name, n)
	}
	rules := allRules
	for _, l := range looks {
		b.wear(l)
		over := eval[int](b, "document.documentElement.scrollWidth - document.documentElement.clientWidth")
		if over > 0 {
			b.t.Errorf("%s, %s: it is %d pixels too wide", name, l.name, over)
		}
		for _, violation := range b.axe(rules) {
			b.t.Errorf("%s, %s: %s", name, l.name, violation)
		}
		rules = lookRules
		b.photograph(name + "-" + l.name)
	}
	for _, complaint := range b.heard() {
		b.t.Logf("up to %s: %s", name, complaint)
	}
}

// load goes to a page and returns the status of its answer.
func (b *tab) load(path string) int {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if _, err := chromedp.Call(ctx, network.SetCacheDisabled,
		network.SetCacheDisabledParams{CacheDisabled: true}); err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	b.bytes, b.loading = 0, true
	clear(b.counted) // what the page before still loads
	b.mu.Unlock()
	answer, err := chromedp.Run(ctx, chromedp.NavigateResponse(b.base+path))
	if err != nil {
		b.t.Fatalf("%s: %v", path, err)
	}
	return int(answer.Status)
}

// wear shows the page on another screen, without loading it again.
func (b *tab) wear(l look) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	var options []chromedp.EmulateViewportOption
	if l.mobile {
		options = append(options, chromedp.EmulateMobile)
	}
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia,
		emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: l.scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}})
	if err == nil {
		err = chromedp.Do(ctx, chromedp.EmulateViewport(l.width, l.height, options...))
	}
	if err != nil {
		b.t.Fatalf("%s: %v", l.name, err)
	}
}

// axeCore is axe-core 4.14.1, under the license beside it.
//
//go:embed testdata/axe-core/axe.min.js
var axeCore string

// axe returns what breaks the rules of accessibility seriously.
func (b *tab) axe(options string) []string {
	b.t.Helper()
	if !eval[bool](b, "typeof axe != 'undefined'") {
		b.do("load axe-core", chromedp.Evaluate[chromedp.Void](axeCore))
	}
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	violations, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](`
		axe.run(document, `+options+`).then(result => result.violations
			.filter(v => v.impact == 'serious' || v.impact == 'critical')
			.map(v => [v.id + ' (' + v.impact + '), ' + v.nodes.length + ' times:',
				...v.nodes.slice(0, 3).flatMap(n => [n.html, n.failureSummary])].join('\n')))`,
		func(p *runtime.EvaluateParams) { p.AwaitPromise = new(true) }))
	if err != nil {
		b.t.Fatalf("axe-core on %s: %v", b.where(), err)
	}
	return violations
}

// photograph writes what the whole page looks like into the folder SHOP_SCREENSHOTS, if there is
// one.
func (b *tab) photograph(name string) {
	b.t.Helper()
	folder := os.Getenv("SHOP_SCREENSHOTS")
	if folder == "" {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	picture, err := chromedp.Call(ctx, page.CaptureScreenshot, page.CaptureScreenshotParams{
		CaptureBeyondViewport: new(true), OptimizeForSpeed: new(true)})
	if err == nil {
		err = os.MkdirAll(folder, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, name+".png"), picture.Data, 0o644)
	}
	if err != nil {
		b.t.Errorf("photograph %s: %v", name, err)
	}
}
