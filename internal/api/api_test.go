package api_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/api"
	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/problem"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const mug = `{"email":"alice@example.com","lines":[{"sku":"MUG-ONCE","quantity":2}]}`

func TestRetryGetsTheSameBytes(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	alice := shop.Alice(t)
	first := alice.Post(t.Context(), "/v1/orders", "k1", mug)
	expect(t, first, 201, "")
	if first.Header.Get("Idempotent-Replayed") != "" {
		t.Error("the first answer says that it is a replay")
	}
	for name, again := range map[string]apitest.Response{
		"same bytes": alice.Post(t.Context(), "/v1/orders", "k1", mug),
		"quoted key": alice.Post(t.Context(), "/v1/orders", `"k1"`, mug),
		"other key order": alice.Post(t.Context(), "/v1/orders", "k1",
			`{"lines":[{"quantity":2,"sku":"MUG-ONCE"}],"email":"alice@example.com"}`),
		"other whitespace": alice.Post(t.Context(), "/v1/orders", "k1",
			"\n{ \"email\" : \"alice@example.com\",\t\"lines\":[ {\"sku\":\"MUG-ONCE\",\"quantity\":2} ] }\n"),
	} {
		if again.Status != 201 || !bytes.Equal(again.Body, first.Body) {
			t.Errorf("%s: got %d %s", name, again.Status, again.Body)
		}
		if again.Header.Get("Idempotent-Replayed") != "true" ||
			again.Header.Get("Location") != first.Header.Get("Location") {
			t.Errorf("%s: headers %v", name, again.Header)
		}
	}
	if n := shop.Count(t, "SELECT count(*) FROM orders"); n != 1 {
		t.Errorf("%d orders", n)
	}
}

// A replay must not depend on the memory of the node that made the answer.
func TestOtherNodeReplaysTheSameBytes(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 2)
	first := shop.Alice(t).Post(t.Context(), "/v1/orders", "k1", mug)
	again := shop.Client(t, 1, "demo-alice").Post(t.Context(), "/v1/orders", "k1", mug)
	if again.Status != 201 || !bytes.Equal(again.Body, first.Body) ||
		again.Header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("got %d %s %v", again.Status, again.Body, again.Header)
	}
}

func TestReusedKeyWritesNothing(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 2)
	expect(t, shop.Alice(t).Post(t.Context(), "/v1/orders", "k1", mug), 201, "")
	before := rows(t, shop)
	for node := range shop.Nodes {
		for _, body := range []string{strings.Replace(mug, "2", "3", 1),
			strings.Replace(mug, "MUG-ONCE", "PIN-KEY", 1), strings.Replace(mug, "alice@", "alicia@", 1)} {
			expect(t, shop.Client(t, node, "demo-alice").Post(t.Context(), "/v1/orders", "k1", body), 422,
				"idempotency_key_reused")
		}
	}
	if after := rows(t, shop); after != before {
		t.Errorf("rows before %s, after %s", before, after)
	}
}

func TestKeyRules(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	alice := shop.Alice(t)
	expect(t, alice.Post(t.Context(), "/v1/orders", "", mug), 400, "idempotency_key_missing")
	for _, bad := range []string{`""`, strings.Repeat("k", 256), "two words", "ümlaut", `"open`, `"a"b`, "tab\there"} {
		expect(t, alice.Post(t.Context(), "/v1/orders", bad, mug), 400, "idempotency_key_invalid")
	}
	for _, good := range []string{"k", strings.Repeat("k", 255), "!~", `"quoted"`} {
		expect(t, alice.Post(t.Context(), "/v1/orders", good, mug), 201, "")
	}
	for _, path := range []string{"/v1/orders/01a209a1-5904-7607-86fe-0d10d0f6ba14/charges", "/v1/deliveries"} {
		expect(t, shop.Admin(t).Post(t.Context(), path, "", "{}"), 400, "idempotency_key_missing")
	}
}

