package web_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
	"github.com/onceshop/onceshop/internal/shoptest"
	"github.com/onceshop/onceshop/internal/timeline"
	"github.com/onceshop/onceshop/web"
)

func TestMain(m *testing.M) { shoptest.Main(m) }

var policy = payments.Policy{ProviderTimeout: 5 * time.Second, Lease: 15 * time.Second, Horizon: time.Hour}

var products = []orders.Product{
	{SKU: "MUG-ONCE", Name: "The Once Mug", Description: "Made once.", Currency: "EUR", UnitPrice: 1400},
	{SKU: "PIN-KEY", Name: "Idempotency Key Pin", Description: "Wear the key.", Currency: "EUR", UnitPrice: 650},
	{SKU: "LAST-ONE", Name: "The Last One", Description: "1 of 1.", Currency: "EUR", UnitPrice: 12000},
}

// shop is a storefront on a socket, over a database and a payment provider of its own.
type shop struct {
	t        *testing.T
	database string
	pool     *pgxpool.Pool
	provider string // the address of the payment provider
	pages    web.Web
	url      string
	front    *httptest.Server
}

// open starts a demo shop with ten mugs, ten pins and the last one. change may alter it before it
// opens.
func open(t *testing.T, change func(*web.Web)) *shop {
	t.Helper()
	replays := dedup.NewReplays(1<<20, time.Minute)
	t.Cleanup(replays.Close)
	database := shoptest.DatabaseURL(t)
	s := &shop{t: t, database: database, provider: shoptest.Provider(t, shoptest.ProviderOptions{}),
		pool: shoptest.Pool(t, database), front: httptest.NewUnstartedServer(nil)}
	t.Cleanup(s.front.Close)
	s.url = "http://" + s.front.Listener.Addr().String()
	s.pages = web.Web{Name: "Kettle & Co",
		Sections: []web.Section{{Path: "/section", Name: "Section", Title: "A section"}},
		Orders:   orders.New(s.pool, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler)),
		Payments: s.payments(s.pool),
		Receipts: notify.NewLetters(s.pool),
		Accounts: accounts.New(s.pool, true), Signer: accounts.NewSigner(strings.Repeat("s", 32), "demo"),
		Replays: replays, Timeline: timeline.New(s.pool), Streams: web.NewStreams(10), Demo: true,
		PayWait: time.Minute,
		Log:     slog.New(slog.DiscardHandler)}
	for position, product := range products {
		if err := s.pages.Orders.AddProduct(t.Context(), product, position); err != nil {
			t.Fatal(err)
		}
	}
	s.deliver("opening,1,MUG-ONCE,10", "opening,2,PIN-KEY,10", "opening,3,LAST-ONE,1")
	if change != nil {
		change(&s.pages)
	}
	s.front.Config.Handler = handler(s.pages)
	s.front.Start()
	return s
}

func (s *shop) payments(pool *pgxpool.Pool, change ...func(*payments.Policy)) *payments.Service {
	policy := policy
	policy.ReturnURL = s.url + "/orders/"
	for _, f := range change {
		f(&policy)
	}
	client := psp.NewClient(s.provider, policy.ProviderTimeout)
	s.t.Cleanup(client.CloseIdleConnections)
	log := slog.New(slog.DiscardHandler)
	return payments.New(pool, orders.New(pool, orders.DefaultExpiry, time.Now, log), client, policy, time.Now, nil, log)
}

// serve puts pages on a socket of their own and returns the address.
func (s *shop) serve(pages web.Web) string {
	listening := httptest.NewServer(handler(pages))
	s.t.Cleanup(listening.Close)
	return listening.URL
}

func handler(pages web.Web) http.Handler {
	e := echo.New()
	e.HTTPErrorHandler = func(err error, c echo.Context) { pages.WriteError(c, err) }
	pages.Register(e)
	return e
}

