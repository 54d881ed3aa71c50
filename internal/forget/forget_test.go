package forget_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/check"
	"github.com/onceshop/onceshop/internal/forget"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestMain(m *testing.M) { shoptest.Main(m) }

const (
	within = 30 * time.Second
	email  = "Erika@example.com"
)

// request is a call that binds a key, with another body for the same key.
type request struct{ token, path, key, body, other string }

// life is a shop in which everything happened to one person, and the requests that bound a key.
type life struct {
	*apptest.Shop
	requests []request
	orders   []string
}

func (l *life) client(t *testing.T, node int, r request) *apitest.Client {
	return l.Client(t, node, r.token)
}

// do sends a request to both nodes, so that each has its answer in memory, and returns the id in
// the answer.
func (l *life) do(t *testing.T, r request, want int) string {
	t.Helper()
	var answers []apitest.Response
	for node := range l.Nodes {
		for range 2 {
			answers = append(answers, l.client(t, node, r).Post(t.Context(), r.path, r.key, r.body))
		}
	}
	var object struct {
		ID     string
		Charge struct{ ID string }
	}
	for _, a := range answers {
		if a.Status != want || !bytes.Equal(a.Body, answers[0].Body) {
			t.Fatalf("%s %s: %d %s", r.path, r.body, a.Status, a.Body)
		}
	}
	answers[0].JSON(t, &object)
	l.requests = append(l.requests, r)
	return object.ID
}

func (l *life) order(t *testing.T, token, key, email string) string {
	t.Helper()
	id := l.do(t, request{token, "/v1/orders", key, apptest.OrderBody(email, "MUG-ONCE", 1),
		apptest.OrderBody(email, "MUG-ONCE", 2)}, http.StatusCreated)
	l.orders = append(l.orders, id)
	return id
}

func (l *life) pay(t *testing.T, token, order, method string, want int) string {
	t.Helper()
	return l.do(t, request{token, "/v1/orders/" + order + "/charges", "pay-" + order + method,
		`{"payment_method":"` + method + `"}`, `{"payment_method":"pm_other"}`}, want)
}

func (l *life) cancel(t *testing.T, token, order string) {
	t.Helper()
	path := "/v1/orders/" + order + "/cancel"
	l.do(t, request{token: token, path: path, key: "cancel-" + order}, http.StatusOK)
}

func startLife(t *testing.T) *life {
	t.Helper()
	shop := apptest.Start(t, 2)
	l := &life{Shop: shop}
	token, err := accounts.New(shop.Pool, true).IssueToken(t.Context(), email, false)
	if err != nil {
		t.Fatal(err)
	}
	kept := l.order(t, token, "kept", email)
	l.pay(t, token, kept, "pm_insufficient_funds", http.StatusPaymentRequired)
	charge := l.pay(t, token, kept, "pm_ok", http.StatusCreated)
	l.do(t, request{accounts.DemoAdmin, "/v1/charges/" + charge + "/refunds", "refund",
		`{"amount":100,"reason":"erika@example.com found a chip"}`, `{"amount":200}`}, http.StatusCreated)
	returned := l.order(t, token, "returned", "mother@example.org") // the account's order to another address
	l.pay(t, token, returned, "pm_ok", http.StatusCreated)
	l.cancel(t, token, returned)
	l.cancel(t, accounts.DemoBob, l.order(t, accounts.DemoBob, "gift", strings.ToLower(email)))
	l.Exec(t, `INSERT INTO provider_events (id, type, payload, facts, state, reason)
		VALUES ('evt_stranger', 'charge.updated', convert_to('{"receipt_email":"erika@example.com"}', 'UTF8'), '{}',
			'dismissed', 'not ours')`)
	l.Exec(t, `INSERT INTO operator_actions (id, customer_id, operator, idempotency_key, fingerprint, action, subject,
			reason, answer)
		SELECT gen_random_uuid(), id, email, 'k', sha256('x'), 'event dismissed', 'evt_stranger',
			'ERIKA@example.com asked', '{"reason":"ERIKA@example.com asked"}' FROM customers WHERE email = $1`, email)
	l.awaitReceipts(t)
	l.Exec(t, "UPDATE orders SET placed_from = '192.0.2.17'")
	l.Exec(t, "UPDATE receipts SET last_error = '550 erika@example.com: no such user'")
	return l
}

func (l *life) awaitReceipts(t *testing.T) {
	t.Helper()
	shoptest.Eventually(t, within, "receipts are sent and events are applied", func() bool {
		return l.Count(t, `SELECT count(*) FROM receipts WHERE sent_at IS NOT NULL`) == 2 &&
			l.Count(t, `SELECT count(*) FROM provider_events WHERE state = 'applied' AND charge_id IS NOT NULL`) ==
				l.Count(t, `SELECT (SELECT count(*) FROM charges) + (SELECT count(*) FROM refunds)`) &&
			l.Count(t, `SELECT count(*) FROM outbox WHERE sent_at IS NULL`) == 0
	})
}

