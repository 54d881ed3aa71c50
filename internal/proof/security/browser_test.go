package security_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
)

// visitor is a guest's browser behind a proxy that speaks https: it sends what it was given back.
type visitor struct {
	t       *testing.T
	base    string
	cookies map[string]string
}

func (v *visitor) header() http.Header {
	var all []string
	for name, value := range v.cookies {
		all = append(all, name+"="+value)
	}
	if all == nil {
		return nil
	}
	return http.Header{"Cookie": {strings.Join(all, "; ")}}
}

func (v *visitor) keep(answer apitest.Response) apitest.Response {
	for _, text := range answer.Header.Values("Set-Cookie") {
		if cookie, err := http.ParseSetCookie(text); err == nil {
			v.cookies[cookie.Name] = cookie.Value
		}
	}
	return answer
}

func (v *visitor) get(path string) apitest.Response {
	return v.keep(send(v.t, http.MethodGet, v.base+path, v.header(), nil))
}

func (v *visitor) submit(path string, more http.Header, form url.Values) apitest.Response {
	header := v.header()
	for name, values := range more {
		header[name] = values
	}
	return v.keep(submit(v.t, v.base+path, header, form))
}

var keyField = regexp.MustCompile(`name="key" value="([^"]*)"`)

// checkout fills a cart and opens the checkout.
func checkout(t *testing.T, shop *apptest.Shop) (v *visitor, form url.Values) {
	t.Helper()
	v = &visitor{t: t, base: shop.Nodes[0], cookies: map[string]string{}}
	expect(t, "into the cart", v.submit("/cart", nil,
		url.Values{"action": {"add"}, "sku": {"MUG-ONCE"}, "quantity": {"1"}}), http.StatusSeeOther, "")
	page := v.get("/checkout")
	key := keyField.FindSubmatch(page.Body)
	if key == nil {
		t.Fatalf("no key on the checkout: %d %s", page.Status, page.Body)
	}
	return v, url.Values{"key": {string(key[1])}, "email": {"guest@example.com"}, "payment_method": {"pm_ok"}}
}

func TestBrowser(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1, withLab, func(c *app.Config) { c.PublicURL = "HTTPS://shop.example" })

	t.Run("CrossSite", func(t *testing.T) {
		t.Parallel()
		v, form := checkout(t, shop)
		for _, header := range []http.Header{{"Sec-Fetch-Site": {"cross-site"}}, {"Sec-Fetch-Site": {"same-site"}},
			{"Origin": {"https://evil.example"}}} {
			for _, path := range []string{"/checkout", "/cart", "/orders/" + missing + "/pay",
				"/orders/" + missing + "/again", "/admin/login", "/admin/letters/1/retry", "/lab",
				"/lab/unique-double-click"} {
				expect(t, path, v.submit(path, header, form), http.StatusForbidden, "")
			}
		}
		if n := shop.Count(t, "SELECT count(*) FROM orders WHERE idempotency_key = $1", form.Get("key")); n != 0 {
			t.Errorf("%d orders", n)
		}
		expect(t, "the shop's own form", v.submit("/checkout", http.Header{"Sec-Fetch-Site": {"same-origin"}}, form),
			http.StatusSeeOther, "")
		if n := shop.Count(t, "SELECT count(*) FROM orders WHERE idempotency_key = $1", form.Get("key")); n != 1 {
			t.Errorf("%d orders, want 1", n)
		}
	})
	t.Run("Cookies", func(t *testing.T) {
		t.Parallel()
		answer := submit(t, shop.Nodes[0]+"/cart", nil,
			url.Values{"action": {"add"}, "sku": {"MUG-ONCE"}, "quantity": {"1"}})
		set := answer.Header.Values("Set-Cookie")
		if len(set) != 2 {
			t.Fatalf("cookies %q, want a guest and a cart", set)
		}
		for _, text := range set {
			cookie, err := http.ParseSetCookie(text)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(cookie.Name, "__Host-") || !cookie.Secure || !cookie.HttpOnly ||
				cookie.SameSite != http.SameSiteLaxMode || cookie.Path != "/" || cookie.Domain != "" {
				t.Errorf("cookie %s", text)
			}
		}
	})
	t.Run("Pages", func(t *testing.T) {
		t.Parallel()
		v, form := checkout(t, shop)
		// The checkout is looked at by everyPage, then it becomes an order with pages of its own.
		everyPage(t, v, "/", "/cart", "/checkout", "/nowhere", "/admin/orders", "/lab")
		bought := v.submit("/checkout", nil, form)
		expect(t, "checkout", bought, http.StatusSeeOther, "")
		everyPage(t, v, bought.Header.Get("Location"), "/orders")
		checkPage(t, "a refused form", v.submit("/cart", http.Header{"Sec-Fetch-Site": {"cross-site"}}, form))
		checkPage(t, "a wrong form", v.submit("/cart", nil, url.Values{"action": {"?"}}))
	})
	t.Run("Headers", func(t *testing.T) {
		t.Parallel()
		for _, path := range []string{"/", "/nowhere", "/static/shop.css", "/healthz", "/readyz", "/v1/openapi.yaml",
			"/admin", "/lab", "/orders/" + missing} {
			checkHeaders(t, path, get(t, shop.Nodes[0]+path))
		}
	})
	t.Run("API", func(t *testing.T) {
		t.Parallel()
		alice := shop.Alice(t)
		for what, answer := range map[string]apitest.Response{
			"products": alice.Get(t.Context(), "/v1/products"), "orders": alice.Get(t.Context(), "/v1/orders"),
			"nothing":  alice.Get(t.Context(), "/v1/nothing"),
			"no token": shop.Client(t, 0, "").Get(t.Context(), "/v1/orders"),
			"an order": alice.Post(t.Context(), "/v1/orders", "no-store",
				apptest.OrderBody("a@example.com", "MUG-ONCE", 1)),
			"a replay": alice.Post(t.Context(), "/v1/orders", "no-store",
				apptest.OrderBody("a@example.com", "MUG-ONCE", 1)),
			"no key":    alice.Post(t.Context(), "/v1/orders", "", "{}"),
			"a webhook": alice.Post(t.Context(), "/v1/webhooks/payments", "", "{}"),
		} {
			if got := answer.Header.Get("Cache-Control"); got != "no-store" || answer.Status == 0 {
				t.Errorf("%s: %d, Cache-Control %q", what, answer.Status, got)
			}
			if got := answer.Header.Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'none'") {
				t.Errorf("%s: policy %q", what, got)
			}
			checkHeaders(t, what, answer)
		}
	})
}