// What did not change anything leaves the key unused.
func TestRefusedRequestsLeaveTheKeyUnused(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	alice := shop.Alice(t)
	expect(t, alice.Post(t.Context(), "/v1/orders", "k", `{"email":"nobody","lines":[]}`), 400, "invalid_request")
	expect(t, alice.Post(t.Context(), "/v1/orders", "k", apptest.OrderBody("alice@example.com", "NO-SUCH", 1)), 400,
		"unknown_sku")
	two := apptest.OrderBody("alice@example.com", "LAST-ONE", 2)
	short := alice.Post(t.Context(), "/v1/orders", "k", two)
	expect(t, short, 409, "out_of_stock")
	var p struct{ Items []orders.Shortage }
	short.JSON(t, &p)
	if len(p.Items) != 1 || p.Items[0] != (orders.Shortage{SKU: "LAST-ONE", Requested: 2, Available: 1}) {
		t.Errorf("items %+v", p.Items)
	}
	expect(t, shop.Admin(t).Post(t.Context(), "/v1/deliveries", "d1", `{"lines":[{"sku":"LAST-ONE","quantity":1}]}`),
		201, "")
	expect(t, alice.Post(t.Context(), "/v1/orders", "k", two), 201, "")
}

//nolint:tparallel // the group ends with its subtests, before the rows are counted
func TestStrictBodies(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	alice := shop.Alice(t)
	line := `{"sku":"MUG-ONCE","quantity":%s}`
	body := func(quantity string) string {
		return `{"email":"alice@example.com","lines":[` + fmt.Sprintf(line, quantity) + `]}`
	}
	bad := map[string]string{
		"empty": "", "null": "null", "array": "[]", "not JSON": "email=a", "cut off": mug[:40],
		"trailing data": mug + "{}", "trailing word": mug + " x",
		"unknown field":     strings.Replace(mug, `"email"`, `"total":1,"email"`, 1),
		"customer":          strings.Replace(mug, `"email"`, `"customer_id":"x","email"`, 1),
		"status":            strings.Replace(mug, `"email"`, `"status":"paid","email"`, 1),
		"unknown in a line": strings.Replace(mug, `"sku"`, `"unit_price":1,"sku"`, 1),
		"duplicate":         strings.Replace(mug, `"email"`, `"email":"b@example.com","email"`, 1),
		"wrong case":        strings.Replace(mug, `"email"`, `"Email"`, 1),
		"wrong type":        strings.Replace(mug, `"alice@example.com"`, "7", 1),
		"lines no array":    `{"email":"alice@example.com","lines":{}}`,
		"no lines":          `{"email":"alice@example.com","lines":[]}`,
		"lines missing":     `{"email":"alice@example.com"}`,
		"email missing":     strings.Replace(mug, `"email":"alice@example.com",`, "", 1),
		"invalid UTF-8":     strings.Replace(mug, "alice", "al\xffce", 1),
		"quantity 0":        body("0"), "quantity -1": body("-1"), "quantity 2^31": body("2147483648"),
		"quantity 1e400": body("1e400"), "quantity 1.5": body("1.5"), "quantity text": body(`"1"`),
		"quantity null": body("null"), "header injection": apptest.OrderBody("a@example.com\r\nBcc: b@example.com",
			"MUG-ONCE", 1), "no email": apptest.OrderBody("nobody", "MUG-ONCE", 1),
	}
	before := rows(t, shop)
	t.Run("bad", func(t *testing.T) {
		for name, b := range bad {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				expect(t, alice.Post(t.Context(), "/v1/orders", "k", []byte(b)), 400, "invalid_request")
			})
		}
	})
	if after := rows(t, shop); after != before {
		t.Errorf("rows before %s, after %s", before, after)
	}
}

// An error names what is wrong and where.
func TestErrorsNameTheField(t *testing.T) {
	t.Parallel()
	alice := apptest.Start(t, 1).Alice(t)
	for body, want := range map[string]string{
		strings.Replace(mug, `"sku"`, `"size":1,"sku"`, 1): "lines[0].size: is not a field",
		strings.Replace(mug, "2", "-2",
			1): "lines[0].quantity: must be a whole number from 1",
		strings.Replace(mug, "2", `"2"`, 1):                   "lines[0].quantity: must be a whole number",
		strings.Replace(mug, "alice@example.com", "alice", 1): "email: must be an email address",
		strings.Replace(mug, `"email"`, `"email":"b@b.de","email"`,
			1): "email: is not valid JSON: duplicate object member name",
	} {
		answer := alice.Post(t.Context(), "/v1/orders", "k", body)
		var p problem.Problem
		answer.JSON(t, &p)
		if !strings.HasPrefix(p.Detail, want) {
			t.Errorf("%s\n got %q\nwant %q…", body, p.Detail, want)
		}
	}
}

