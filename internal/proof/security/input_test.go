package security_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/orders"
)

func TestInput(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)

	t.Run("Keys", func(t *testing.T) {
		t.Parallel()
		body := apptest.OrderBody("keys@example.com", "MUG-ONCE", 1)
		post := func(headers string) int {
			return sendRaw(t, shop.Nodes[0],
				fmt.Sprintf("POST /v1/orders HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "+
					"demo-alice\r\n%sContent-Length: %d\r\n\r\n%s", headers, len(body), body))
		}
		for name, headers := range map[string]string{
			"none": "", "empty": "Idempotency-Key:\r\n", "empty and quoted": "Idempotency-Key: \"\"\r\n",
			"256 characters": "Idempotency-Key: " + strings.Repeat("k", 256) + "\r\n",
			"two":            "Idempotency-Key: a\r\nIdempotency-Key: b\r\n", "a space": "Idempotency-Key: a b\r\n",
			"a tab": "Idempotency-Key: a\tb\r\n", "NUL": "Idempotency-Key: a\x00b\r\n",
			"a bell": "Idempotency-Key: a\ab\r\n", "escape": "Idempotency-Key: a\x1bb\r\n",
			"delete": "Idempotency-Key: a\x7fb\r\n", "a carriage return": "Idempotency-Key: a\rb\r\n",
			"UTF-8":                 "Idempotency-Key: schlüssel\r\n",
			"a quoted control byte": "Idempotency-Key: \"a\x01b\"\r\n",
		} {
			if status := post(headers); status != http.StatusBadRequest {
				t.Errorf("%s: %d, want 400", name, status)
			}
		}
		if n := shop.Count(t, "SELECT count(*) FROM orders WHERE email = 'keys@example.com'"); n != 0 {
			t.Errorf("%d orders", n)
		}
		if status := post("Idempotency-Key: " + strings.Repeat("k", 255) + "\r\n"); status != http.StatusCreated {
			t.Errorf("255 characters: %d, want 201", status)
		}
	})
	t.Run("OwnPrice", func(t *testing.T) {
		t.Parallel()
		alice := shop.Alice(t)
		good := apptest.OrderBody("price@example.com", "MUG-ONCE", 2)
		for _, field := range []string{`"total":1`, `"status":"paid"`, `"customer_id":"` + missing + `"`,
			`"id":"` + missing + `"`} {
			expect(t, field, alice.Post(t.Context(), "/v1/orders", "own-price",
				strings.Replace(good, "{", "{"+field+",", 1)), http.StatusBadRequest, "invalid_request")
		}
		expect(t, "a line's price", alice.Post(t.Context(), "/v1/orders", "own-price",
			strings.Replace(good, `"sku"`, `"unit_price":1,"sku"`, 1)), http.StatusBadRequest, "invalid_request")
		placed := alice.Post(t.Context(), "/v1/orders", "own-price", good)
		var order orders.Order
		placed.JSON(t, &order)
		if placed.Status != http.StatusCreated || order.Total != 2*1400 {
			t.Fatalf("placed: %d %s", placed.Status, placed.Body)
		}
		pay := "/v1/orders/" + order.ID.String() + "/charges"
		expect(t, "a charge's amount", alice.Post(t.Context(), pay, "own-price",
			`{"payment_method":"pm_ok","amount":1}`), http.StatusBadRequest, "invalid_request")
		expect(t, "a charge", alice.Post(t.Context(), pay, "own-price", `{"payment_method":"pm_ok"}`),
			http.StatusCreated, "")
		if captures := shop.Captures(t, order.ID.String()); len(captures) != 1 || captures[0].Amount != order.Total {
			t.Errorf("the provider took %+v", captures)
		}
	})
}

// cardNumber is Visa's for tests.
const cardNumber = "4242424242424242"

