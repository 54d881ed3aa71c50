package security_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// flood is far more than a guest may send at once in these tests, and what trickles in while it is
// sent.
const flood = 300

// disguised pretends to come from everywhere.
func disguised(i int) http.Header {
	address := fmt.Sprintf("203.0.%d.%d", i/250, i%250)
	return http.Header{"X-Forwarded-For": {address}, "X-Real-Ip": {address}, "Forwarded": {"for=" + address}}
}

// refused sends a flood and returns how many of it got 429, with everything that belongs to it.
func refused(t *testing.T, what string, request func(i int) apitest.Response) (n int) {
	t.Helper()
	for _, answer := range shoptest.Race(flood, request) {
		if answer.Status != http.StatusTooManyRequests {
			continue
		}
		n++
		if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err != nil || seconds < 1 ||
			answer.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: 429 with %v", what, answer.Header)
		}
	}
	return n
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1, func(c *app.Config) { c.PerGuest = 1 })
	base := shop.Nodes[0]
	alice := shop.Alice(t)
	order := place(t, alice, "k") // her token is known from here on

	for what, request := range map[string]func(i int) apitest.Response{
		"products": func(i int) apitest.Response {
			return send(t, http.MethodGet, base+"/v1/products", disguised(i), nil)
		},
		"pages": func(i int) apitest.Response { return send(t, http.MethodGet, base+"/", disguised(i), nil) },
		"guessed tokens": func(i int) apitest.Response {
			header := disguised(i)
			header["Authorization"] = []string{"Bearer guess-" + strconv.Itoa(i)}
			return send(t, http.MethodGet, base+"/v1/orders", header, nil)
		},
		"forged webhooks": func(i int) apitest.Response {
			return send(t, http.MethodPost, base+"/v1/webhooks/payments", disguised(i), []byte("{}"))
		},
		"sign-ins": func(i int) apitest.Response {
			return submit(t, base+"/admin/login", disguised(i), url.Values{"token": {"guess" + strconv.Itoa(i)}})
		},
	} {
		if n := refused(t, what, request); n < flood/2 {
			t.Errorf("%s: %d of %d got 429", what, n, flood)
		}
	}
	// The API's own client holds the answer against the document.
	if answer := shop.Client(t, 0, "").Get(t.Context(), "/v1/products"); answer.Status == http.StatusTooManyRequests {
		expect(t, "products", answer, http.StatusTooManyRequests, "too_many_requests")
	}
	// From the same address: a customer, the provider and a probe.
	expect(t, "alice pays", alice.Post(t.Context(), "/v1/orders/"+order.ID.String()+"/charges", "k",
		`{"payment_method":"pm_ok"}`), http.StatusCreated, "")
	shoptest.Eventually(t, within, "the provider's event is applied", func() bool {
		return shop.Count(t, "SELECT count(*) FROM provider_events WHERE state = 'applied'") == 1
	})
	expect(t, "a probe", get(t, base+"/readyz"), http.StatusOK, "")
	expect(t, "a style sheet", get(t, base+"/static/style.css"), http.StatusOK, "")
}

// A proxy that was named is believed about who stands before it, and nobody about more.
func TestRateLimitBehindAProxy(t *testing.T) {
	t.Parallel()
	perToken := 1
	shop := apptest.Start(t, 1, func(c *app.Config) {
		c.PerGuest, c.PerToken, c.TrustedProxies = 1, &perToken, []string{"127.0.0.0/8", "10.1.2.3"}
	})
	from := func(chain string) apitest.Response {
		return send(t, http.MethodGet, shop.Nodes[0]+"/v1/products", http.Header{"X-Forwarded-For": {chain}}, nil)
	}
	if n := refused(t, "one client", func(i int) apitest.Response {
		return from(fmt.Sprintf("203.0.113.%d, 198.51.100.7, 10.1.2.3", i%250))
	}); n < flood/2 {
		t.Errorf("%d of %d got 429", n, flood)
	}
	expect(t, "another client", from("198.51.100.8"), http.StatusOK, "")

	alice := shop.Alice(t)
	if n := refused(t, "alice", func(int) apitest.Response {
		return send(t, http.MethodGet, shop.Nodes[0]+"/v1/orders",
			http.Header{"Authorization": {"Bearer " + accounts.DemoAlice}, "X-Forwarded-For": {"198.51.100.9"}}, nil)
	}); n < flood/2 {
		t.Errorf("%d of alice's %d got 429", n, flood)
	}
	// Nothing was done, so the key is good for the next try.
	shoptest.Eventually(t, within, "alice's order is placed", func() bool {
		answer := alice.Post(t.Context(), "/v1/orders", "k", apptest.OrderBody("alice@example.com", "MUG-ONCE", 1))
		return answer.Status == http.StatusCreated
	})
}