func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	order := place(t, shop.Alice(t), "a1", mug)
	charged := shop.Alice(t).Post(t.Context(), "/v1/orders/"+order.ID.String()+"/charges", "c1",
		`{"payment_method":"pm_ok"}`)
	var charge payments.Charge
	charged.JSON(t, &charge)

	for _, token := range []string{"", "wrong", "demo-alice2"} {
		nobody := shop.Client(t, 0, token)
		for _, path := range []string{"/v1/orders", "/v1/orders/" + order.ID.String(),
			"/v1/charges/" + charge.ID.String()} {
			answer := nobody.Get(t.Context(), path)
			expect(t, answer, 401, "unauthorized")
			if answer.Header.Get("WWW-Authenticate") != "Bearer" {
				t.Error("no WWW-Authenticate")
			}
		}
		expect(t, nobody.Post(t.Context(), "/v1/orders", "k", mug), 401, "unauthorized")
		expect(t, nobody.Get(t.Context(), "/v1/products"), 200, "")
	}
	// Another customer's object is exactly like one that does not exist.
	missing := "01a209a1-5904-7607-86fe-0d10d0f6ba14"
	for _, path := range []string{"/v1/orders/%s", "/v1/charges/%s"} {
		for _, id := range []string{order.ID.String(), charge.ID.String(), "nonsense", "%00"} {
			got, want := shop.Bob(t).Get(t.Context(), fmt.Sprintf(path, id)),
				shop.Bob(t).Get(t.Context(), fmt.Sprintf(path, missing))
			expect(t, got, 404, "not_found")
			if !bytes.Equal(got.Body, want.Body) {
				t.Errorf("%s differs from %s", got.Body, want.Body)
			}
		}
	}
	expect(t, shop.Bob(t).Post(t.Context(), "/v1/orders/"+order.ID.String()+"/charges", "c1",
		`{"payment_method":"pm_ok"}`), 404, "not_found")
	expect(t, shop.Alice(t).Post(t.Context(), "/v1/deliveries", "d1", `{"lines":[{"sku":"MUG-ONCE","quantity":1}]}`),
		403, "forbidden")
	expect(t, shop.Admin(t).Get(t.Context(), "/v1/orders/"+order.ID.String()), 200, "")
}

// Customer B with customer A's key gets a fresh order and nothing of A's.
func TestKeysAreScopedToTheCustomer(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	a := place(t, shop.Alice(t), "shared", mug)
	answer := shop.Bob(t).Post(t.Context(), "/v1/orders", "shared", mug)
	expect(t, answer, 201, "")
	if answer.Header.Get("Idempotent-Replayed") != "" || bytes.Contains(answer.Body, []byte(a.ID.String())) {
		t.Errorf("Bob got %s", answer.Body)
	}
	var list struct{ Orders []orders.Order }
	shop.Bob(t).Get(t.Context(), "/v1/orders").JSON(t, &list)
	if len(list.Orders) != 1 || list.Orders[0].ID == a.ID {
		t.Errorf("Bob's list: %+v", list.Orders)
	}
	// One key, two operations: they do not meet.
	expect(t, shop.Alice(t).Post(t.Context(), "/v1/orders/"+a.ID.String()+"/charges", "shared",
		`{"payment_method":"pm_ok"}`), 201, "")
}

