package demo_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/demo/again"
	"github.com/onceshop/onceshop/internal/demo/embedded"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const patience = 30 * time.Second

// startWithPanel runs a shop whose nodes have the panel.
func startWithPanel(t *testing.T, nodes int) *apptest.Shop {
	t.Helper()
	var shop *apptest.Shop
	dir := t.TempDir()
	broker, err := embedded.StartNATSAt(dir, "nats://shop:secret@"+shoptest.FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Stop() })
	shop = apptest.Start(t, nodes, func(c *app.Config) {
		c.BrokerURL = broker.URL()
		provider := c.PSPURL
		c.Sections = []app.Section{again.Section(func() again.Servers {
			return again.Servers{
				Nodes: shop.Nodes, ProviderURL: provider, MailboxURL: shop.Mailbox,
				WebhookSecret: apptest.WebhookSecret,
				RestartBroker: func() (err error) {
					broker.Stop()
					broker, err = embedded.StartNATSAt(dir, broker.URL())
					return err
				},
			}
		})}
	})
	return shop
}

// guest is a visitor without scripts.
type guest struct {
	t      *testing.T
	client *http.Client
	base   string
}

func newGuest(t *testing.T, base string) *guest {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(transport.CloseIdleConnections)
	return &guest{t, &http.Client{Jar: jar, Transport: transport}, base}
}