// dump returns every row of every table as text, and in it bytes as text too.
func (l *life) dump(t *testing.T) map[string]string {
	t.Helper()
	dump := map[string]string{}
	tables := query[string](t, l, `SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'`)
	for _, table := range tables {
		rows := query[string](t, l, `SELECT t::text FROM `+pgx.Identifier{table}.Sanitize()+` t`)
		for i, row := range rows {
			rows[i] = hexBytes.ReplaceAllStringFunc(row, func(text string) string {
				raw, err := hex.DecodeString(strings.TrimPrefix(text, `\\x`))
				if err != nil {
					t.Errorf("%s: %v", text, err)
				}
				return string(raw)
			})
		}
		dump[table] = strings.ToLower(strings.Join(rows, "\n"))
	}
	return dump
}

var hexBytes = regexp.MustCompile(`\\\\x[0-9a-f]+`)

func query[T any](t *testing.T, l *life, statement string, args ...any) []T {
	t.Helper()
	rows, err := l.Pool.Query(t.Context(), statement, args...)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return all
}

func (l *life) mentions(t *testing.T) (tables []string) {
	t.Helper()
	for table, text := range l.dump(t) {
		if strings.Contains(text, "erika") || strings.Contains(text, "mother") {
			tables = append(tables, table)
		}
	}
	slices.Sort(tables)
	return tables
}

// A person is gone from every table, and the keys stay used on every node.
func TestForgetCustomer(t *testing.T) {
	t.Parallel()
	l := startLife(t)
	if tables := l.mentions(t); !slices.Equal(tables, []string{"cancellations", "customers", "operator_actions",
		"orders", "outbox", "provider_events", "receipts", "refunds"}) {
		t.Errorf("before, the person is in %v", tables)
	}
	columns := personal(t)
	for _, column := range columns {
		if l.Count(t, filled(column)) == 0 {
			t.Errorf("before, %s is blank in every row", column)
		}
	}
	before := l.effects(t)

	var out bytes.Buffer
	if err := app.Forget(t.Context(), l.Config, strings.ToUpper(email[:1])+strings.ToLower(email[1:]), "", &out,
		io.Discard); err != nil {
		t.Fatal(err)
	}
	if out.String() != "erased: 3 orders, 1 accounts, 2 other rows\n" {
		t.Errorf("%s", &out)
	}
	if tables := l.mentions(t); len(tables) > 0 {
		t.Errorf("afterwards, the person is in %v", tables)
	}
	for _, column := range columns {
		if column != "customers.email" && l.Count(t, filled(column)) > 0 {
			t.Errorf("afterwards, %s is not blank", column)
		}
	}
	l.wantErased(t)
	if after := l.effects(t); !maps.Equal(before, after) {
		t.Errorf("rows before %v, after %v", before, after)
	}
	for _, id := range l.orders[:2] {
		l.client(t, 0, l.requests[0]).Get(t.Context(), "/v1/orders/"+id) // it holds to the OpenAPI document
	}
	report, err := check.Run(t.Context(),
		check.Sources{DB: l.Pool, ProviderURL: l.Config.PSPURL, MailboxURL: l.Mailbox})
	if err != nil || len(report.Violated()) > 0 {
		t.Errorf("%+v, %v", report.Violated(), err)
	}
	if err := app.Forget(t.Context(), l.Config, email, "", &out, io.Discard); !errors.Is(err, forget.ErrNotFound) {
		t.Errorf("again: %v", err)
	}
}

// wantErased repeats all requests on both nodes, and sends each key with another meaning.
func (l *life) wantErased(t *testing.T) {
	t.Helper()
	for _, r := range l.requests {
		for node := range l.Nodes {
			for _, body := range []string{r.body, r.other} {
				answer := l.client(t, node, r).Post(t.Context(), r.path, r.key, body)
				var problem struct {
					Code       string
					SafeNewKey bool `json:"safe_new_key"`
				}
				answer.JSON(t, &problem)
				if answer.Status != http.StatusGone || problem.Code != "erased" || problem.SafeNewKey {
					t.Errorf("node %d, %s %s: %d %s", node, r.path, body, answer.Status, answer.Body)
				}
			}
		}
	}
}

// effects counts the rows that requests make.
func (l *life) effects(t *testing.T) map[string]int64 {
	t.Helper()
	counts := map[string]int64{}
	for _, table := range []string{"orders", "charges", "refunds", "cancellations", "stock_movements", "outbox",
		"receipts"} {
		counts[table] = l.Count(t, "SELECT count(*) FROM "+table)
	}
	return counts
}

// filled counts the rows whose column has something in it.
func filled(column string) string {
	table, name, _ := strings.Cut(column, ".")
	return `SELECT count(*) FROM ` + table + ` WHERE ` + name + ` IS NOT NULL AND ` + name + `::text NOT IN
		('', 'erased', 'declined', '\x', '\x7b7d', '\x` + strings.Repeat("00", 32) + `')`
}

