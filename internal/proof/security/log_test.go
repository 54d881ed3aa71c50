package security_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// logLines are the lines of the log with this message, by their request id.
func logLines(t *testing.T, shop *apptest.Shop, message string) map[string]map[string]any {
	t.Helper()
	lines := map[string]map[string]any{}
	for scanner := bufio.NewScanner(strings.NewReader(shop.Log.String())); scanner.Scan(); {
		var line map[string]any
		if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line["msg"] == message {
			lines[fmt.Sprint(line["request_id"])] = line
		}
	}
	return lines
}

func ownerOf(t *testing.T, shop *apptest.Shop, email string) (id string) {
	t.Helper()
	const query = "SELECT id::text FROM customers WHERE email = $1"
	if err := shop.Pool.QueryRow(t.Context(), query, email).Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

// Who was refused is in the log and counted; who operated is in the log by name.
func TestRefusedAndOperatorsAreLogged(t *testing.T) {
	t.Parallel()
	limit := 1
	shop := apptest.Start(t, 1, func(c *app.Config) { c.Demo, c.PerToken = false, &limit })
	service := accounts.New(shop.Pool, false)
	admin, err := service.IssueToken(t.Context(), "olga@example.com", true)
	if err != nil {
		t.Fatal(err)
	}
	customer, err := service.IssueToken(t.Context(), "carol@example.com", false)
	if err != nil {
		t.Fatal(err)
	}
	carol, olga := ownerOf(t, shop, "carol@example.com"), ownerOf(t, shop, "olga@example.com")
	request := func(token, id string) http.Header {
		header := bearer(token)
		header.Set("X-Request-Id", id)
		header.Set("Idempotency-Key", id)
		return header
	}
	base := shop.Nodes[0]
	delivery := []byte(`{"lines":[{"sku":"MUG-ONCE","quantity":1}]}`)
	send(t, http.MethodGet, base+"/v1/orders", request("nonsense", "req-401"), nil)
	send(t, http.MethodPost, base+"/v1/deliveries", request(customer, "req-403"), delivery)
	for range 20 {
		send(t, http.MethodGet, base+"/v1/orders", request(customer, "req-429"), nil)
	}
	send(t, http.MethodPost, base+"/v1/deliveries", request(admin, "req-admin"), delivery)
	session := submit(t, base+"/admin/login", http.Header{"X-Request-Id": {"req-login"}}, url.Values{"token": {admin}})
	cookie, _, _ := strings.Cut(session.Header.Get("Set-Cookie"), ";")
	submit(t, base+"/admin/orders/"+missing+"/cancel", http.Header{"X-Request-Id": {"req-form"}, "Cookie": {cookie}},
		url.Values{"key": {"form"}})
	submit(t, base+"/admin/logout", http.Header{"X-Request-Id": {"req-logout"}, "Cookie": {cookie}}, nil)

	lines := logLines(t, shop, "request")
	for id, want := range map[string]map[string]any{
		"req-401": {"status": 401.0, "peer": "127.0.0.1", "customer_id": nil},
		"req-403": {"status": 403.0, "peer": "127.0.0.1", "customer_id": carol},
		"req-429": {"status": 429.0, "peer": "127.0.0.1", "customer_id": carol},
	} {
		for field, value := range want {
			if got := lines[id][field]; got != value {
				t.Errorf("%s: %s is %v, want %v", id, field, got, value)
			}
		}
	}
	acted := logLines(t, shop, "an operator acted")
	for _, id := range []string{"req-admin", "req-login", "req-form", "req-logout"} {
		if acted[id]["operator"] != "olga@example.com" || acted[id]["customer_id"] != olga || acted[id]["route"] == "" {
			t.Errorf("%s: %v", id, acted[id])
		}
	}
	if acted["req-403"] != nil {
		t.Errorf("a customer is logged as an operator: %v", acted["req-403"])
	}
	metrics := string(get(t, shop.Ops[0]+"/metrics").Body)
	for _, status := range []string{"401", "403", "429"} {
		series := `onceshop_refused_requests_total{status="` + status + `"}`
		if !strings.Contains(metrics, series) || strings.Contains(metrics, series+" 0\n") {
			t.Errorf("%s is not counted", status)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	for id, kept := range map[string]bool{"abc": true, strings.Repeat("~", 128): true, "a b": false, "": false,
		strings.Repeat("a", 129): false, "ä": false, cardNumber: false} {
		for _, address := range []string{shop.Nodes[0] + "/v1/orders", shop.Nodes[0] + "/", shop.Nodes[0] + "/nowhere",
			shop.Ops[0] + "/healthz"} {
			answer := send(t, http.MethodGet, address, http.Header{"X-Request-Id": {id}}, nil)
			if got := answer.Header.Get("X-Request-Id"); got == "" || kept != (got == id) {
				t.Errorf("%s: id %q is answered with %q", address, id, got)
			}
		}
	}
	if strings.Contains(shop.Log.String(), cardNumber) {
		t.Error("the log holds a card number")
	}
}

// One warning, whatever number of requests.
func TestUnnamedProxyIsReported(t *testing.T) {
	t.Parallel()
	for name, proxies := range map[string][]string{"unnamed": nil, "another": {"10.0.0.0/8"}, "named": {"127.0.0.1"}} {
		shop := apptest.Start(t, 1, func(c *app.Config) { c.TrustedProxies = proxies })
		get(t, shop.Nodes[0]+"/")
		if n := strings.Count(shop.Log.String(), "SHOP_TRUSTED_PROXIES"); n != 0 {
			t.Errorf("%s: %d warnings without a proxy", name, n)
		}
		for range 3 {
			for _, header := range []string{"X-Forwarded-For", "X-Real-Ip", "Forwarded"} {
				send(t, http.MethodGet, shop.Nodes[0]+"/", http.Header{header: {"192.0.2.1"}}, nil)
			}
		}
		want := 1
		if name == "named" {
			want = 0
		}
		if n := strings.Count(shop.Log.String(), "SHOP_TRUSTED_PROXIES"); n != want {
			t.Errorf("%s: %d warnings, want %d", name, n, want)
		}
	}
}

// A client that hangs up is no error of the shop.
func TestClientHangsUp(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	lock, err := shop.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // the test is over
	if _, err := lock.Exec(t.Context(), "LOCK TABLE orders, products IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/orders", "/orders/" + missing} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, shop.Nodes[0]+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer demo-alice")
		request.Header.Set("X-Request-Id", "gone"+strings.ReplaceAll(path, "/", "-"))
		answer, err := client.Do(request)
		if err == nil {
			_ = answer.Body.Close()
			t.Fatalf("%s: the answer came", path)
		}
		cancel()
		shoptest.Eventually(t, within, "the request is logged", func() bool {
			line := logLines(t, shop, "request")[request.Header.Get("X-Request-Id")]
			return line != nil && line["status"] == 499.0 && line["level"] == "INFO"
		})
	}
	if strings.Contains(shop.Log.String(), `"level":"ERROR"`) {
		t.Errorf("an error: %s", shop.Log.String())
	}
}