// do sends a form, or gets a page without one. It returns the page at the end of all redirects.
func (g *guest) do(path string, form url.Values) (status int, at, page string) {
	g.t.Helper()
	method := http.MethodGet
	if form != nil {
		method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(g.t.Context(), method, g.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		g.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := g.client.Do(request)
	if err != nil {
		g.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return response.StatusCode, response.Request.URL.Path, string(body)
}

var hidden = regexp.MustCompile(`<input type="hidden" name="(\w+)" value="([^"]*)"`)

// buy orders and pays for a mug and returns the path of the order's page.
func (g *guest) buy(method string) string {
	g.t.Helper()
	g.do("/cart", url.Values{"sku": {"MUG-ONCE"}, "action": {"add"}, "quantity": {"1"}})
	_, _, page := g.do("/checkout", nil)
	form := url.Values{"email": {"buyer@example.com"}, "payment_method": {method}}
	for _, field := range hidden.FindAllStringSubmatch(page, -1) {
		form.Set(field[1], field[2])
	}
	_, at, page := g.do("/checkout", form)
	if !strings.HasPrefix(at, "/orders/") {
		g.t.Fatalf("no order, but %s:\n%s", at, page)
	}
	return at
}

var counts = regexp.MustCompile(`data-count="(\w+)">([\d?]+)<`)

// scoreboard reads the counts on the order's page.
func (g *guest) scoreboard(order string) string {
	g.t.Helper()
	_, _, page := g.do(order, nil)
	var text []string
	for _, count := range counts.FindAllStringSubmatch(page, -1) {
		text = append(text, count[1]+" "+count[2])
	}
	return strings.Join(text, " · ")
}

// awaitReceipt waits until the order has all of its effects.
func (g *guest) awaitReceipt(order string) {
	g.t.Helper()
	shoptest.Eventually(g.t, patience, "the order is paid and its receipt is there", func() bool {
		return strings.Contains(g.scoreboard(order), "orders 1 · captures 1 · receipts 1")
	})
}

// attempts reads the panel's count. An order that is paid can have more than one: when the
// provider's event comes before its answer, the answer is a twin, which may come at any time.
func (g *guest) attempts(order string) int {
	g.t.Helper()
	n, err := strconv.Atoi(strings.Fields(g.scoreboard(order))[1])
	if err != nil {
		g.t.Fatal(err)
	}
	return n
}

// awaitScore waits until the panel counts so many attempts, or one more for the provider's answer,
// and one effect of each kind. It returns the count.
func (g *guest) awaitScore(order string, attempts int) int {
	g.t.Helper()
	var got string
	what := fmt.Sprintf("%d attempts, one effect of each kind, all others stopped", attempts)
	shoptest.Eventually(g.t, patience, what, func() bool {
		got = g.scoreboard(order)
		return got == board(attempts) || got == board(attempts+1)
	})
	if got == board(attempts) {
		return attempts
	}
	return attempts + 1
}

func board(attempts int) string {
	return fmt.Sprintf("attempts %d · orders 1 · captures 1 · receipts 1 · stopped %d", attempts, attempts-1)
}

// presses are all buttons, with the twins that each makes and what the page says of them.
var presses = []struct {
	button   string
	attempts int
	shows    []string
}{
	{"order", 1, []string{"<code>201</code>, the first answer again."}},
	{"fifty", 50, []string{"50 × <code>201</code>, the first answer again.", "The request to order was repeated"}},
	{"basket", 1, []string{"<code>422 idempotency_key_reused</code>",
		"A different request to order used the same key."}},
	{"pay", 2, []string{"<code>201</code>, the first answer again.", "<code>409 order_already_paid</code>",
		"The request to pay was repeated", "found the order paid by this charge"}},
	{"event", 1, []string{"<code>204</code>", "was delivered again: the database had its id"}},
	{"paid", 1, []string{"The paid event was delivered again"}}, // on a busy machine, Redis may be too slow to tell
	{"redis", 1, []string{"the receipt&#39;s row was marked as sent"}},
	{"broker", 1, []string{"published the event again under the same message id"}},
}

func TestEveryButton(t *testing.T) {
	t.Parallel()
	for nodes := 1; nodes <= 2; nodes++ {
		t.Run(strconv.Itoa(nodes), func(t *testing.T) {
			t.Parallel()
			shop := startWithPanel(t, nodes)
			g := newGuest(t, shop.Nodes[0])
			order := g.buy("pm_ok")
			g.awaitReceipt(order)
			attempts := g.attempts(order)
			for _, press := range presses {
				panel := strings.Replace(order, "/orders", "/again", 1)
				status, at, page := g.do(panel, url.Values{"button": {press.button}})
				if status != http.StatusOK || at != order {
					t.Fatalf("%s: %d %s", press.button, status, at)
				}
				for _, want := range press.shows {
					if !strings.Contains(page, want) {
						t.Errorf("%s: the page does not show %q", press.button, want)
					}
				}
				attempts = g.awaitScore(order, attempts+press.attempts)
			}
			if nodes == 2 {
				_, _, page := g.do(order, nil)
				if !strings.Contains(page, "the database had its key") {
					t.Error("no twin has reached the UNIQUE key by the second node")
				}
			}
		})
	}
}

func TestPressesOfOthers(t *testing.T) {
	t.Parallel()
	shop := startWithPanel(t, 1)
	g := newGuest(t, shop.Nodes[0])
	order := g.buy("pm_ok")
	g.awaitReceipt(order)
	attempts := g.attempts(order)
	panel := strings.Replace(order, "/orders", "/again", 1)
	other := newGuest(t, shop.Nodes[0])
	other.do("/cart", url.Values{"sku": {"MUG-ONCE"}, "action": {"add"}, "quantity": {"1"}})
	if status, _, _ := other.do(panel, url.Values{"button": {"fifty"}}); status != http.StatusNotFound {
		t.Errorf("another guest got %d", status)
	}
	if status, _, _ := g.do(panel, url.Values{"button": {"none"}}); status != http.StatusBadRequest {
		t.Errorf("a button that there is not got %d", status)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.base+panel,
		strings.NewReader("button=order"))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Origin", "https://evil.example")
	response, err := g.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("a form of another site got %s", response.Status)
	}
	g.awaitScore(order, attempts)
}

// The presses that the page's script held back are attempts.
func TestHeldBack(t *testing.T) {
	t.Parallel()
	shop := startWithPanel(t, 1)
	g := newGuest(t, shop.Nodes[0])
	order := g.buy("pm_ok")
	g.awaitReceipt(order)
	attempts := g.attempts(order)
	panel := strings.Replace(order, "/orders", "/again", 1)
	if status, _, _ := g.do(panel, url.Values{"held": {"9"}}); status != http.StatusNoContent {
		t.Errorf("the report got %d", status)
	}
	g.awaitScore(order, attempts+9)
	if _, _, page := g.do(order, nil); !strings.Contains(page, "the page sent nothing") {
		t.Error("the timeline does not show them")
	}
}

// An order that is not paid has only those buttons that cannot pay for it.
func TestUnpaidOrder(t *testing.T) {
	t.Parallel()
	shop := startWithPanel(t, 1)
	g := newGuest(t, shop.Nodes[0])
	order := g.buy("pm_declined")
	panel := strings.Replace(order, "/orders", "/again", 1)
	_, _, page := g.do(panel, url.Values{"button": {"pay"}})
	if !strings.Contains(page, "has no payment to repeat") {
		t.Error("the page does not explain")
	}
	if n := shop.Count(t, "SELECT count(*) FROM charges"); n != 1 {
		t.Errorf("%d charges", n)
	}
	g.do(panel, url.Values{"button": {"order"}})
	want := "attempts 2 · orders 1 · captures 0 · receipts 0 · stopped 1"
	if got := g.scoreboard(order); got != want {
		t.Errorf("the scoreboard shows %s, want %s", got, want)
	}
}
