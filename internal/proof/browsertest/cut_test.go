package browsertest

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// The connection is cut after the click, before the shop hears of it or after it has answered.
// Browsers repeat such a request by themselves, so it is cut until they give up.
func TestConnectionCutAfterTheClick(t *testing.T) {
	t.Parallel()
	reload := func(b *tab) { b.do("reload", chromedp.Reload()) }
	for _, tc := range []struct {
		name     string
		fate     shoptest.Fate
		tryAgain func(*tab)
	}{
		{"request lost, reload", shoptest.LoseRequest, reload},
		{"answer lost, reload", shoptest.LoseAnswer, reload},
		{"answer lost, back", shoptest.LoseAnswer, func(b *tab) { b.step(-1); b.orderAgain("pm_ok") }},
		{"answer lost, to the cart", shoptest.LoseAnswer, func(b *tab) { b.goTo("/cart"); b.orderAgain("pm_ok") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			shop := apptest.Start(t, 1)
			proxy, base := proxied(t, shop.Nodes[0])
			b := newGuest(t, base)
			b.toOrderButton("pm_ok")
			cut := cutOrders(proxy, tc.fate)
			b.click(orderButton)
			shoptest.Eventually(t, patience, "the connection is cut", func() bool { return cut.Load() > 0 })
			b.await("the browser gives up", "document.URL.startsWith('chrome-error:')")
			proxy.OnSend(func([]byte) shoptest.Fate { return shoptest.Pass })
			tc.tryAgain(b)
			b.awaitPaid()
			boughtOnce(t, shop)
		})
	}
}

// cutOrders lets every order of the browser's meet that fate, and counts them.
func cutOrders(proxy *shoptest.Proxy, fate shoptest.Fate) *atomic.Int64 {
	var cut atomic.Int64
	proxy.OnSend(func(request []byte) shoptest.Fate {
		if !bytes.HasPrefix(request, []byte("POST /checkout ")) {
			return shoptest.Pass
		}
		cut.Add(1)
		return fate
	})
	return &cut
}

// While the connection for a page's news is slow to open, nothing of the buyer's is in flight: the
// button to pay looks ready.
func TestPayButtonWhileNewsIsAskedFor(t *testing.T) {
	t.Parallel()
	// The demo's page follows its order for an hour, however slow the machine is.
	proxy, base := proxied(t, shoptest.Demo(t, shoptest.DatabaseURL(t), 1)[0])
	b := newGuest(t, base)
	b.toOrderButton("pm_declined")
	asked, answer := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(answer) })
	ask := sync.OnceFunc(func() { close(asked) })
	proxy.OnSend(func(request []byte) shoptest.Fate {
		line, _, _ := bytes.Cut(request, []byte("\r\n"))
		if bytes.HasPrefix(line, []byte("GET /orders/")) && bytes.Contains(line, []byte("/events ")) {
			ask()
			<-answer
		}
		return shoptest.Pass
	})
	b.click(orderButton)
	b.awaitPage("/orders/")
	select {
	case <-asked:
	case <-time.After(patience):
		t.Fatal("the page does not ask for news")
	}
	const pay = `document.querySelector('form[action$="/pay"] button')`
	if opacity := eval[string](b, "getComputedStyle("+pay+").opacity"); opacity != "1" {
		t.Errorf("the button's opacity is %s", opacity)
	}
}
