package security_test

import (
	"bytes"
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

func TestAccess(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	alice, bob := shop.Alice(t), shop.Bob(t)
	order, charge := buy(t, alice, "hers")
	unpaid := place(t, alice, "unpaid")

	t.Run("AnothersKey", func(t *testing.T) {
		t.Parallel()
		placed := bob.Post(t.Context(), "/v1/orders", "hers", apptest.OrderBody("bob@example.com", "PIN-KEY", 1))
		expect(t, "Bob's order under Alice's key", placed, http.StatusCreated, "")
		if placed.Header.Get("Idempotent-Replayed") != "" || bytes.Contains(placed.Body, []byte(order.ID.String())) ||
			bytes.Contains(placed.Body, []byte("buyer@")) {
			t.Errorf("Bob got %s", placed.Body)
		}
		paid := bob.Post(t.Context(), placed.Header.Get("Location")+"/charges", "hers", `{"payment_method":"pm_ok"}`)
		expect(t, "Bob's charge under Alice's key", paid, http.StatusCreated, "")
		if bytes.Contains(paid.Body, []byte(charge.ID.String())) {
			t.Errorf("Bob got %s", paid.Body)
		}
	})
	t.Run("AnothersOrder", func(t *testing.T) {
		t.Parallel()
		before := alice.Get(t.Context(), "/v1/orders/"+unpaid.ID.String())
		for _, call := range []struct{ method, path, id, body string }{
			{"GET", "/v1/orders/%s", order.ID.String(), ""},
			{"GET", "/v1/orders/%s/timeline", order.ID.String(), ""},
			{"GET", "/v1/charges/%s", charge.ID.String(), ""},
			{"POST", "/v1/orders/%s/charges", unpaid.ID.String(), `{"payment_method":"pm_ok"}`},
			{"POST", "/v1/orders/%s/cancel", unpaid.ID.String(), ""},
			{"POST", "/v1/orders/%s/cancel", order.ID.String(), ""},
		} {
			key := ""
			if call.method == http.MethodPost {
				key = "bobs " + call.path
				key = strings.ReplaceAll(key, " ", "-")
			}
			got := bob.Do(t.Context(), call.method, fmt.Sprintf(call.path, call.id), key, call.body)
			none := bob.Do(t.Context(), call.method, fmt.Sprintf(call.path, missing), key, call.body)
			expect(t, call.path, got, http.StatusNotFound, "not_found")
			got.Header.Del("Date")
			none.Header.Del("Date")
			got.Header.Del("X-Request-Id")
			none.Header.Del("X-Request-Id")
			if none.Status != got.Status || !bytes.Equal(got.Body, none.Body) ||
				fmt.Sprint(got.Header) != fmt.Sprint(none.Header) {
				t.Errorf("%s: Alice's is answered with %v %s, none with %v %s", call.path, got.Header, got.Body,
					none.Header, none.Body)
			}
		}
		if after := alice.Get(t.Context(), "/v1/orders/"+unpaid.ID.String()); !bytes.Equal(before.Body, after.Body) {
			t.Errorf("Alice's order was %s, is %s", before.Body, after.Body)
		}
		expect(t, "Bob's own list", bob.Get(t.Context(), "/v1/orders?after="+order.ID.String()), http.StatusOK, "")
	})
	t.Run("AdminCalls", func(t *testing.T) {
		t.Parallel()
		for path, body := range map[string]string{"/v1/deliveries": `{"lines":[{"sku":"MUG-ONCE","quantity":7}]}`,
			"/v1/charges/" + charge.ID.String() + "/refunds": "{}"} {
			expect(t, path, alice.Post(t.Context(), path, "no-admin", body), http.StatusForbidden, "forbidden")
		}
		if n := shop.Count(t, "SELECT (SELECT count(*) FROM deliveries WHERE idempotency_key = 'no-admin') + "+
			"(SELECT count(*) FROM refunds)"); n != 0 {
			t.Errorf("%d rows were written", n)
		}
		owner := ""
		if err := shop.Pool.QueryRow(t.Context(), "SELECT customer_id::text FROM orders WHERE id = $1",
			order.ID).Scan(&owner); err != nil {
			t.Fatal(err)
		}
		for _, route := range []string{"/v1/deliveries", "/v1/charges/:id/refunds"} {
			if want := fmt.Sprintf(`"msg":"a customer tried an admin call","customer_id":"%s","path":"%s"`, owner,
				route); !strings.Contains(shop.Log.String(), want) {
				t.Errorf("the log does not say %s", want)
			}
		}
	})
	t.Run("OperatorsAddress", func(t *testing.T) {
		t.Parallel()
		for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/profile",
			"/debug/pprof/cmdline", "/debug/vars", "//metrics", "/static/../metrics"} {
			expect(t, path, get(t, shop.Nodes[0]+path), http.StatusNotFound, "")
		}
		for _, path := range []string{"/metrics", "/debug/pprof/"} {
			expect(t, "operators' "+path, get(t, shop.Ops[0]+path), http.StatusOK, "")
		}
	})
}

