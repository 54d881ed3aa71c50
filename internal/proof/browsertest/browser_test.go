package browsertest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/onceshop/onceshop/internal/shoptest"
)

// patience is how long a busy machine may take for what happens at once.
const patience = 60 * time.Second

// browser is one process that the tests share: the first that needs it starts it, and the last of
// those that run ends it.
var browser struct {
	sync.Mutex
	users int
	ctx   context.Context
	stop  func()
}

// chromium returns the context of the running browser.
func chromium(t *testing.T) context.Context {
	t.Helper()
	shoptest.Long(t)
	path := shoptest.Chromium(t)
	browser.Lock()
	defer browser.Unlock()
	if browser.users == 0 {
		options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.DisableGPU,
			// Nothing but our own pages is visited. There is no sandbox for root and in most
			// containers.
			chromedp.NoSandbox,
			// Clicks count from the first moment: otherwise they are lost until a page is painted.
			chromedp.Flag("allow-pre-commit-input", true),
			chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
			chromedp.Flag("hide-scrollbars", false))
		allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
		var stopBrowser func()
		//nolint:fatcontext // it does not nest: the browser before has ended
		browser.ctx, stopBrowser = chromedp.NewContext(allocator)
		browser.stop = func() { stopBrowser(); stopAllocator() }
		if err := chromedp.Do(browser.ctx); err != nil {
			browser.stop()
			t.Fatalf("start %s: %v", path, err)
		}
	}
	browser.users++
	t.Cleanup(func() {
		browser.Lock()
		defer browser.Unlock()
		if browser.users--; browser.users == 0 {
			browser.stop()
		}
	})
	return browser.ctx
}

// tab is one tab of a guest's browser. What the page complains about on its console fails the test.
type tab struct {
	t    *testing.T
	ctx  context.Context
	base string
	// scriptless says that the pages' own JavaScript is off.
	scriptless bool

	mu sync.Mutex
	// arrivals counts the pages that the tab has shown.
	arrivals int
	// old says that the page came from the browser's memory, as it was when it was left.
	old bool
	// documents are the answers to what the tab went to: "200 /cart".
	documents []string
	// complaints are console errors, exceptions and violations of the Content-Security-Policy.
	complaints []string
	// bytes are those of HTML, style sheets, scripts and fonts over the wire.
	bytes   float64
	loading bool // the page's document is to come: one that the page loads later does not count
	counted map[network.RequestID]bool
}

// newGuest opens a tab with no cookies. base is the shop's address, such as
// "http://127.0.0.1:8080".
func newGuest(t *testing.T, base string) *tab {
	t.Helper()
	return newTab(chromium(t), t, base, chromedp.WithNewBrowserContext())
}

// another opens a second tab of the same guest, maybe on another node.
func (b *tab) another(base string) *tab {
	b.t.Helper()
	return newTab(b.ctx, b.t, base)
}

func newTab(parent context.Context, t *testing.T, base string, options ...chromedp.ContextOption) *tab {
	t.Helper()
	b := &tab{t: t, base: base, counted: map[network.RequestID]bool{}}
	ctx, closeTab := chromedp.NewContext(parent, append(options, chromedp.WithListener(b.hear))...)
	t.Cleanup(closeTab)
	b.ctx = ctx
	// So high that no page scrolls: a click that follows a scroll too soon hits nothing. Without
	// motion: a page that waits would be painted sixty times a second.
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-reduced-motion", Value: "reduce"}}})
	if err == nil {
		err = chromedp.Do(ctx, chromedp.EmulateViewport(1280, 3000))
	}
	if err != nil {
		t.Fatalf("open a tab: %v", err)
	}
	t.Cleanup(func() {
		for _, complaint := range b.heard() {
			t.Errorf("the page complained: %s", complaint)
		}
	})
	return b
}

func (b *tab) hear(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventResponseReceived:
		if e.Type == network.ResourceTypeDocument {
			b.documents = append(b.documents,
				fmt.Sprint(e.Response.Status, " ", strings.TrimPrefix(e.Response.URL, b.base)))
		} else if e.Response.Status >= 400 {
			b.complaints = append(b.complaints, fmt.Sprint(e.Response.Status, " ", e.Response.URL))
		}
		first := e.Type == network.ResourceTypeDocument && b.loading
		b.counted[e.RequestID] = first || e.Type == network.ResourceTypeStylesheet ||
			e.Type == network.ResourceTypeScript || e.Type == network.ResourceTypeFont
		b.loading = b.loading && !first
	case *network.EventLoadingFinished:
		if b.counted[e.RequestID] {
			b.bytes += e.EncodedDataLength
		}
	case *page.EventFrameNavigated:
		b.arrivals++
		b.old = e.Type == page.NavigationTypeBackForwardCacheRestore
	case *log.EventEntryAdded:
		// What the network says of an answer is seen above, and what a cut says is the tests' own
		// doing.
		if e.Entry.Level == log.EntryLevelError && e.Entry.Source != log.EntrySourceNetwork {
			b.complaints = append(b.complaints, e.Entry.Text)
		}
	case *runtime.EventExceptionThrown:
		b.complaints = append(b.complaints, e.ExceptionDetails.Text+" "+e.ExceptionDetails.URL)
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeAssert {
			b.complaints = append(b.complaints, fmt.Sprintf("console.%s %s", e.Type, e.Args[0].Value))
		}
	}
}

