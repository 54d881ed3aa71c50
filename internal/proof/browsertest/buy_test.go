package browsertest

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// eitherWay runs a test with scripts in the pages and without.
func eitherWay(t *testing.T, run func(t *testing.T, open func(base string) *tab)) {
	t.Helper()
	for _, scripts := range []bool{true, false} {
		t.Run(fmt.Sprintf("scripts=%t", scripts), func(t *testing.T) {
			t.Parallel()
			run(t, func(base string) *tab {
				b := newGuest(t, base)
				if !scripts {
					b.withoutScripts()
				}
				return b
			})
		})
	}
}

func TestBuy(t *testing.T) {
	t.Parallel()
	eitherWay(t, func(t *testing.T, open func(string) *tab) {
		shop := apptest.Start(t, 1)
		b := open(shop.Nodes[0])
		b.toOrderButton("pm_ok")
		b.click(orderButton)
		b.awaitPaid()
		boughtOnce(t, shop)
	})
}

// No answer comes before the tenth click.
func TestTenFastClicks(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	proxy, base := proxied(t, shop.Nodes[0])
	b := newGuest(t, base)
	b.toOrderButton("pm_ok")
	sent, release := holdOrders(t, proxy)
	b.clickTenTimes(orderButton, func(click int64) bool { return click > 1 || sent.Load() == 1 })
	release()
	b.awaitPaid()
	boughtOnce(t, shop)
}

// Each of ten clicks has become a request when the next is made, and the shop gets them all at
// once.
func TestTenClicksTenRequests(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	proxy, base := proxied(t, shop.Nodes[0])
	b := newGuest(t, base)
	b.withoutScripts()
	b.toOrderButton("pm_ok")
	sent, release := holdOrders(t, proxy)
	b.clickTenTimes(orderButton, func(click int64) bool { return sent.Load() == click })
	release()
	b.awaitPaid()
	boughtOnce(t, shop)
}

func TestTenClicksInOneTask(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	b := newGuest(t, shop.Nodes[0])
	b.toOrderButton("pm_ok")
	eval[bool](b, fmt.Sprintf("{ const button = document.querySelector('%s'); for (let i = 0; i < 10; i++) "+
		"button.click(); true }", orderButton))
	b.awaitPaid()
	boughtOnce(t, shop)
}

// holdOrders keeps what the browser orders from the shop until release is called, and counts it.
// Then the shop gets all of it, although a browser leaves a request behind when it makes the next.
func holdOrders(t *testing.T, proxy *shoptest.Proxy) (sent *atomic.Int64, release func()) {
	t.Helper()
	sent, held := &atomic.Int64{}, make(chan struct{})
	release = sync.OnceFunc(func() { close(held) })
	t.Cleanup(release)
	proxy.OnSend(func(request []byte) shoptest.Fate {
		if bytes.HasPrefix(request, []byte("POST /checkout ")) {
			sent.Add(1)
			<-held
			return shoptest.Detach
		}
		return shoptest.Pass
	})
	return sent, release
}

// clickTenTimes presses the mouse button ten times as fast as the browser takes it, and waits after
// each click until arrived agrees.
func (b *tab) clickTenTimes(selector string, arrived func(click int64) bool) {
	b.t.Helper()
	press := b.mouse(selector)
	for click := range int64(10) {
		b.do("click", press)
		shoptest.Eventually(b.t, patience, fmt.Sprintf("click %d arrives", click+1), func() bool {
			return arrived(click + 1)
		})
	}
}

// Two tabs on two nodes show the same cart, and both order it.
func TestTwoTabs(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 2)
	first := newGuest(t, shop.Nodes[0])
	first.toOrderButton("pm_slow")
	second := first.another(shop.Nodes[1])
	second.goTo("/checkout")
	second.fillCheckout(buyer, "pm_slow")
	first.click(orderButton)
	second.click(orderButton)
	first.awaitPaid()
	second.awaitPaid()
	if a, b := eval[string](first, "location.pathname"), eval[string](second, "location.pathname"); a != b {
		t.Errorf("the tabs ended on %s and %s", a, b)
	}
	boughtOnce(t, shop)
}