// The search for card numbers costs no more than reading the request, in a form, a key and a body
// that was compressed. The limit here is long because the machine may be busy.
func TestCardSearchIsCheap(t *testing.T) {
	t.Parallel()
	const much = 5 * time.Second
	shop := apptest.Start(t, 1)
	groups := strings.Repeat("4242424242424241-", 3800)
	ids := strings.Repeat("42424242-4242-4242-9242-424242424242 ", 1700)
	for name, text := range map[string]string{"groups": groups, "ids": ids, "pairs": strings.Repeat("42 ", 21000)} {
		for what, answer := range map[string]func() apitest.Response{
			"a form": func() apitest.Response {
				return submit(t, shop.Nodes[0]+"/cart", nil, url.Values{"sku": {text[:60<<10]}})
			},
			"a key": func() apitest.Response {
				header := bearer("demo-alice")
				header.Set("Idempotency-Key", text[:12<<10])
				return send(t, http.MethodPost, shop.Nodes[0]+"/v1/orders", header, []byte("{}"))
			},
			"gzip": func() apitest.Response {
				header := bearer("demo-alice")
				header.Set("Idempotency-Key", "k")
				header.Set("Content-Encoding", "gzip")
				body := zipped(t, `{"email":"`+text[:60<<10]+`"}`)
				return send(t, http.MethodPost, shop.Nodes[0]+"/v1/orders", header, body)
			},
		} {
			begin := time.Now()
			if got := answer(); got.Status != http.StatusBadRequest || time.Since(begin) > much {
				t.Errorf("%s in %s: %d after %s", name, what, got.Status, time.Since(begin))
			}
		}
	}
}

