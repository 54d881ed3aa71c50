package browsertest

import (
	"fmt"
	"testing"

	"github.com/onceshop/onceshop/internal/shoptest"
)

// The demo's panel on an order's page: the tests run the program's own demo.

func press(button string) string { return fmt.Sprintf(".again button[value=%s]", button) }

// attempts reads the panel's count. An order that is paid can have more than one: when the
// provider's event comes before its answer, the answer is a twin, which may come at any time.
func (b *tab) attempts() int {
	b.t.Helper()
	return eval[int](b, "Number(document.querySelector('[data-count=attempts]').innerText)")
}

// awaitScore waits until the panel's witnesses agree about at least so many attempts, and returns
// how many there are.
func (b *tab) awaitScore(attempts int) int {
	b.t.Helper()
	b.await(fmt.Sprintf("%d attempts, one effect of each kind, all others stopped", attempts), fmt.Sprintf(`{
		const score = Object.fromEntries([...document.querySelectorAll('.score dd')].map(dd =>
			[dd.dataset.count, Number(dd.innerText)]));
		score.attempts >= %d && score.stopped === score.attempts - 1 &&
			score.orders === 1 && score.captures === 1 && score.receipts === 1
	}`, attempts))
	return b.attempts()
}

// stoppedSays is the condition that a card of stopped twins has the text.
func stoppedSays(text string) string {
	return fmt.Sprintf("[...document.querySelectorAll('.stops li')].some(li => li.innerText.includes(%q))", text)
}

// panelButtons are all, with the twins that each makes and what stops them.
var panelButtons = []struct {
	value    string
	attempts int
	shows    []string
}{
	{"order", 1, []string{"The request to order was repeated"}},
	{"fifty", 50, []string{"The request to order was repeated"}},
	{"basket", 1, []string{"unique key stopped", "A different request to order used the same key"}},
	{"pay", 2, []string{"The request to pay was repeated", "found the order paid by this charge"}},
	{"event", 1, []string{"was delivered again: the database had its id"}},
	{"paid", 1, []string{"The paid event was delivered again"}}, // on a busy machine, Redis may be too slow to tell
	{"redis", 1, []string{"the receipt's row was marked as sent"}},
	{"broker", 1, []string{"broker stopped", "The relay published the event again"}},
}

func TestPanel(t *testing.T) {
	t.Parallel()
	for nodes, scripts := range map[int]bool{1: true, 2: false} {
		t.Run(fmt.Sprintf("nodes=%d,scripts=%t", nodes, scripts), func(t *testing.T) {
			t.Parallel()
			b := newGuest(t, shoptest.Demo(t, shoptest.DatabaseURL(t), nodes)[0])
			if !scripts {
				b.withoutScripts()
			}
			b.toOrderButton("pm_ok")
			b.click(orderButton)
			b.awaitPage("/orders/")
			order := eval[string](b, "location.pathname")
			b.awaitReceipt(order, scripts)
			attempts := b.attempts()
			for _, button := range panelButtons {
				before := b.pages()
				b.click(press(button.value))
				if !scripts {
					b.await("the page is there", "document.readyState === 'complete'")
					shoptest.Eventually(t, patience, "the form leads back",
						func() bool { return b.pages() > before })
				}
				attempts = b.awaitScore(attempts + button.attempts)
				for _, want := range button.shows {
					b.await(button.value+": "+want, stoppedSays(want))
				}
				if scripts && b.pages() != before {
					t.Errorf("%s: the page was left", button.value)
				}
			}
			b.noErrorPage()
			if scripts {
				b.inspect(fmt.Sprintf("order-panel-%d", nodes))
				b.wantFolds()
			}
		})
	}
}

// maxPhone is how many pixels high a phone shows the order's page after a press of each button. The
// order of events adds a card or two.
const maxPhone = 4200

// wantFolds fails unless a desktop shows the whole page, and a phone folds the layers and the
// groups of events. Both show the scoreboard and the stopped twins.
func (b *tab) wantFolds() {
	b.t.Helper()
	for _, l := range looks {
		b.wear(l)
		for selector, folds := range map[string]bool{".way": true, ".timeline": true, ".stops > li": false,
			".score > div": false, ".again button": false} {
			want := !folds || !l.mobile
			if !eval[bool](b, fmt.Sprintf(`{
				const all = [...document.querySelectorAll(%q)];
				all.length > 0 && all.every(one => one.checkVisibility() === %t)
			}`, selector, want)) {
				b.t.Errorf("%s: is every %s visible? want %t", l.name, selector, want)
			}
		}
		if height := eval[int](b, "document.documentElement.scrollHeight"); l.mobile && height > maxPhone {
			b.t.Errorf("%s: the page is %d pixels high", l.name, height)
		}
	}
	b.click(".steps summary")
	b.await("a group opens", "document.querySelector('.timeline').checkVisibility()")
}

// awaitReceipt waits for all effects of the order. Without scripts, it asks for the page again.
func (b *tab) awaitReceipt(order string, scripts bool) {
	b.t.Helper()
	if scripts {
		b.await("the receipt is there", "document.querySelector('[data-count=receipts]').innerText === '1'")
		return
	}
	shoptest.Eventually(b.t, patience, "the receipt is there", func() bool {
		b.goTo(order)
		return eval[string](b, "document.querySelector('[data-count=receipts]').innerText") == "1"
	})
}

// A person's first minute: from the front page to fifty stopped twins in four clicks. The presses
// that the checkout's script holds back count, too.
func TestFirstMinute(t *testing.T) {
	t.Parallel()
	b := newGuest(t, shoptest.Demo(t, shoptest.DatabaseURL(t), 1)[0])
	clicks := 0
	click := func(selector string) {
		clicks++
		b.click(selector)
	}
	b.goTo("/")
	click(`form[action="/cart"]:has(input[value="MUG-ONCE"]) button`)
	b.await("the way to the checkout", `document.querySelector('#notice a[href="/checkout"]') != null`)
	click(`#notice a[href="/checkout"]`)
	b.awaitPage("/checkout")
	b.fillCheckout(buyer, "pm_ok")
	click(orderButton)
	b.awaitPage("/orders/")
	b.awaitReceipt("", true)
	attempts := b.attempts()
	click(press("fifty"))
	b.awaitScore(attempts + 50)
	b.await("a card says fifty", stoppedSays("50 ×"))
	if clicks > 4 {
		t.Errorf("%d clicks", clicks)
	}
	b.noErrorPage()
	for _, witness := range []string{"Provider", "Mailbox"} {
		link := fmt.Sprintf(`[...document.querySelectorAll('nav a')].find(a => a.innerText == '%s (1)')`, witness)
		b.await("the bar counts the effect", link+" != null")
		b.another(eval[string](b, link+".href")).visit(visit{name: "demo-" + witness, says: "invariants"})
	}
}

// A double click at the checkout is one request: its page's script holds the second press back, and
// the order's page counts it.
func TestHeldBackPressesCount(t *testing.T) {
	t.Parallel()
	b := newGuest(t, shoptest.Demo(t, shoptest.DatabaseURL(t), 1)[0])
	b.toOrderButton("pm_ok")
	eval[bool](b, fmt.Sprintf("{ const button = document.querySelector('%s'); for (let i = 0; i < 10; i++) "+
		"button.click(); true }", orderButton))
	b.awaitPage("/orders/")
	b.await("nine presses were held back",
		"document.querySelector('.stops')?.innerText.includes('9 × browser stopped')")
	shoptest.Eventually(t, patience, "the scoreboard has ten attempts", func() bool { return b.attempts() >= 10 })
}