// midCheckout orders, and returns while the browser waits for the provider's slow answer. The
// provider's event may be faster.
func (b *tab) midCheckout(shop *apptest.Shop) {
	b.t.Helper()
	b.toOrderButton("pm_slow")
	b.click(orderButton)
	shoptest.Eventually(b.t, patience, "the order is being paid", func() bool {
		return shop.Count(b.t, "SELECT count(*) FROM orders WHERE status IN ('paying', 'paid')") == 1
	})
}

func TestReloadMidCheckout(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	b := newGuest(t, shop.Nodes[0])
	b.midCheckout(shop)
	b.do("reload", chromedp.Reload())
	b.do("reload", chromedp.Reload())
	b.awaitPaid()
	boughtOnce(t, shop)
}

func TestBackAndForwardMidCheckout(t *testing.T) {
	t.Parallel()
	eitherWay(t, func(t *testing.T, open func(string) *tab) {
		shop := apptest.Start(t, 1)
		b := open(shop.Nodes[0])
		b.midCheckout(shop)
		b.step(-1)
		b.step(+1)
		b.orderAgain("pm_slow")
		// Where the way back leads depends on how far the order was; the order is always here.
		b.goTo("/orders")
		b.follow(`main a[href^="/orders/"]`)
		b.awaitPaid()
		boughtOnce(t, shop)
	})
}

func TestBackAfterCheckout(t *testing.T) {
	t.Parallel()
	eitherWay(t, func(t *testing.T, open func(string) *tab) {
		shop := apptest.Start(t, 1)
		b := open(shop.Nodes[0])
		b.toOrderButton("pm_ok")
		b.click(orderButton)
		b.awaitPaid()
		b.step(-1)
		b.orderAgain("pm_ok")
		b.noErrorPage()
		boughtOnce(t, shop)
	})
}

// Nobody knows what came of the charge until the provider can be asked.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	var provider *shoptest.Proxy
	shop := apptest.Start(t, 2, func(c *app.Config) { provider, c.PSPURL = proxied(t, c.PSPURL) })
	b := newGuest(t, shop.Nodes[0])
	b.toOrderButton("pm_ok")
	provider.OnSend(func([]byte) shoptest.Fate { return shoptest.LoseRequest })
	b.click(orderButton)
	b.awaitPage("/orders/")
	if !b.shows(saysChecking) {
		t.Errorf("the page does not say %q: %s", saysChecking, eval[string](b, "document.body.innerText"))
	}
	provider.OnSend(func([]byte) shoptest.Fate { return shoptest.Pass })
	b.awaitPaid()
	boughtOnce(t, shop)
}

// The provider takes the money, and its answer never comes.
func TestMoneyTakenAnswerLost(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 2, func(c *app.Config) { c.ProviderTimeout = 500 * time.Millisecond })
	b := newGuest(t, shop.Nodes[0])
	b.toOrderButton("pm_timeout_after_capture")
	b.click(orderButton)
	b.awaitPaid()
	boughtOnce(t, shop)
}

// Two guests never see each other's cart, order or timeline.
func TestTwoGuests(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	one, other := newGuest(t, shop.Nodes[0]), newGuest(t, shop.Nodes[0])
	other.fillCart("TEE-ONCE")
	one.toOrderButton("pm_ok")
	one.click(orderButton)
	one.awaitPaid()
	order := eval[string](one, "location.pathname")
	for _, path := range []string{order, order + "/receipt"} {
		if status := other.load(path); status != 404 {
			t.Errorf("another guest's %s answers %d", path, status)
		}
	}
	for _, path := range []string{"/cart", "/orders"} {
		if other.goTo(path); other.shows("The Once Mug") {
			t.Errorf("another guest's %s shows the mug", path)
		}
	}
	if other.goTo("/cart"); !other.shows("Exactly-Once Tee") {
		t.Error("the other guest's cart has lost its own")
	}
}