func (s *shop) deliver(lines ...string) {
	s.t.Helper()
	file := "delivery_id,line,sku,quantity\n" + strings.Join(lines, "\n") + "\n"
	if _, err := s.pages.Orders.Import(s.t.Context(), strings.NewReader(file), "supplier", false); err != nil {
		s.t.Fatal(err)
	}
}

// wantOrders fails unless the shop has so many orders in all.
func (s *shop) wantOrders(want int) {
	s.t.Helper()
	var got int
	if err := s.pool.QueryRow(s.t.Context(), "SELECT count(*) FROM orders").Scan(&got); err != nil {
		s.t.Fatal(err)
	}
	if got != want {
		s.t.Errorf("%d orders, want %d", got, want)
	}
}

// wantCaptures fails unless the provider took money so many times in all. The provider is the
// witness.
func (s *shop) wantCaptures(want int) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.provider+"/v1/captures", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var seen struct {
		Captures []payments.Capture `json:"captures"`
	}
	if err := json.UnmarshalRead(resp.Body, &seen); err != nil {
		s.t.Fatal(err)
	}
	got := 0
	for _, capture := range seen.Captures {
		if capture.Status == payments.CaptureSucceeded {
			got++
		}
	}
	if got != want {
		s.t.Errorf("money moved %d times, want %d", got, want)
	}
}