func TestUnknownPathsAndMethods(t *testing.T) {
	t.Parallel()
	alice := apptest.Start(t, 1).Alice(t)
	for _, path := range []string{"/v1", "/v1/", "/v1/nothing", "/v1/orders/", "/v1/products/x"} {
		expect(t, alice.Get(t.Context(), path), 404, "not_found")
	}
	for method, path := range map[string]string{"DELETE": "/v1/orders", "PUT": "/v1/products",
		"PATCH": "/v1/orders/01a209a1-5904-7607-86fe-0d10d0f6ba14"} {
		answer := alice.Do(t.Context(), method, path, "", nil)
		expect(t, answer, 405, "method_not_allowed")
		if answer.Header.Get("Allow") == "" {
			t.Error("405 without Allow")
		}
	}
	huge := `{"email":"alice@example.com","lines":[` + strings.Repeat(" ", 64<<10) + `]}`
	expect(t, alice.Post(t.Context(), "/v1/orders", "k", huge), 413, "too_large")
	document := alice.Get(t.Context(), "/v1/openapi.yaml")
	if document.Status != 200 || !bytes.Equal(document.Body, api.OpenAPI) {
		t.Errorf("openapi.yaml: %d", document.Status)
	}
}

func TestListPages(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	var placed []string
	for i := range 5 {
		placed = append([]string{place(t, shop.Alice(t), fmt.Sprint("k", i), mug).ID.String()}, placed...)
	}
	place(t, shop.Bob(t), "k", mug)
	var seen []string
	after := ""
	for {
		var page struct {
			Orders  []orders.Order `json:"orders"`
			HasMore bool           `json:"has_more"`
		}
		shop.Alice(t).Get(t.Context(), "/v1/orders?limit=2"+after).JSON(t, &page)
		for _, o := range page.Orders {
			seen = append(seen, o.ID.String())
			after = "&after=" + o.ID.String()
		}
		if !page.HasMore {
			break
		}
	}
	if strings.Join(seen, " ") != strings.Join(placed, " ") {
		t.Errorf("got %v\nwant %v", seen, placed)
	}
	for _, query := range []string{"limit=0", "limit=101", "limit=x", "after=x"} {
		expect(t, shop.Alice(t).Get(t.Context(), "/v1/orders?"+query), 400, "invalid_request")
	}
}

func TestDeliveryRaisesStockOnce(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 2)
	body := `{"lines":[{"sku":"MUG-ONCE","quantity":3},{"sku":"MUG-ONCE","quantity":4}]}`
	answers := shoptest.Race(20, func(i int) apitest.Response {
		return shop.Client(t, i%2, "demo-admin").Post(t.Context(), "/v1/deliveries", "d1", body)
	})
	for _, a := range answers {
		if a.Status != 201 || !bytes.Equal(a.Body, answers[0].Body) {
			t.Errorf("got %d %s", a.Status, a.Body)
		}
	}
	if n := shop.Count(t, "SELECT available FROM stock WHERE sku = 'MUG-ONCE'"); n != 1007 {
		t.Errorf("available %d", n)
	}
	expect(t, shop.Admin(t).Post(t.Context(), "/v1/deliveries", "d1", strings.Replace(body, "3", "5", 1)), 422,
		"idempotency_key_reused")
	expect(t, shop.Admin(t).Post(t.Context(), "/v1/deliveries", "d2", `{"lines":[{"sku":"NO-SUCH","quantity":3}]}`),
		400, "unknown_sku")
}

// expect checks status and, for problems, code.
func expect(t *testing.T, got apitest.Response, status int, code string) {
	t.Helper()
	var p problem.Problem
	if status >= http.StatusBadRequest {
		got.JSON(t, &p)
	}
	if got.Status != status || p.Code != code {
		t.Errorf("got %d %s, want %d %s", got.Status, got.Body, status, code)
	}
}

func place(t *testing.T, client *apitest.Client, key, body string) orders.Order {
	t.Helper()
	answer := client.Post(t.Context(), "/v1/orders", key, body)
	expect(t, answer, 201, "")
	var order orders.Order
	answer.JSON(t, &order)
	return order
}

// rows counts everything that a request could have written.
func rows(t *testing.T, shop *apptest.Shop) string {
	t.Helper()
	var counts []string
	for _, table := range []string{"customers", "orders", "order_lines", "stock_movements", "outbox", "charges",
		"deliveries"} {
		counts = append(counts, fmt.Sprintf("%s=%d", table, shop.Count(t, "SELECT count(*) FROM "+table)))
	}
	return strings.Join(counts, " ")
}