// A card number is refused wherever it is sent, and leaves no trace.
func TestCardNumbers(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	alice, admin := shop.Alice(t), shop.Admin(t)
	order, charge := buy(t, alice, "mine")
	path := "/v1/orders/" + order.ID.String()
	mug := apptest.OrderBody("buyer@example.com", "MUG-ONCE", 1)

	for _, card := range []string{cardNumber, "4242 4242 4242 4242", "4242-4242-4242-4242", "378282246310005",
		"pan: 5555555555554444", "4242.4242.4242.4242", "4242/4242/4242/4242", "4242\u00a04242\u00a04242\u00a04242",
		"visa4242424242424242x", "４２４２４２４２４２４２４２４２"} {
		for field, body := range map[string]string{
			"email":            apptest.OrderBody(card+"@example.com", "MUG-ONCE", 1),
			"sku":              apptest.OrderBody("buyer@example.com", card, 1),
			"an unknown field": strings.Replace(mug, "{", `{"number":"`+card+`",`, 1),
			"a field's name":   strings.Replace(mug, "{", `{"`+card+`":1,`, 1),
			"inside":           strings.Replace(mug, "{", `{"card":{"numbers":["`+card+`"]},`, 1),
		} {
			answer := alice.Post(t.Context(), "/v1/orders", "card", body)
			expect(t, card+" as "+field, answer, http.StatusBadRequest, "invalid_request")
			if !strings.Contains(string(answer.Body), "payment card number") ||
				strings.Contains(string(answer.Body), card) {
				t.Errorf("%s as %s: %s", card, field, answer.Body)
			}
		}
		expect(t, card+" as a payment method",
			alice.Post(t.Context(), path+"/charges", "card", `{"payment_method":"`+card+`"}`), http.StatusBadRequest,
			"invalid_request")
		expect(t, card+" as a reason", admin.Post(t.Context(), "/v1/charges/"+charge.ID.String()+"/refunds", "card",
			`{"reason":"`+card+`"}`), http.StatusBadRequest, "invalid_request")
		expect(t, card+" as a delivery's sku",
			admin.Post(t.Context(), "/v1/deliveries", "card", `{"lines":[{"sku":"`+card+`","quantity":1}]}`),
			http.StatusBadRequest, "invalid_request")
		expect(t, card+" as a key", alice.Post(t.Context(), "/v1/orders", card, mug), http.StatusBadRequest,
			"idempotency_key_invalid")
		expect(t, card+" as a quoted key", alice.Post(t.Context(), path+"/cancel", `"`+card+`"`, nil),
			http.StatusBadRequest, "idempotency_key_invalid")
		expect(t, card+" in a query", alice.Get(t.Context(), "/v1/orders?after="+url.QueryEscape(card)),
			http.StatusBadRequest, "invalid_request")
		expect(t, card+" in a path", alice.Get(t.Context(), "/v1/orders/"+url.PathEscape(card)), http.StatusNotFound,
			"not_found")
		checkout := url.Values{"key": {missing}, "email": {card + "@example.com"}, "payment_method": {"pm_ok"}}
		for page, form := range map[string]url.Values{
			"/cart":                         {"action": {"add"}, "sku": {card}, "quantity": {"1"}},
			"/checkout":                     checkout,
			"/orders/" + missing + "/pay":   {"payment_method": {card}, "try": {"0"}},
			"/orders/" + missing + "/again": {"x": {card}},
		} {
			answer := submit(t, shop.Nodes[0]+page, nil, form)
			if answer.Status != http.StatusBadRequest && answer.Status != http.StatusNotFound ||
				strings.Contains(string(answer.Body), card) {
				t.Errorf("%s on %s: %d %s", card, page, answer.Status, answer.Body)
			}
		}
	}
	expect(t, "as a number", alice.Post(t.Context(), "/v1/orders", "card",
		strings.Replace(mug, `"quantity":1`, `"quantity":`+cardNumber, 1)), http.StatusBadRequest, "invalid_request")
	expect(t, "in escapes", alice.Post(t.Context(), "/v1/orders", "card",
		strings.Replace(mug, "MUG-ONCE", strings.ReplaceAll(cardNumber, "2", `\u0032`), 1)),
		http.StatusBadRequest, "invalid_request")
	expect(t, "as a token", shop.Client(t, 0, cardNumber).Get(t.Context(), "/v1/orders"), http.StatusUnauthorized,
		"unauthorized")
	expect(t, "what was refused leaves the key unused", alice.Post(t.Context(), "/v1/orders", "card", mug),
		http.StatusCreated, "")
	for _, key := range []string{missing, "12345678-1234-4123-9123-123456789012", "1732500000000", "4006381333931"} {
		expect(t, key+" is no card", alice.Post(t.Context(), "/v1/orders", key, mug), http.StatusCreated, "")
	}

	traces := regexp.MustCompile(`4242[ -./]?4242|4242\x{a0}4242|４２４２|37828224|55555555555544|` +
		fmt.Sprintf("%x", cardNumber))
	if found := traces.FindString(shop.Log.String()); found != "" {
		t.Errorf("the log holds %s", found)
	}
	if log, err := os.ReadFile(shop.PSPLog); err != nil || traces.Match(log) {
		t.Errorf("the provider was told (%v)", err)
	}
	if text := everyRow(t, shop); traces.MatchString(text) {
		t.Errorf("the database holds %s", traces.FindString(text))
	} else if !strings.Contains(text, "buyer@example.com") ||
		!strings.Contains(text, fmt.Sprintf("%x", "buyer@example.com")) {
		t.Error("the database does not hold what was ordered, so this tests nothing")
	}
}

// everyRow is the whole database as text; bytes are hexadecimal in it.
func everyRow(t *testing.T, shop *apptest.Shop) string {
	t.Helper()
	rows, err := shop.Pool.Query(t.Context(),
		"SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var tables []string
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, table)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, table := range tables {
		var text string
		if err := shop.Pool.QueryRow(t.Context(),
			"SELECT coalesce(string_agg(r::text, E'\\n'), '') FROM "+table+" r").Scan(&text); err != nil {
			t.Fatal(err)
		}
		all.WriteString(text + "\n")
	}
	return all.String()
}
