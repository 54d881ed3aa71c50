package payments_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/check"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// buyers is how many pay at the same time.
const buyers = 20

// impatient shortens how long the shop waits for its provider; the windows still nest.
func impatient(c *app.Config) {
	c.ProviderTimeout, c.ChargeLease = 1500*time.Millisecond, 30*time.Second
}

func placeOver(t *testing.T, client *apitest.Client, key string) (order orders.Order) {
	t.Helper()
	answer := client.Post(t.Context(), "/v1/orders", key, apptest.OrderBody("alice@example.com", "MUG-ONCE", 1))
	if answer.Status != http.StatusCreated {
		t.Errorf("order: %d %s", answer.Status, answer.Body)
	}
	answer.JSON(t, &order)
	return order
}

func chargePath(order orders.Order) string { return "/v1/orders/" + order.ID.String() + "/charges" }

// persist sends the request again, with the same key, whenever nobody knows what came of it: as
// every client should.
func persist(t *testing.T, client *apitest.Client, path, key, body string) apitest.Response {
	t.Helper()
	for {
		answer, err := client.Try(t.Context(), http.MethodPost, path, key, body)
		var p struct{ Code string }
		if err == nil && answer.Status == http.StatusConflict {
			answer.JSON(t, &p)
		}
		if err == nil && answer.Status != http.StatusAccepted && answer.Status < 500 &&
			p.Code != "request_in_progress" {
			return answer
		}
		select {
		case <-time.After(200*time.Millisecond + rand.N(200*time.Millisecond)):
		case <-t.Context().Done():
			return answer
		}
	}
}

// Every way in which a provider can behave: a client that retries as it should ends with one
// answer, and the provider took the money of each order once.
func TestEveryPaymentMethodTakesTheMoneyOnce(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 2, impatient)
	t.Cleanup(func() {
		consistent(t, check.Sources{DB: shop.Pool, ProviderURL: shop.Config.PSPURL, MailboxURL: shop.Mailbox})
	})
	// Those that take their time come first.
	methods := []string{"pm_timeout_before_capture", "pm_error_before_capture", "pm_timeout_after_capture", "pm_slow",
		"pm_error_after_capture", "pm_webhook_storm", "pm_webhook_first", "pm_declined", "pm_insufficient_funds",
		"pm_ok"}
	placed, answers := make([]orders.Order, len(methods)*buyers), make([]apitest.Response, len(methods)*buyers)
	pay := func(i, node int) (client *apitest.Client, path, key, body string) {
		return shop.Client(t, node%2, "demo-alice"), chargePath(placed[i]), fmt.Sprint("c", i),
			`{"payment_method":"` + methods[i/buyers] + `"}`
	}
	var lanes errgroup.Group
	lanes.SetLimit(4)
	for m := range methods {
		lanes.Go(func() error {
			copy(answers[m*buyers:], shoptest.Race(buyers, func(i int) apitest.Response {
				i += m * buyers
				placed[i] = placeOver(t, shop.Client(t, i%2, "demo-alice"), fmt.Sprint(i))
				client, path, key, body := pay(i, i)
				return persist(t, client, path, key, body)
			}))
			return nil
		})
	}
	_ = lanes.Wait() // no lane fails: the answers tell
	logged := captured(t, shop.PSPLog)
	for i, answer := range answers {
		method, status := methods[i/buyers], http.StatusCreated
		if method == "pm_declined" || method == "pm_insufficient_funds" {
			status = http.StatusPaymentRequired
		}
		expectSettled(t, shop, method, placed[i], answer, status, logged[placed[i].ID.String()])
		client, path, key, body := pay(i, i+1)
		again := client.Post(t.Context(), path, key, body)
		if again.Status != answer.Status || !bytes.Equal(again.Body, answer.Body) ||
			again.Header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("%s again: %d %s, first %d %s", method, again.Status, again.Body, answer.Status, answer.Body)
		}
	}
}

// expectSettled compares what a client was told with the order and with the provider's two records.
func expectSettled(t *testing.T, shop *apptest.Shop, method string, order orders.Order, answer apitest.Response,
	status int, logged int64) {
	t.Helper()
	if answer.Status != status {
		t.Errorf("%s: got %d %s, want %d", method, answer.Status, answer.Body, status)
		return
	}
	took, captures := int64(0), shop.Captures(t, order.ID.String())
	for _, capture := range captures {
		if capture.Status == payments.CaptureSucceeded {
			took += capture.Amount
		}
	}
	want, end := order.Total, orders.Paid
	if status == http.StatusPaymentRequired {
		want, end = 0, orders.Placed
	}
	if len(captures) != 1 || took != want || logged != want {
		t.Errorf("%s, order %s of %d: the provider took %d, its log says %d, %+v", method, order.ID, order.Total, took,
			logged, captures)
	}
	var now orders.Order
	shop.Alice(t).Get(t.Context(), "/v1/orders/"+order.ID.String()).JSON(t, &now)
	if now.Status != end {
		t.Errorf("%s: order %s is %s, want %s", method, order.ID, now.Status, end)
	}
}

