package web_test

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

func TestProductPage(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	b.get("/").want(200, "/", `href="/products/MUG-ONCE"`)
	b.get("/products/MUG-ONCE").want(200, "/products/", "The Once Mug", "Made once.", "€14.00", "10 in stock",
		`max="10"`,
		"/static/art/mug-once.svg", `href="/products/PIN-KEY"`, `href="/products/LAST-ONE"`).without("of this shop")
	b.post("/cart", url.Values{"action": {"add"}, "sku": {"MUG-ONCE"}, "quantity": {"3"}}).want(200, "/cart",
		"In your cart: 3 × The Once Mug.", `href="/products/MUG-ONCE"`)
	for _, sku := range []string{"NO-SUCH", "mug-once", "MUG-ONCE%00", "../cart", "%2e%2e"} {
		b.get("/products/"+sku).want(404, "/", `href="/"`)
	}
	b.get("/products/NO-SUCH").want(404, "/products/", "Product not found")
}

func TestSoldOut(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	fast, slow := s.browser(), s.browser()
	fast.add("LAST-ONE")
	fast.post("/checkout", fast.checkoutForm("pm_ok")).want(200, "/orders/", "Paid, once")
	slow.get("/products/LAST-ONE").want(200, "/products/", "Sold out").without("Add to cart</button>")
	slow.get("/").want(200, "/", "Sold out")
}

// A page, its style sheets and its scripts must fit into 100 KB, as they are without compression.
func TestPagesAreSmall(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	weigh := func(page answer) {
		t.Helper()
		sum, parts := len(page.body), []string{fmt.Sprint("HTML ", len(page.body))}
		files := regexp.MustCompile(`(?:src|href)="(/static/[^"]+\.(?:css|js)\?[^"]+)"`)
		for _, found := range files.FindAllStringSubmatch(page.body, -1) {
			file := b.get(found[1])
			sum += len(file.body)
			parts = append(parts, fmt.Sprint(found[1], " ", len(file.body)))
		}
		if sum > 100_000 || len(parts) < 4 {
			t.Errorf("%s has %d bytes: %s", page.path, sum, strings.Join(parts, ", "))
		}
		t.Log(page.path, sum)
	}
	for _, path := range []string{"/", "/products/MUG-ONCE", "/cart", "/orders", "/nowhere"} {
		weigh(b.get(path))
	}
	b.add("MUG-ONCE")
	weigh(b.get("/cart"))
	weigh(b.get("/checkout"))
	order := b.post("/checkout", b.checkoutForm("pm_ok")).want(200, "/orders/", "hx-sse.min.js")
	weigh(order)
	weigh(b.get(order.path + "/receipt"))
	weigh(b.get("/orders"))
}