func (s *shop) wantStock(sku string, want int64) {
	s.t.Helper()
	all, err := s.pages.Orders.Products(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, product := range all {
		if product.SKU == sku && product.Available != want {
			s.t.Errorf("%d of %s available, want %d", product.Available, sku, want)
		}
	}
}

// browser is a guest's: it keeps cookies and follows redirects.
type browser struct {
	t    *testing.T
	url  string
	http *http.Client
}

func (s *shop) browser() *browser {
	s.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	transport := &http.Transport{}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &browser{t: s.t, url: s.url, http: &http.Client{Jar: jar, Transport: transport, Timeout: 30 * time.Second}}
}

// twin is the same browser as it is now: what one learns from here on, the other does not.
func (b *browser) twin() *browser {
	b.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	jar.SetCookies(b.address(), b.http.Jar.Cookies(b.address()))
	return &browser{t: b.t, url: b.url,
		http: &http.Client{Jar: jar, Transport: b.http.Transport, Timeout: b.http.Timeout}}
}

func (b *browser) address() *url.URL {
	b.t.Helper()
	u, err := url.Parse(b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	return u
}

// answer is the page that a browser ended up on.
type answer struct {
	t      *testing.T
	status int
	path   string
	header http.Header
	body   string
}

func (b *browser) get(path string) answer {
	b.t.Helper()
	return b.do(http.MethodGet, path, nil, nil)
}

func (b *browser) post(path string, form url.Values) answer {
	b.t.Helper()
	return b.do(http.MethodPost, path, form, nil)
}

// do may run in any goroutine: it reports what goes wrong, and goes on.
func (b *browser) do(method, path string, form url.Values, header http.Header) answer {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Error(err)
		return answer{t: b.t}
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := b.http.Do(req)
	if err != nil {
		b.t.Error(err)
		return answer{t: b.t}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Error(err)
	}
	a := answer{t: b.t, status: resp.StatusCode, path: resp.Request.URL.Path, header: resp.Header, body: string(body)}
	if !strings.HasPrefix(a.path, atBank) {
		a.isProper()
	}
	return a
}

// An own script file may be named; what is inside the page may not run.
var inline = regexp.MustCompile(`(?i)<script>|<script [^>]*>[^<]|<script (?:defer )?src="[^/]` +
	`|<style|\sstyle=|\son\w+=|https?://`)

// isProper checks what holds for every page: small, whole, safe headers, nothing inline and nothing
// from elsewhere.
func (a answer) isProper() {
	a.t.Helper()
	if !strings.HasPrefix(a.header.Get("Content-Type"), "text/html") {
		return
	}
	if len(a.body) > 100_000 {
		a.t.Errorf("%s: %d bytes", a.path, len(a.body))
	}
	if found := inline.FindString(a.body); found != "" {
		a.t.Errorf("%s: %q on the page", a.path, found)
	}
	if n := strings.Count(a.body, "<h1"); n != 1 && a.body != "" {
		a.t.Errorf("%s: %d h1", a.path, n)
	}
	for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
		"Referrer-Policy": "same-origin",
		"Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors " +
			"'none'; form-action 'self'"} {
		if got := a.header.Get(name); got != want {
			a.t.Errorf("%s: %s: %q, want %q", a.path, name, got, want)
		}
	}
}

// want fails unless the page has the status, the path and the texts.
func (a answer) want(status int, path string, texts ...string) answer {
	a.t.Helper()
	if a.status != status || !strings.HasPrefix(a.path, path) {
		a.t.Fatalf("got %d at %s, want %d at %s\n%s", a.status, a.path, status, path, a.body)
	}
	for _, text := range texts {
		if !strings.Contains(a.body, text) {
			a.t.Errorf("no %q on %s:\n%s", text, a.path, a.body)
		}
	}
	return a
}

// without fails if the page has one of the texts.
func (a answer) without(texts ...string) answer {
	a.t.Helper()
	for _, text := range texts {
		if strings.Contains(a.body, text) {
			a.t.Errorf("%q on %s", text, a.path)
		}
	}
	return a
}

// field is the value of an input of the page.
func (a answer) field(name string) string {
	a.t.Helper()
	found := regexp.MustCompile(`name="` + name + `" value="([^"]*)"`).FindStringSubmatch(a.body)
	if found == nil {
		a.t.Fatalf("no field %s on %s:\n%s", name, a.path, a.body)
	}
	return found[1]
}

func (b *browser) add(sku string) {
	b.t.Helper()
	b.post("/cart", url.Values{"action": {"add"}, "sku": {sku}, "quantity": {"1"}}).want(200, "/cart")
}

// checkoutForm opens the checkout and fills in its form.
func (b *browser) checkoutForm(method string) url.Values {
	b.t.Helper()
	page := b.get("/checkout").want(200, "/checkout")
	form := url.Values{"email": {"alice@example.com"}, "payment_method": {method}}
	for _, name := range []string{"key", "total", "currency"} {
		form.Set(name, page.field(name))
	}
	return form
}

func TestPagesOfAStranger(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.get("/").want(200, "/", "The Once Mug", "€14.00", "10 in stock", "Only 1 in stock", "/static/art/mug-once.svg?v=")
	b.get("/cart").want(200, "/cart", "Your cart is empty")
	b.get("/checkout").want(200, "/cart", "Your cart is empty")
	b.get("/orders").want(200, "/orders", "No orders yet")
	b.get("/nowhere").want(404, "/nowhere", "Page not found")
	b.do(http.MethodDelete, "/cart", nil, nil).want(405, "/cart", "Nothing was changed")
	b.do(http.MethodHead, "/", nil, nil).want(200, "/")
	if cookies := b.http.Jar.Cookies(b.address()); len(cookies) != 0 {
		t.Errorf("looking around left cookies: %v", cookies)
	}
}

func TestCart(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	b.add("MUG-ONCE")
	b.add("PIN-KEY")
	b.get("/cart").want(200, "/cart", "€28.00", "€34.50")
	key := b.checkoutForm("pm_ok").Get("key")
	set := func(sku, quantity string) answer {
		return b.post("/cart", url.Values{"action": {"set"}, "sku": {sku}, "quantity": {quantity}})
	}
	set("MUG-ONCE", "2").want(200, "/cart")
	if got := b.checkoutForm("pm_ok").Get("key"); got != key {
		t.Error("a change to the same quantity made a new key")
	}
	set("MUG-ONCE", "11").want(200, "/cart", "Only 10 left").without("/checkout")
	b.get("/checkout").want(200, "/cart", "Only 10 left")
	set("MUG-ONCE", "1").want(200, "/cart", "€20.50")
	if got := b.checkoutForm("pm_ok").Get("key"); got == key {
		t.Error("another cart has the key of the first")
	}
	for _, bad := range []string{"-1", "100", "x", ""} {
		set("MUG-ONCE", bad).want(400, "/cart", "quantity must be")
	}
	set("NO-SUCH", "1").want(400, "/cart", "must be a product of this shop")
	b.post("/cart", url.Values{"action": {"remove"}, "sku": {"MUG-ONCE"}}).want(200, "/cart",
		"€6.50").without("The Once Mug")
	set("PIN-KEY", "0").want(200, "/cart", "Your cart is empty")
}

func TestCookies(t *testing.T) {
	t.Parallel()
	s := open(t, func(w *web.Web) { w.Secure = true })
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/cart",
		strings.NewReader("action=add&sku=MUG-ONCE&quantity=1"))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	rec := httptest.NewRecorder()
	e := echo.New()
	s.pages.Register(e)
	e.ServeHTTP(rec, req)
	cookies := rec.Result().Cookies()
	if len(cookies) != 2 {
		t.Fatalf("cookies %v, want a guest and a cart", cookies)
	}
	for _, cookie := range cookies {
		if !strings.HasPrefix(cookie.Name, "__Host-shop_") || !cookie.Secure || !cookie.HttpOnly ||
			cookie.SameSite != http.SameSiteLaxMode ||
			cookie.Path != "/" || cookie.Domain != "" || cookie.MaxAge < 86400 {
			t.Errorf("cookie %v", cookie)
		}
	}
}