func (b *tab) pages() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.arrivals
}

func (b *tab) isOld() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.old
}

func (b *tab) heard() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.complaints
}

// noErrorPage fails the test if the tab was ever shown one.
func (b *tab) noErrorPage() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, document := range b.documents {
		if !strings.HasPrefix(document, "2") {
			b.t.Errorf("an error page: %s, on the way %v", document, b.documents)
		}
	}
}

// withoutScripts switches JavaScript off in the pages; the tests' own still runs.
func (b *tab) withoutScripts() {
	b.t.Helper()
	b.scriptless = true
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled,
		emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		b.t.Fatal(err)
	}
}

// do runs the steps and fails the test if they fail.
func (b *tab) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatalf("%s: %v, on %s after %v", what, err, b.where(), b.documents)
	}
}

// goTo opens a page of the shop as if its address was typed.
func (b *tab) goTo(path string) {
	b.t.Helper()
	b.do("go to "+path, chromedp.Navigate(b.base+path))
}

// click presses what the CSS selector finds, as soon as the page has it. Not with the mouse: what
// moves just then would be missed.
func (b *tab) click(selector string) {
	b.t.Helper()
	b.awaitElement(selector)
	b.do("click "+selector, chromedp.Evaluate[chromedp.Void](fmt.Sprintf("document.querySelector(%q).click()",
		selector),
		func(p *runtime.EvaluateParams) { p.UserGesture = new(true) }))
}

// follow presses what leads to another page, and waits for that.
func (b *tab) follow(selector string) {
	b.t.Helper()
	before := eval[float64](b, "performance.timeOrigin")
	b.click(selector)
	b.await("the next page", fmt.Sprintf("document.readyState === 'complete' && performance.timeOrigin != %f", before))
}

// has says whether the page has what the CSS selector finds.
func (b *tab) has(selector string) bool {
	b.t.Helper()
	return eval[bool](b, fmt.Sprintf("document.querySelector(%q) != null", selector))
}

// mouse is a click of the mouse on what the CSS selector finds. chromedp's own does not know pages
// that come back from memory.
func (b *tab) mouse(selector string) chromedp.Action[chromedp.Void] {
	b.t.Helper()
	b.awaitElement(selector)
	middle := eval[[]float64](b, fmt.Sprintf(`{
		const box = document.querySelector(%q).getBoundingClientRect();
		[box.x + box.width / 2, box.y + box.height / 2]
	}`, selector))
	if len(middle) != 2 {
		b.t.Fatalf("there is no %s on %s", selector, b.where())
	}
	return chromedp.MouseClickXY(middle[0], middle[1])
}

// step goes so many pages back in the tab's history, or forward when it is above zero, as the
// browser's buttons do.
func (b *tab) step(by int64) {
	b.t.Helper()
	arrivals := b.pages()
	now, err := b.history()
	to := now.CurrentIndex + by
	if err != nil || to < 0 || to >= int64(len(now.Entries)) {
		b.t.Fatalf("go %d pages from %s: %v", by, b.where(), err)
	}
	// Not chromedp's action: it waits for a load, and a page may come back from memory without one.
	if _, err := chromedp.Call(b.ctx, page.NavigateToHistoryEntry,
		page.NavigateToHistoryEntryParams{EntryID: now.Entries[to].ID}); err != nil {
		b.t.Fatal(err)
	}
	shoptest.Eventually(b.t, patience, "the browser has moved in its history", func() bool {
		now, err := b.history() // fails between two pages
		return err == nil && now.CurrentIndex == to && b.pages() > arrivals
	})
	// With scripts, the shop asks for a page anew that came from the browser's memory.
	shoptest.Eventually(b.t, patience, "the page is no old one", func() bool { return b.scriptless || !b.isOld() })
	b.await("the page is there", "document.readyState === 'complete'")
}

func (b *tab) history() (page.GetNavigationHistoryResult, error) {
	return chromedp.Call(b.ctx, page.GetNavigationHistory, cdp.Empty{})
}

// eval returns what the JavaScript expression is, or its zero value while the tab is between two
// pages.
func eval[T any](b *tab, expression string) (value T) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil && b.ctx.Err() != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return value
}

// await waits until the JavaScript condition holds.
func (b *tab) await(what, condition string) {
	b.t.Helper()
	deadline, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !eval[bool](b, condition) {
		select {
		case <-deadline.Done():
			b.t.Fatalf("not within %s: %s; the tab shows %s after %v:\n%s", patience, what, b.where(), b.documents,
				eval[string](b, "document.body.innerText"))
		case <-tick.C:
		}
	}
}

// awaitElement waits until the page has what the CSS selector finds. An address changes before its
// page is there.
func (b *tab) awaitElement(selector string) {
	b.t.Helper()
	b.await("the page has "+selector, fmt.Sprintf("document.querySelector(%q) != null", selector))
}

// awaitPage waits until the tab shows the page at a path that begins so.
func (b *tab) awaitPage(prefix string) {
	b.t.Helper()
	b.await("the page "+prefix, fmt.Sprintf("document.readyState === 'complete' && location.pathname.startsWith(%q)",
		prefix))
}

func (b *tab) where() string { return eval[string](b, "location.href") }

// shows says whether the page has this text.
func (b *tab) shows(text string) bool {
	b.t.Helper()
	return eval[bool](b, fmt.Sprintf("document.body.innerText.includes(%q)", text))
}