// The shop as `shop serve` runs it, on a database that a demo has used before.
func TestServe(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1, withLab, func(c *app.Config) { c.Demo = false })
	service := accounts.New(shop.Pool, false)
	admin, err := service.IssueToken(t.Context(), "admin@example.com", true)
	if err != nil {
		t.Fatal(err)
	}
	customer, err := service.IssueToken(t.Context(), "carol@example.com", false)
	if err != nil {
		t.Fatal(err)
	}

	t.Run("DemoTokens", func(t *testing.T) {
		t.Parallel()
		if n := shop.Count(t, "SELECT count(*) FROM api_tokens WHERE demo"); n != 3 {
			t.Fatalf("the database knows %d demo tokens, so this tests nothing", n)
		}
		for _, token := range []string{accounts.DemoAlice, accounts.DemoBob, accounts.DemoAdmin} {
			demo := shop.Client(t, 0, token)
			expect(t, token, demo.Get(t.Context(), "/v1/orders"), http.StatusUnauthorized, "unauthorized")
			expect(t, token, demo.Post(t.Context(), "/v1/orders", "k",
				apptest.OrderBody("a@example.com", "MUG-ONCE", 1)), http.StatusUnauthorized, "unauthorized")
			expect(t, token, submit(t, shop.Nodes[0]+"/admin/login", nil, url.Values{"token": {token}}),
				http.StatusForbidden, "")
		}
		expect(t, "a token that was issued", shop.Client(t, 0, customer).Get(t.Context(), "/v1/orders"), http.StatusOK,
			"")
	})
	t.Run("OperatorsPages", func(t *testing.T) {
		t.Parallel()
		pages := []string{"/admin", "/admin/stock/MUG-ONCE", "/admin/orders", "/admin/orders/" + missing,
			"/admin/attention", "/admin/charges", "/admin/events", "/admin/letters", "/lab", "/lab/unique-double-click",
			"/lab/events"}
		actions := []string{"/admin/letters/1-1/retry", "/admin/letters/retry",
			"/admin/letters/receipts/" + missing + "/retry", "/admin/actions", "/admin/charges/" + missing + "/refund",
			"/admin/orders/" + missing + "/cancel", "/admin/logout", "/lab", "/lab/unique-double-click"}
		refused := func(who string, header http.Header) {
			for _, path := range pages {
				answer := send(t, http.MethodGet, shop.Nodes[0]+path, header, nil)
				expect(t, who+" "+path, answer, http.StatusSeeOther, "")
				if !strings.HasPrefix(answer.Header.Get("Location"), "/admin/login") {
					t.Errorf("%s %s leads to %s", who, path, answer.Header.Get("Location"))
				}
			}
			for _, path := range actions {
				expect(t, who+" POST "+path, submit(t, shop.Nodes[0]+path, header, nil), http.StatusForbidden, "")
			}
		}
		refused("nobody", nil)
		refused("a customer's token", bearer(customer))
		refused("an admin's token in place of a session", bearer(admin))
		refused("a forged session", http.Header{"Cookie": {"shop_admin=" +
			accounts.NewSigner("another secret", "serve").Sign("shop_admin", "99999999999")}})
		expect(t, "a customer signs in", submit(t, shop.Nodes[0]+"/admin/login", nil, url.Values{"token": {customer}}),
			http.StatusForbidden, "")

		session := submit(t, shop.Nodes[0]+"/admin/login", nil, url.Values{"token": {admin}})
		expect(t, "an admin signs in", session, http.StatusSeeOther, "")
		cookie, _, _ := strings.Cut(session.Header.Get("Set-Cookie"), ";")
		for _, path := range []string{"/admin", "/admin/charges", "/lab"} {
			expect(t, "an admin's "+path, send(t, http.MethodGet, shop.Nodes[0]+path, http.Header{"Cookie": {cookie}},
				nil), http.StatusOK, "")
		}
	})
}