// captured is what the provider's log says it took for each order.
func captured(t *testing.T, path string) map[string]int64 {
	t.Helper()
	log, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	sums := map[string]int64{}
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		var line struct {
			Type    string
			Capture payments.Capture
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			continue // the last line is being written
		}
		if line.Type == "capture" && line.Capture.Status == payments.CaptureSucceeded {
			sums[line.Capture.OrderID] += line.Capture.Amount
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return sums
}

// outage is a proxy before the provider that cuts every connection while it is down.
func outage(t *testing.T, down *atomic.Bool) func(*app.Config) {
	return func(c *app.Config) {
		upstream, err := url.Parse(c.PSPURL)
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{}
		proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(upstream)
		}}
		listening := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if down.Load() {
				panic(http.ErrAbortHandler)
			}
			proxy.ServeHTTP(w, r)
		}))
		t.Cleanup(func() {
			listening.Close()
			transport.CloseIdleConnections()
		})
		c.PSPURL = listening.URL
	}
}

// The provider is away under twenty charges: nobody is told that a payment failed, nobody can pay
// again, and all is settled when it is back. The outage lasts until the reconciler has looked in
// vain.
func TestProviderDown(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	var down atomic.Bool
	shop := apptest.Start(t, 2, impatient, outage(t, &down))
	t.Cleanup(func() {
		consistent(t, check.Sources{DB: shop.Pool, ProviderURL: shop.Config.PSPURL, MailboxURL: shop.Mailbox})
	})
	placed := make([]orders.Order, buyers)
	for i := range placed {
		placed[i] = placeOver(t, shop.Client(t, i%2, "demo-alice"), fmt.Sprint(i))
	}
	const ok = `{"payment_method":"pm_ok"}`
	down.Store(true)
	charge := func(node int, key string) func(int) apitest.Response {
		return func(i int) apitest.Response {
			return shop.Client(t, (i+node)%2, "demo-alice").Post(t.Context(), chargePath(placed[i]),
				fmt.Sprint(key, i), ok)
		}
	}
	for i, first := range shoptest.Race(buyers, charge(0, "c")) {
		if first.Status != http.StatusAccepted {
			t.Errorf("while it is down: %d %s", first.Status, first.Body)
		}
		if again := charge(1, "c")(i); again.Status != http.StatusAccepted || !bytes.Equal(again.Body, first.Body) {
			t.Errorf("the key again: %d %s", again.Status, again.Body)
		}
		if other := charge(0, "another")(i); other.Status != http.StatusConflict ||
			!bytes.Contains(other.Body, []byte(`"charge_in_progress"`)) {
			t.Errorf("another key: %d %s", other.Status, other.Body)
		}
	}
	// A charge that is being worked on is leased for longer than the longest pause.
	shoptest.Eventually(t, within, "the reconciler has looked at every charge", func() bool {
		return shop.Count(t, "SELECT count(*) FROM charges WHERE attempt > 1 AND lease_until BETWEEN now() AND "+
			"now() + interval '20 seconds'") == buyers
	})
	if n := shop.Count(t, "SELECT count(*) FROM charges WHERE status <> 'unknown'"); n != 0 {
		t.Errorf("%d charges are not unknown", n)
	}

	down.Store(false)
	back := time.Now()
	shop.Exec(t, "UPDATE charges SET lease_until = now() WHERE status = 'unknown'") // the pause is over
	answers := shoptest.Race(buyers, func(i int) apitest.Response {
		return persist(t, shop.Client(t, i%2, "demo-alice"), chargePath(placed[i]), fmt.Sprint("c", i), ok)
	})
	t.Logf("all is settled %s after the provider is back", time.Since(back).Round(time.Millisecond))
	logged := captured(t, shop.PSPLog)
	for i, answer := range answers {
		expectSettled(t, shop, "pm_ok", placed[i], answer, http.StatusCreated, logged[placed[i].ID.String()])
	}
}