var mapRow = regexp.MustCompile("(?m)^\\| `(\\w+\\.\\w+)` \\|.*\\| (erased|stays)[^|]*\\|$")

// personal returns the columns that docs/privacy.md promises to erase.
func personal(t *testing.T) (columns []string) {
	t.Helper()
	for column, fate := range privacyMap(t) {
		if fate == "erased" {
			columns = append(columns, column)
		}
	}
	return columns
}

func privacyMap(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/privacy.md")
	if err != nil {
		t.Fatal(err)
	}
	columns := map[string]string{}
	for _, row := range mapRow.FindAllStringSubmatch(string(text), -1) {
		columns[row[1]] = row[2]
	}
	return columns
}

// Every column that can hold a person's data is in the map, and nothing else is.
func TestPrivacyMapIsComplete(t *testing.T) {
	t.Parallel()
	l := &life{Shop: &apptest.Shop{Pool: shoptest.DB(t)}}
	columns := query[string](t, l, `SELECT table_name || '.' || column_name FROM information_schema.columns
		WHERE table_schema = 'public' AND table_name NOT LIKE 'goose%' AND data_type NOT IN
			('uuid', 'bigint', 'integer', 'boolean', 'timestamp with time zone')`)
	known := privacyMap(t)
	for _, column := range columns {
		if known[column] == "" {
			t.Errorf("docs/privacy.md does not list %s", column)
		}
		delete(known, column)
	}
	for column := range known {
		t.Errorf("docs/privacy.md lists %s, which does not exist", column)
	}
}

// What is not finished is refused, with the way out, and the account keeps its address until then.
func TestForgetRefuses(t *testing.T) {
	t.Parallel()
	l := startLife(t)
	order := uuid.MustParse(l.orders[0])
	for _, test := range []struct{ table, set, undo, why string }{
		{"orders", "status = 'placed'", "status = 'paid'", "cancel it"},
		{"orders", "status = 'paying'", "status = 'paid'", "a payment is under way"},
		{"charges", "status = 'unknown', settled_at = NULL, answer = NULL, answer_status = NULL",
			"status = 'succeeded', settled_at = now(), answer = 'x', answer_status = 201", "a payment is under way"},
		{"refunds", "status = 'unknown', settled_at = NULL", "status = 'succeeded', settled_at = now()",
			"a refund is under way"},
		{"charges", "owes = 'canceled'", "owes = NULL", "the shop owes"},
		{"charges", "dispute = 'open'", "dispute = NULL", "disputed"},
		{"provider_events", "state = 'quarantined'", "state = 'applied'", "an event of the payment provider waits"},
		{"receipts", "sent_at = NULL", "sent_at = now()", "its receipt is not sent"},
	} {
		where := map[string]string{"orders": "id = $1", "charges": "order_id = $1 AND status <> 'declined'",
			"receipts":        "order_id = $1",
			"refunds":         "charge_id IN (SELECT id FROM charges WHERE order_id = $1)",
			"provider_events": "charge_id IN (SELECT id FROM charges WHERE order_id = $1)"}[test.table]
		l.Exec(t, "UPDATE "+test.table+" SET "+test.set+" WHERE "+where, order)
		err := forget.Order(t.Context(), l.Pool, order)
		if refused, ok := errors.AsType[forget.RefusedError](err); !ok || !strings.Contains(refused.Why, test.why) {
			t.Errorf("%s: %v", test.set, err)
		}
		l.Exec(t, "UPDATE "+test.table+" SET "+test.undo+" WHERE "+where, order)
	}
	l.Exec(t, "UPDATE provider_events SET state = 'quarantined' WHERE id = 'evt_stranger'")
	report, err := forget.Customer(t.Context(), l.Pool, email, func(int, forget.Report) {})
	if err != nil || report.Orders != 3 || report.Accounts != 0 || len(report.Refused) != 1 ||
		report.Refused[0].What != "provider's event evt_stranger" {
		t.Errorf("%+v, %v", report, err)
	}
	l.Exec(t, "UPDATE provider_events SET state = 'dismissed' WHERE id = 'evt_stranger'")
	report, err = forget.Customer(t.Context(), l.Pool, email, func(int, forget.Report) {})
	if err != nil || report.Accounts != 1 || report.Mentions != 1 || len(report.Refused) != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if err := forget.Order(t.Context(), l.Pool, order); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := forget.Order(t.Context(), l.Pool, uuid.New()); !errors.Is(err, forget.ErrNotFound) {
		t.Errorf("no order: %v", err)
	}
}

// Forget checks its arguments before it touches anything.
func TestForgetWrongUse(t *testing.T) {
	t.Parallel()
	for _, args := range [][2]string{{"", "17"}, {"erika", ""}, {"Erika <erika@example.com>", ""}} {
		err := app.Forget(t.Context(), app.Config{}, args[0], args[1], io.Discard, io.Discard)
		if usage, ok := errors.AsType[app.UsageError](err); !ok {
			t.Errorf("%v: %v %v", args, usage, err)
		}
	}
}