// An operator's session is good where and while it should be, and not a moment longer.
func TestOperatorSessions(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1, func(c *app.Config) { c.Demo = false })
	service := accounts.New(shop.Pool, false)
	signIn := func(base, token string) http.Header {
		answer := submit(t, base+"/admin/login", nil, url.Values{"token": {token}})
		expect(t, "sign in", answer, http.StatusSeeOther, "")
		cookie, _, _ := strings.Cut(answer.Header.Get("Set-Cookie"), ";")
		return http.Header{"Cookie": {cookie}}
	}
	wantSession := func(what string, session http.Header, status int) {
		t.Helper()
		expect(t, what, send(t, http.MethodGet, shop.Nodes[0]+"/admin/charges", session, nil), status, "")
	}
	var tokens []string
	var sessions []http.Header
	for range 4 {
		token, err := service.IssueToken(t.Context(), "admin@example.com", true)
		if err != nil {
			t.Fatal(err)
		}
		session := signIn(shop.Nodes[0], token)
		wantSession("a session", session, http.StatusOK)
		tokens, sessions = append(tokens, token), append(sessions, session)
	}
	again := signIn(shop.Nodes[0], tokens[0])
	if again.Get("Cookie") == sessions[0].Get("Cookie") {
		t.Error("two sessions are one")
	}
	submit(t, shop.Nodes[0]+"/admin/logout", sessions[0], nil)
	wantSession("after logout", sessions[0], http.StatusSeeOther)
	wantSession("the other session of that token", again, http.StatusOK)
	if _, err := service.RevokeToken(t.Context(), tokens[1]); err != nil {
		t.Fatal(err)
	}
	wantSession("after the token was revoked", sessions[1], http.StatusSeeOther)
	shop.Exec(t, "UPDATE api_tokens SET expires_at = now() WHERE prefix = $1", tokens[2][:13])
	wantSession("after the token expired", sessions[2], http.StatusSeeOther)
	wantSession("a session of another token", sessions[3], http.StatusOK)
	shop.Exec(t, "UPDATE operator_sessions SET seen_at = now() - interval '31 minutes'")
	wantSession("after half an hour", sessions[3], http.StatusSeeOther)

	// A demo on the same database and under the same secret signs in the same operator.
	demo := apptest.Start(t, 1, func(c *app.Config) { c.DatabaseURL = shop.Config.DatabaseURL })
	wantSession("the session of a demo", signIn(demo.Nodes[0], tokens[3]), http.StatusSeeOther)
}

// A token that expired or was revoked is refused by every node.
func TestTokensEnd(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 2)
	service := accounts.New(shop.Pool, false)
	for name, end := range map[string]func(token string){
		"revoked": func(token string) {
			if _, err := service.RevokeToken(t.Context(), token); err != nil {
				t.Error(err)
			}
		},
		"expired": func(token string) {
			shop.Exec(t, "UPDATE api_tokens SET expires_at = now() WHERE prefix = $1", token[:13])
		},
	} {
		token, err := service.IssueTokenFor(t.Context(), time.Hour, name+"@example.com", false)
		if err != nil {
			t.Fatal(err)
		}
		for node := range shop.Nodes {
			place(t, shop.Client(t, node, token), "k")
		}
		end(token)
		for node := range shop.Nodes {
			client := shop.Client(t, node, token)
			shoptest.Eventually(t, 5*time.Second, "a token that is "+name+" is refused", func() bool {
				return client.Get(t.Context(), "/v1/orders").Status == http.StatusUnauthorized
			})
			expect(t, name+", a replay", client.Post(t.Context(), "/v1/orders", "k",
				apptest.OrderBody("buyer@example.com", "MUG-ONCE", 2)), http.StatusUnauthorized, "unauthorized")
		}
	}
}