func TestForgedCookiesCountAsNone(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	alice := s.browser()
	alice.add("MUG-ONCE")
	form := alice.checkoutForm("pm_ok")
	for name, change := range map[string]func(guest, cart *http.Cookie){
		"guest tampered": func(guest, _ *http.Cookie) { guest.Value = "x" + guest.Value[1:] },
		"cart tampered":  func(_, cart *http.Cookie) { cart.Value = cart.Value[:len(cart.Value)-2] + "zz" },
		"cart as guest":  func(guest, cart *http.Cookie) { guest.Value = cart.Value },
		"no guest":       func(guest, _ *http.Cookie) { guest.Value = "" },
		"cart of another": func(guest, _ *http.Cookie) {
			guest.Value = s.pages.Signer.Sign("shop_guest", uuid.NewString())
		},
		"of another secret": func(guest, _ *http.Cookie) {
			guest.Value = accounts.NewSigner("other", "demo").Sign("shop_guest", uuid.NewString())
		},
	} {
		mallory := alice.twin()
		cookies := map[string]*http.Cookie{}
		for _, cookie := range mallory.http.Jar.Cookies(mallory.address()) {
			cookies[cookie.Name] = cookie
		}
		change(cookies["shop_guest"], cookies["shop_cart"])
		mallory.http.Jar.SetCookies(mallory.address(), []*http.Cookie{cookies["shop_guest"], cookies["shop_cart"]})
		t.Log(name)
		mallory.get("/cart").want(200, "/cart", "Your cart is empty")
		mallory.post("/checkout", form).want(200, "/cart", "Nothing was ordered")
	}
	s.wantOrders(0)
}

func TestFormsOfOtherSites(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	form := b.checkoutForm("pm_ok")
	for _, header := range []http.Header{
		{"Sec-Fetch-Site": {"cross-site"}}, {"Sec-Fetch-Site": {"same-site"}}, {"Origin": {"https://evil.example"}},
	} {
		b.do(http.MethodPost, "/checkout", form, header).want(403, "/checkout", "did not come from this shop")
		b.do(http.MethodPost, "/cart", url.Values{"action": {"remove"}, "sku": {"MUG-ONCE"}}, header).want(403, "/cart")
	}
	s.wantOrders(0)
	b.get("/cart").want(200, "/cart", "The Once Mug")
	b.do(http.MethodPost, "/checkout", form, http.Header{"Sec-Fetch-Site": {"same-origin"}}).want(200, "/orders/")
}