// checkHeaders checks what every answer of a shop on https has.
func checkHeaders(t *testing.T, what string, answer apitest.Response) {
	t.Helper()
	for name, want := range map[string]string{"Strict-Transport-Security": "max-age=31536000",
		"X-Content-Type-Options": "nosniff", "Cross-Origin-Opener-Policy": "same-origin",
		"Cross-Origin-Resource-Policy": "same-origin"} {
		if got := answer.Header.Get(name); got != want {
			t.Errorf("%s: %s is %q, want %q", what, name, got, want)
		}
	}
}

// Without the demo, and with Stripe, the pages have other forms.
func TestNoCardFields(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*app.Config){
		"the simulator": func(c *app.Config) { c.Demo = false },
		"Stripe": func(c *app.Config) {
			c.Demo, c.StripeSecretKey, c.StripeWebhookSecret, c.StripeURL = false, "sk_test_x",
				"whsec_c2VjcmV0IGZvciB0ZXN0cw==", c.PSPURL
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, _ := checkout(t, apptest.Start(t, 1, change))
			everyPage(t, v, "/", "/cart", "/checkout", "/admin")
		})
	}
}

var link = regexp.MustCompile(`(?:href|action)="(/[^"#]*)"`)

// everyPage follows every link of the shop from the given pages on, and checks what it comes to. An
// event stream never ends and is no page.
func everyPage(t *testing.T, v *visitor, from ...string) {
	t.Helper()
	seen := map[string]bool{}
	for len(from) > 0 {
		path := from[0]
		from = from[1:]
		if seen[path] || strings.Contains(path, "/static/") || strings.HasPrefix(path, "/v1/") ||
			strings.HasSuffix(path, "/events") && path != "/admin/events" || len(seen) > 80 {
			continue
		}
		seen[path] = true
		answer := v.get(path)
		checkPage(t, path, answer)
		if to := answer.Header.Get("Location"); strings.HasPrefix(to, "/") {
			from = append(from, to)
		}
		for _, found := range link.FindAllSubmatch(answer.Body, -1) {
			from = append(from, string(found[1]))
		}
	}
	if len(seen) < 5 {
		t.Errorf("only %d pages: %v", len(seen), seen)
	}
}

var (
	input    = regexp.MustCompile(`(?is)<(?:input|select|textarea)\b[^>]*>`)
	cardLike = regexp.MustCompile(`(?i)\b(?:name|id|autocomplete|placeholder|aria-label)="` +
		`(?:[^"]*\b)?(?:cc-|card|cvc|cvv|csc|pan\b|expir|exp-)`)
	inline = regexp.MustCompile(`(?i)<script>|<script [^>]*>[^<]|<style|\sstyle=|\son[a-z]+=|javascript:`)
)

// checkPage checks what holds for each page: nothing of it is kept, framed or run inline, and
// nobody is asked for a card.
func checkPage(t *testing.T, what string, answer apitest.Response) {
	t.Helper()
	if !strings.HasPrefix(answer.Header.Get("Content-Type"), "text/html") {
		if answer.Status == http.StatusOK {
			t.Errorf("%s is %s", what, answer.Header.Get("Content-Type"))
		}
		return
	}
	policy := map[string]string{}
	for directive := range strings.SplitSeq(answer.Header.Get("Content-Security-Policy"), ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), " ")
		policy[name] = value
	}
	for name, want := range map[string]string{"default-src": "'self'", "script-src": "", "object-src": "'none'",
		"base-uri": "'none'", "frame-ancestors": "'none'", "form-action": "'self'"} {
		if policy[name] != want {
			t.Errorf("%s: %s is %q, want %q", what, name, policy[name], want)
		}
	}
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"} {
		if got := answer.Header.Get(name); got != want {
			t.Errorf("%s: %s is %q, want %q", what, name, got, want)
		}
	}
	if found := inline.Find(answer.Body); found != nil {
		t.Errorf("%s: %s is inline", what, found)
	}
	for _, field := range input.FindAll(answer.Body, -1) {
		if cardLike.Match(field) {
			t.Errorf("%s asks for a card: %s", what, field)
		}
	}
}