func zipped(t *testing.T, content string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := io.Copy(w, strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestBodies(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	orders, hook := shop.Nodes[0]+"/v1/orders", shop.Nodes[0]+"/v1/webhooks/payments"
	post := func(encoding string, body []byte) apitest.Response {
		header := bearer(accounts.DemoAlice)
		header["Idempotency-Key"] = []string{"k"}
		if encoding != "" {
			header["Content-Encoding"] = []string{encoding}
		}
		return send(t, http.MethodPost, orders, header, body)
	}
	mug := apptest.OrderBody("alice@example.com", "MUG-ONCE", 1)
	large := strings.Replace(mug, "{", "{"+strings.Repeat(" ", 64<<10), 1)
	bomb := zipped(t, strings.Replace(mug, "{", "{"+strings.Repeat(" ", 16<<20), 1))
	expect(t, "a large body", post("", []byte(large)), http.StatusRequestEntityTooLarge, "too_large")
	expect(t, "a large body, in small", post("gzip", zipped(t, large)), http.StatusRequestEntityTooLarge, "too_large")
	if len(bomb) > 32<<10 {
		t.Errorf("the bomb has %d bytes, so it is no bomb", len(bomb))
	}
	expect(t, "a bomb of 16 MiB", post("gzip", bomb), http.StatusRequestEntityTooLarge, "too_large")
	expect(t, "a bomb in a bomb", post("gzip, gzip", zipped(t, string(bomb))), http.StatusBadRequest, "invalid_request")
	expect(t, "a large webhook", send(t, http.MethodPost, hook, nil, []byte(large)), http.StatusRequestEntityTooLarge,
		"too_large")
	expect(t, "a bomb as a webhook, which is not inflated",
		send(t, http.MethodPost, hook, http.Header{"Content-Encoding": {"gzip"}}, bomb), http.StatusBadRequest,
		"invalid_request")
	expect(t, "a large form", submit(t, shop.Nodes[0]+"/cart", nil, url.Values{"sku": {large}}),
		http.StatusRequestEntityTooLarge, "")
	expect(t, "a bomb as a form, which is not inflated",
		submit(t, shop.Nodes[0]+"/cart", http.Header{"Content-Encoding": {"gzip"}},
			url.Values{"sku": {string(zipped(t, large))}}), http.StatusBadRequest, "")
	for encoding, body := range map[string][]byte{"gzip": []byte(mug), "br": zipped(t, mug),
		"deflate": zipped(t, mug)} {
		expect(t, "no "+encoding, post(encoding, body), http.StatusBadRequest, "invalid_request")
	}
	expect(t, "half a gzip", post("gzip", zipped(t, mug)[:30]), http.StatusBadRequest, "invalid_request")
	if n := shop.Count(t, "SELECT count(*) FROM orders"); n != 0 {
		t.Errorf("%d orders", n)
	}
	first, again := post("gzip", zipped(t, mug)), post("", []byte(mug))
	expect(t, "an order in gzip", first, http.StatusCreated, "")
	if again.Status != http.StatusCreated || !bytes.Equal(first.Body, again.Body) ||
		again.Header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("the same as it is: %d %s", again.Status, again.Body)
	}
}

// Whoever sends a byte now and then holds no connection open for long. The times are those of `shop
// serve`.
func TestSlowClients(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	shop := apptest.Start(t, 1)
	const margin = 2 * time.Second
	for name, slow := range map[string]struct {
		address, begin string
		within         time.Duration
	}{
		"a header": {shop.Nodes[0], "GET /v1/products HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
			5 * time.Second},
		"a header for operators": {shop.Ops[0],
			"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", 5 * time.Second},
		"silence": {shop.Nodes[0], "", 5 * time.Second},
		"a body": {shop.Nodes[0],
			"POST /v1/orders HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer demo-alice\r\nIdempotency-Key: " +
				"slow\r\nContent-Length: 60000\r\n\r\n{", 15 * time.Second},
		"a body in pieces": {shop.Nodes[0],
			"POST /v1/webhooks/payments HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nFFFF\r\n",
			15 * time.Second},
		"a body that nobody expects": {shop.Nodes[0],
			"GET /v1/products HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n{", 15 * time.Second},
		"a form": {shop.Nodes[0],
			"POST /cart HTTP/1.1\r\nHost: localhost\r\nContent-Type: " +
				"application/x-www-form-urlencoded\r\nContent-Length: 60000\r\n\r\nsku=", 15 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dial(t, slow.address)
			begin := time.Now()
			answer, cut := drip(conn, slow.begin, slow.within+margin)
			if !cut {
				t.Errorf("open after %s", time.Since(begin))
			}
			status, _, _ := strings.Cut(answer, "\r\n")
			if strings.Contains(status, " 5") || strings.Contains(status, " 201") {
				t.Errorf("the answer is %s", status)
			}
		})
	}
	t.Cleanup(func() {
		if log := shop.Log.String(); strings.Contains(log, `"level":"ERROR"`) {
			t.Errorf("a slow client is an error of ours: %s", log)
		}
	})
}

// drip sends one byte after another until the other side ends the connection, and returns what it
// said.
func drip(conn net.Conn, begin string, atMost time.Duration) (answer string, cut bool) {
	ended := make(chan struct{})
	go func() {
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		_, err := io.WriteString(conn, begin)
		for err == nil && begin != "" {
			select {
			case <-ended:
				return
			case <-ticker.C:
				_, err = io.WriteString(conn, "x")
			}
		}
	}()
	defer close(ended)
	_ = conn.SetReadDeadline(time.Now().Add(atMost))
	said, err := io.ReadAll(conn)
	return string(said), !errors.Is(err, os.ErrDeadlineExceeded)
}