func TestLargeForms(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	s.browser().post("/cart", url.Values{"action": {strings.Repeat("x", 64<<10)}}).want(413, "/cart")
	s.browser().post("/cart", url.Values{"action": {strings.Repeat("x", 60<<10)}}).want(400, "/cart")
}

func TestCartFitsIntoItsCookie(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	for i := range 21 {
		sku := fmt.Sprintf("%02d", i) + strings.Repeat("X", 62)
		if err := s.pages.Orders.AddProduct(t.Context(),
			orders.Product{SKU: sku, Name: sku, Currency: "EUR", UnitPrice: 100}, 9); err != nil {
			t.Fatal(err)
		}
		b.add(sku)
	}
	page := b.get("/cart")
	if n := strings.Count(page.body, `class="line"`); n != 20 {
		t.Errorf("%d lines, want 20", n)
	}
	b.post("/cart", url.Values{"action": {"add"}, "sku": {"MUG-ONCE"}, "quantity": {"1"}}).want(200, "/cart",
		"cannot hold more")
	for _, cookie := range b.http.Jar.Cookies(b.address()) {
		if len(cookie.Value) > 4000 {
			t.Errorf("%s has %d bytes", cookie.Name, len(cookie.Value))
		}
	}
}

func TestStaticFiles(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	home := b.get("/").body
	for _, path := range regexp.MustCompile(`/static/[^"]+`).FindAllString(home, -1) {
		got := b.get(path)
		if got.status != 200 || got.header.Get("Cache-Control") != "public, max-age=31536000, immutable" ||
			got.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v", path, got.status, got.header)
		}
		plain, _, _ := strings.Cut(path, "?")
		if got := b.get(plain); got.header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %v", plain, got.header)
		}
		if again := b.do(http.MethodGet, plain, nil,
			http.Header{"If-None-Match": {got.header.Get("ETag")}}); again.status != 304 {
			t.Errorf("%s with its ETag: %d, want 304", plain, again.status)
		}
	}
	for path, header := range map[string]http.Header{
		"/static/style.css":           {"Accept-Encoding": {"gzip"}},
		"/static/vendor/htmx.min.js":  {"Accept-Encoding": {"gzip"}, "Range": {"bytes=0-99"}},
		"/static/font/fraunces.woff2": {"Accept-Encoding": {"gzip"}},
		"/static/shop.js":             {"Accept-Encoding": {"br"}},
	} {
		want := ""
		if path == "/static/style.css" {
			want = "gzip"
		}
		if got := b.do(http.MethodGet, path, nil, header); got.header.Get("Content-Encoding") != want {
			t.Errorf("%s: %d %v, want the encoding %q", path, got.status, got.header, want)
		}
	}
	for _, path := range []string{"/static/", "/static/art", "/static/art/", "/static/no.css", "/static/../web.go",
		"/static/%2e%2e/web.go"} {
		b.get(path).want(404, "/", "Page not found")
	}
}

// U+0000 and broken UTF-8 in any field of any form are the browser's mistake.
func TestFormsThatAreNotText(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.add("MUG-ONCE")
	order := b.post("/checkout", b.checkoutForm("pm_declined")).want(200, "/orders/")
	b.add("PIN-KEY")
	for path, fields := range map[string]string{"/cart": "action sku quantity",
		"/checkout": "key email payment_method total currency again", order.path + "/pay": "try payment_method"} {
		for _, field := range append(strings.Fields(fields), "more", "\x00") {
			for _, text := range []string{"\x00", "a\x00b", "\xff"} {
				form := url.Values{"action": {"add"}, "sku": {"PIN-KEY"}, "quantity": {"1"}, "try": {"1"}}
				form.Set(field, text)
				b.post(path, form).want(400, path)
			}
		}
	}
	s.wantOrders(1)
}
