package security_test

import (
	"bufio"
	"context"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/retain"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// A statement that fails is our affair: the client learns that it did, and the log why.
func TestSQLErrors(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	alice := shop.Alice(t)
	order := place(t, alice, "k")
	shop.Exec(t, "ALTER TABLE products RENAME COLUMN name TO secret_name")
	shop.Exec(t, "ALTER TABLE orders RENAME COLUMN email TO secret_email")
	path := "/v1/orders/" + order.ID.String()
	for what, answer := range map[string]apitest.Response{
		"products": alice.Get(t.Context(), "/v1/products"), "orders": alice.Get(t.Context(), "/v1/orders"),
		"an order": alice.Get(t.Context(), path),
		"placing":  alice.Post(t.Context(), "/v1/orders", "k2", apptest.OrderBody("a@example.com", "MUG-ONCE", 1)),
		"a page":   get(t, shop.Nodes[0]+"/"),
	} {
		code := "internal"
		if what == "a page" {
			code = ""
		}
		expect(t, what, answer, http.StatusInternalServerError, code)
		insides := regexp.MustCompile(`(?i)sql|column|secret_|select|relation|goroutine|\.go\b|pgx|pgconn|42703|panic`)
		if found := insides.Find(answer.Body); found != nil {
			t.Errorf("%s says %q: %s", what, found, answer.Body)
		}
	}
	if !strings.Contains(shop.Log.String(), "42703") {
		t.Error("the log does not say what failed")
	}
}

// Whatever is sent, each line of the log is one event and holds no secret of anybody.
func TestLogs(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	base, alice := shop.Nodes[0], shop.Alice(t)
	token, err := accounts.New(shop.Pool, false).IssueToken(t.Context(), "carol@example.com", true)
	if err != nil {
		t.Fatal(err)
	}
	carol := shop.Client(t, 0, token)
	order, charge := buy(t, carol, "key-of-carol-0815")
	expect(t, "a reused key", carol.Post(t.Context(), "/v1/orders", "key-of-carol-0815",
		apptest.OrderBody("b@example.com", "PIN-KEY", 1)), http.StatusUnprocessableEntity, "idempotency_key_reused")
	expect(t, "a refund", carol.Post(t.Context(), "/v1/charges/"+charge.ID.String()+"/refunds", "key-of-refund-4711",
		`{"reason":"he said\n{\"level\":\"forged\"}"}`), http.StatusCreated, "")
	expect(t, "an admin call", alice.Post(t.Context(), "/v1/deliveries", "key-of-alice-1", "{}"), http.StatusForbidden,
		"forbidden")
	forged := "%0a%7b%22level%22:%22forged%22%7d"
	for _, path := range []string{"/v1/orders/" + forged, "/v1/" + forged, "/" + forged, "/products/" + forged,
		"/orders/" + forged + "?token=" + token, "/v1/orders?after=" + forged + token} {
		send(t, http.MethodGet, base+path, bearer("wrong-token-of-mallory"), nil)
	}
	expect(t, "a forged webhook", send(t, http.MethodPost, base+"/v1/webhooks/payments",
		http.Header{"Webhook-Id": {`evt","level":"forged`}, "Webhook-Timestamp": {"1"},
			"Webhook-Signature": {"v1,signature-of-mallory"}},
		[]byte("{\"secret\":\"body-of-mallory\"}\n{\"level\":\"forged\"}")), http.StatusBadRequest, "invalid_request")
	expect(t, "a wrong sign-in", submit(t, base+"/admin/login", nil,
		url.Values{"token": {"wrong-token-of-mallory\n{\"level\":\"forged\"}"},
			"next": {"/admin\n{\"level\":\"forged\"}"}}), http.StatusForbidden, "")
	v, form := checkout(t, shop)
	expect(t, "a guest's order", v.submit("/checkout", nil, form), http.StatusSeeOther, "")
	// What fails is logged with its reason, which quotes the statement's values at best.
	shop.Exec(t, "ALTER TABLE orders RENAME COLUMN email TO other")
	expect(t, "a failure", carol.Post(t.Context(), "/v1/orders", "key-of-failure-3",
		apptest.OrderBody("failed@example.com", "MUG-ONCE", 1)), http.StatusInternalServerError, "internal")

	log := shop.Log.String()
	secrets := []string{token, accounts.DemoAlice, "of-mallory", "key-of-", apptest.WebhookSecret,
		strings.TrimPrefix(apptest.WebhookSecret, "whsec_"), shop.Config.Secret, "buyer@example.com",
		"guest@example.com", "failed@example.com"}
	for _, value := range v.cookies {
		if value != "" {
			secrets = append(secrets, value)
		}
	}
	for _, address := range []string{shop.Config.RedisURL, shop.Config.BrokerURL} {
		if u, err := url.Parse(address); err == nil && u.User != nil {
			password, _ := u.User.Password()
			secrets = append(secrets, password)
		}
	}
	for _, secret := range secrets {
		if secret != "" && strings.Contains(log, secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
	lines := 0
	for scanner := bufio.NewScanner(strings.NewReader(log)); scanner.Scan(); lines++ {
		var line struct{ Level, Msg string }
		if err := json.Unmarshal(scanner.Bytes(), &line); err != nil || line.Msg == "" || line.Level == "forged" {
			t.Errorf("a line that is no event of ours: %s", scanner.Text())
		}
	}
	if lines < 20 || !strings.Contains(log, order.ID.String()) {
		t.Errorf("%d lines, or none about the order: this tests nothing", lines)
	}
}

// Secrets and what proves that somebody knows one.
var (
	secretName = regexp.MustCompile(`(?i)(secret|token|signature|password|^mac|mac$)`)
	// timing tells how far these looked.
	leaky = map[string]bool{"bytes.Equal": true, "bytes.Compare": true, "strings.EqualFold": true,
		"strings.Compare": true, "slices.Equal": true, "reflect.DeepEqual": true}
)

// Nothing compares a secret byte by byte. That tokens are stored by their hash alone,
// TestTokensAreStoredHashed proves.
func TestConstantTime(t *testing.T) {
	t.Parallel()
	compares := 0
	for _, folder := range []string{"internal/accounts", "internal/api", "internal/payments", "web",
		"internal/proof/lab/pages", "internal/app"} {
		err := filepath.WalkDir(filepath.Join("../../..", folder),
			func(path string, entry fs.DirEntry, err error) error {
				if err != nil || entry.IsDir() ||
					!strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
					return err
				}
				files := token.NewFileSet()
				file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
				if err != nil {
					return err
				}
				ast.Inspect(file, func(node ast.Node) bool {
					switch n := node.(type) {
					case *ast.BinaryExpr:
						if (n.Op == token.EQL || n.Op == token.NEQ) && isSecret(n.X) && isSecret(n.Y) {
							t.Errorf("%s compares secrets with %s", files.Position(n.Pos()), n.Op)
						}
					case *ast.CallExpr:
						name := nameOf(n.Fun)
						if name == "hmac.Equal" || name == "subtle.ConstantTimeCompare" {
							compares++
						}
						for _, argument := range n.Args {
							if leaky[name] && isSecret(argument) {
								t.Errorf("%s compares a secret with %s", files.Position(n.Pos()), name)
							}
						}
					}
					return true
				})
				return nil
			})
		if err != nil {
			t.Fatal(err)
		}
	}
	// A guest's and an operator's cookie, and the webhooks of the simulator and of Stripe.
	if compares < 3 {
		t.Errorf("%d comparisons in constant time: were they moved?", compares)
	}
}

// isSecret is true of what is named like one and is no constant.
func isSecret(expression ast.Expr) bool {
	switch e := expression.(type) {
	case *ast.Ident:
		return secretName.MatchString(e.Name)
	case *ast.SelectorExpr:
		return secretName.MatchString(e.Sel.Name)
	case *ast.CallExpr:
		for _, argument := range e.Args {
			if isSecret(argument) {
				return true
			}
		}
		return false
	case *ast.IndexExpr:
		return isSecret(e.X)
	case *ast.SliceExpr:
		return isSecret(e.X)
	case *ast.ParenExpr:
		return isSecret(e.X)
	}
	return false
}

func nameOf(function ast.Expr) string {
	if selector, ok := function.(*ast.SelectorExpr); ok {
		if of, ok := selector.X.(*ast.Ident); ok {
			return of.Name + "." + selector.Sel.Name
		}
	}
	return ""
}

// The shop sells, takes money, refunds and mails as the database user that docs/security.md
// describes, who may do no more.
func TestDatabaseUser(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	grants := regexp.MustCompile("(?s)```sql\n(.*?)```").FindSubmatch(text)
	if grants == nil {
		t.Fatal("docs/security.md has no block of SQL")
	}
	shop := apptest.Start(t, 1, func(c *app.Config) {
		user := "shop_app_of_" + strings.TrimPrefix(mustParse(t, c.DatabaseURL).Path, "/")
		pool := shoptest.Pool(t, c.DatabaseURL)
		t.Cleanup(func() {
			if _, err := pool.Exec(context.WithoutCancel(t.Context()),
				"DROP OWNED BY "+user+"; DROP ROLE "+user); err != nil {
				t.Error(err)
			}
		})
		if _, err := pool.Exec(t.Context(), strings.ReplaceAll(string(grants[1]), "shop_app", user)); err != nil {
			t.Fatalf("the grants of docs/security.md: %v", err)
		}
		// The demo's seed is no work of this user's.
		if _, err := pool.Exec(t.Context(), "GRANT INSERT ON products, stock, api_tokens TO "+user); err != nil {
			t.Fatal(err)
		}
		address := mustParse(t, c.DatabaseURL)
		address.User = url.UserPassword(user, "change me")
		c.DatabaseURL = address.String()
	})
	user := mustParse(t, shop.Config.DatabaseURL).User.Username()
	shop.Exec(t, "REVOKE INSERT ON products, stock, api_tokens FROM "+user)

	alice, admin := shop.Alice(t), shop.Admin(t)
	_, charge := buy(t, alice, "paid")
	expect(t, "refund", admin.Post(t.Context(), "/v1/charges/"+charge.ID.String()+"/refunds", "r", "{}"),
		http.StatusCreated, "")
	canceled := place(t, alice, "canceled")
	expect(t, "cancel", alice.Post(t.Context(), "/v1/orders/"+canceled.ID.String()+"/cancel", "c", nil), http.StatusOK,
		"")
	expect(t, "delivery", admin.Post(t.Context(), "/v1/deliveries", "d",
		`{"lines":[{"sku":"MUG-ONCE","quantity":1}]}`), http.StatusCreated, "")
	expect(t, "replay", alice.Post(t.Context(), "/v1/orders", "paid",
		apptest.OrderBody("buyer@example.com", "MUG-ONCE", 2)), http.StatusCreated, "")
	stale := place(t, alice, "stale")
	shop.Exec(t, "UPDATE orders SET expires_at = now() - interval '1 day' WHERE id = $1", stale.ID)
	v, form := checkout(t, shop)
	expect(t, "a guest", v.submit("/checkout", nil, form), http.StatusSeeOther, "")
	shoptest.Eventually(t, within, "receipts are sent, events relayed and applied, an order expired", func() bool {
		return shop.Count(t, "SELECT count(*) FROM receipts WHERE sent_at IS NOT NULL") == 2 &&
			shop.Count(t, "SELECT count(*) FROM outbox WHERE sent_at IS NULL") == 0 &&
			shop.Count(t, "SELECT count(*) FROM provider_events WHERE state = 'applied'") == 3 &&
			shop.Count(t, "SELECT count(*) FROM orders WHERE status = 'expired'") == 1
	})
	expect(t, "a price", v.submit("/admin/products/TEE-ONCE", nil, url.Values{"name": {"Tee"}, "description": {""},
		"price": {"25.00"}}), http.StatusSeeOther, "")
	for _, path := range []string{"/readyz", "/orders", "/admin", "/admin/orders", "/admin/charges", "/admin/events"} {
		expect(t, path, v.get(path), http.StatusOK, "")
	}
	old := retain.Memory{Events: time.Hour, Receipts: time.Hour, ProviderEvents: time.Hour, StoppedTwins: time.Hour}
	tomorrow := func() time.Time { return time.Now().Add(24 * time.Hour) }
	asUser := shoptest.Pool(t, shop.Config.DatabaseURL)
	if err := retain.New(asUser, old, tomorrow, slog.New(slog.DiscardHandler)).RunOnce(t.Context()); err != nil {
		t.Errorf("delete what is old: %v", err)
	}
	if found := regexp.MustCompile(`[^\n]*permission denied[^\n]*`).FindString(shop.Log.String()); found != "" {
		t.Error(found)
	}

	conn, err := pgx.Connect(t.Context(), shop.Config.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, statement := range []string{
		"DELETE FROM charges", "DELETE FROM refunds", "DELETE FROM cancellations", "DELETE FROM stock_movements",
		"DELETE FROM api_tokens", "TRUNCATE outbox", "TRUNCATE provider_events",
		"UPDATE stock_movements SET kind = kind",
		"UPDATE api_tokens SET admin = true",
		"UPDATE products SET position = 1", "UPDATE order_lines SET quantity = 1",
		"UPDATE customers SET email = 'x'", "INSERT INTO api_tokens SELECT * FROM api_tokens",
		"INSERT INTO products SELECT * FROM products",
		"ALTER TABLE orders DROP COLUMN email", "DROP TABLE orders", "CREATE TABLE t ()", "CREATE SCHEMA s",
		"ALTER TABLE charges DISABLE TRIGGER ALL",
		"CREATE ROLE r", "COPY orders TO PROGRAM 'true'", "SELECT * FROM pg_authid", "UPDATE goose_db_version SET " +
			"is_applied = false",
	} {
		_, err := conn.Exec(t.Context(), statement)
		if err == nil || !strings.Contains(err.Error(), "42501") {
			t.Errorf("%s: %v, want permission denied", statement, err)
		}
	}
}

func mustParse(t *testing.T, address string) *url.URL {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
