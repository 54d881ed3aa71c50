package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/api"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const (
	secret    = "whsec_bmV3IHNlY3JldCBmb3IgdGVzdHM="
	oldSecret = "whsec_b2xkIHNlY3JldCBmb3IgdGVzdHM="
	hook      = "/v1/webhooks/payments"
)

// desk is a shop whose clock stands still and whose provider never answers: what it knows of
// charges comes by webhook.
type desk struct {
	pool     *pgxpool.Pool
	orders   *orders.Service
	payments *payments.Service
	now      time.Time
	alice    uuid.UUID
	url      string
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{pool: shoptest.DB(t), now: time.Now().Truncate(time.Second), alice: uuid.New()}
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(silent.Close)
	provider := psp.NewClient(silent.URL, 5*time.Second)
	t.Cleanup(provider.CloseIdleConnections)
	log := slog.New(slog.DiscardHandler)
	d.orders = orders.New(d.pool, orders.DefaultExpiry, d.clock, log)
	policy := payments.Policy{ProviderTimeout: 5 * time.Second, Lease: 15 * time.Second, Horizon: 12 * time.Hour}
	d.payments = payments.New(d.pool, d.orders, provider, policy, d.clock, nil, log)
	if _, err := d.pool.Exec(t.Context(), "INSERT INTO customers (id) VALUES ($1)", d.alice); err != nil {
		t.Fatal(err)
	}
	if err := d.orders.AddProduct(t.Context(),
		orders.Product{SKU: "COIN", Name: "Coin", Description: "A coin.", Currency: "EUR", UnitPrice: 100},
		1); err != nil {
		t.Fatal(err)
	}
	delivery := orders.ReceiveDelivery{CustomerID: d.alice, Key: "opening",
		Lines: []orders.LineRequest{{SKU: "COIN", Quantity: 100}}}
	if _, err := d.orders.Receive(t.Context(), delivery); err != nil {
		t.Fatal(err)
	}
	d.url = d.listen(t, secret)
	return d
}

func (d *desk) clock() time.Time { return d.now }

// listen starts a node that accepts these secrets.
func (d *desk) listen(t *testing.T, secrets string) string {
	t.Helper()
	receiver, err := psp.NewReceiver(secrets, d.clock)
	if err != nil {
		t.Fatal(err)
	}
	e := echo.New()
	log := slog.New(slog.DiscardHandler)
	e.HTTPErrorHandler = func(err error, c echo.Context) { api.WriteError(c, err, log) }
	(&api.API{Orders: d.orders, Payments: d.payments, Log: log,
		Webhooks: map[string]api.EventReader{hook: receiver.Read}}).Register(e)
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	return server.URL
}

// unknownCharge returns what the provider would say of a new charge that it has not answered.
func (d *desk) unknownCharge(t *testing.T) payments.Capture {
	t.Helper()
	placed, err := d.orders.Place(t.Context(),
		orders.PlaceOrder{CustomerID: d.alice, Key: "o", Email: "alice@example.com",
			Lines: []orders.LineRequest{{SKU: "COIN", Quantity: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := d.payments.Charge(t.Context(),
		payments.ChargeOrder{CustomerID: d.alice, Key: "c", OrderID: placed.ID, PaymentMethod: "pm_ok"})
	if err != nil || answer.Status != http.StatusAccepted {
		t.Fatalf("charge: %d %s %v", answer.Status, answer.Body, err)
	}
	return payments.Capture{ID: "cap_1", Reference: answer.ID.String(), OrderID: placed.ID.String(),
		Status: payments.CaptureSucceeded,
		Amount: 100, Currency: "EUR", CreatedAt: d.now}
}

// webhook is a message of the provider.
type webhook struct {
	id, timestamp, signature string
	body                     string
}

// message is signed as it must be.
func (d *desk) message(t *testing.T, kind string, data any) webhook {
	t.Helper()
	body, err := json.Marshal(map[string]any{"type": kind, "timestamp": d.now, "data": data})
	if err != nil {
		t.Fatal(err)
	}
	return webhook{id: "evt_1", body: string(body)}.signed(t, secret, d.now)
}

func (w webhook) signed(t *testing.T, secret string, at time.Time) webhook {
	t.Helper()
	signature, err := psp.Sign(secret, w.id, at, []byte(w.body))
	if err != nil {
		t.Fatal(err)
	}
	w.timestamp, w.signature = strconv.FormatInt(at.Unix(), 10), signature
	return w
}

// as is the same message as another event.
func (w webhook) as(t *testing.T, id string, at time.Time) webhook {
	t.Helper()
	w.id = id
	return w.signed(t, secret, at)
}

// send returns the status and the problem's code. Headers that are empty are not sent.
func (w webhook) send(t *testing.T, url string) (status int, code string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+hook, strings.NewReader(w.body))
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	request.Close = true
	for name, value := range map[string]string{"webhook-id": w.id, "webhook-timestamp": w.timestamp,
		"webhook-signature": w.signature} {
		if value != "" {
			request.Header.Set(name, value)
		}
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Error(err)
	}
	var p struct{ Code string }
	if answer.StatusCode != http.StatusNoContent {
		if err := json.Unmarshal(body, &p); err != nil ||
			answer.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%d %s is no problem: %s", answer.StatusCode, answer.Header.Get("Content-Type"), body)
		}
	}
	return answer.StatusCode, p.Code
}

func (w webhook) expect(t *testing.T, what, url string, wantStatus int, wantCode string) {
	t.Helper()
	if status, code := w.send(t, url); status != wantStatus || code != wantCode {
		t.Errorf("%s: %d %s, want %d %s", what, status, code, wantStatus, wantCode)
	}
}

// events are the states of the events that are kept.
func (d *desk) events(t *testing.T) (states string) {
	t.Helper()
	err := d.pool.QueryRow(t.Context(), `
		SELECT coalesce(string_agg(state, ' ' ORDER BY received_at, id), '') FROM provider_events`).Scan(&states)
	if err != nil {
		t.Fatal(err)
	}
	return states
}

func (d *desk) status(t *testing.T, capture payments.Capture) orders.Status {
	t.Helper()
	order, err := d.orders.Get(t.Context(), uuid.MustParse(capture.OrderID))
	if err != nil {
		t.Fatal(err)
	}
	return order.Status
}

// What the provider did not sign, just now, leaves no trace.
func TestForgedWebhooks(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	capture := d.unknownCharge(t)
	good := d.message(t, "capture.succeeded", capture)
	changed := func(change func(*webhook)) webhook {
		w := good
		change(&w)
		return w
	}
	body := func(body string) webhook { return webhook{id: "evt_1", body: body}.signed(t, secret, d.now) }
	for what, forged := range map[string]webhook{
		"unsigned":                  changed(func(w *webhook) { w.signature = "" }),
		"without an id":             changed(func(w *webhook) { w.id = "" }),
		"without a time":            changed(func(w *webhook) { w.timestamp = "" }),
		"with a time of no sort":    changed(func(w *webhook) { w.timestamp = "now" }),
		"with another id":           changed(func(w *webhook) { w.id = "evt_2" }),
		"with another time":         changed(func(w *webhook) { w.timestamp = strconv.FormatInt(d.now.Unix()+1, 10) }),
		"signed by another":         good.signed(t, oldSecret, d.now),
		"signed in another version": changed(func(w *webhook) { w.signature = "v2" + w.signature[2:] }),
		"signed without a version":  changed(func(w *webhook) { w.signature = w.signature[3:] }),
		"half a signature":          changed(func(w *webhook) { w.signature = w.signature[:20] }),
		"301 s old":                 good.signed(t, secret, d.now.Add(-301*time.Second)),
		"301 s early":               good.signed(t, secret, d.now.Add(301*time.Second)),
		"a space at the end":        changed(func(w *webhook) { w.body += " " }),
		"a space in front":          changed(func(w *webhook) { w.body = " " + w.body }),
		"a space within":            changed(func(w *webhook) { w.body = strings.Replace(w.body, ":", ": ", 1) }),
		"another amount":            changed(func(w *webhook) { w.body = strings.Replace(w.body, "100", "101", 1) }),
		"no body":                   changed(func(w *webhook) { w.body = "" }),
	} {
		forged.expect(t, what, d.url, http.StatusBadRequest, "invalid_request")
	}
	if events := d.events(t); events != "" {
		t.Errorf("events are kept: %s", events)
	}
	if status := d.status(t, capture); status != orders.Paying {
		t.Errorf("the order is %s", status)
	}
	large := body(`{"type":"` + strings.Repeat("x", 64<<10) + `"}`)
	large.expect(t, "a large body", d.url, http.StatusRequestEntityTooLarge, "too_large")
	good.expect(t, "the real one", d.url, http.StatusNoContent, "")
	if status := d.status(t, capture); status != orders.Paid {
		t.Errorf("the order is %s", status)
	}
}

func TestWebhookTolerance(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	good := d.message(t, "capture.succeeded", d.unknownCharge(t))
	offsets := []int{-300, -299, -1, 0, 1, 299, 300}
	for _, seconds := range offsets {
		good.as(t, fmt.Sprint("evt", seconds), d.now.Add(time.Duration(seconds)*time.Second)).expect(t,
			fmt.Sprint(seconds, " s"), d.url, http.StatusNoContent, "")
	}
	if events := d.events(t); events != strings.TrimSpace(strings.Repeat("applied ", len(offsets))) {
		t.Errorf("the events are %s", events)
	}
}

// While a secret is rotated both are named; when the old one is gone, what it signs is nothing.
func TestWebhookSecretRotation(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	capture := d.unknownCharge(t)
	good := d.message(t, "capture.succeeded", capture)
	byOld := func(id string) webhook { return webhook{id: id, body: good.body}.signed(t, oldSecret, d.now) }
	byOld("evt_a").expect(t, "the old secret, removed", d.url, http.StatusBadRequest, "invalid_request")
	if events := d.events(t); events != "" || d.status(t, capture) != orders.Paying {
		t.Errorf("the events are %q, the order is %s", events, d.status(t, capture))
	}
	both := d.listen(t, secret+" "+oldSecret)
	byOld("evt_a").expect(t, "the old secret, named", both, http.StatusNoContent, "")
	good.as(t, "evt_b", d.now).expect(t, "the new secret", both, http.StatusNoContent, "")
	// A provider that rotates signs with both.
	twice := good.as(t, "evt_c", d.now)
	twice.signature = byOld("evt_c").signature + " " + twice.signature
	twice.expect(t, "both", d.url, http.StatusNoContent, "")
	byOld("evt_d").expect(t, "the old secret, removed again", d.url, http.StatusBadRequest, "invalid_request")
	if events := d.events(t); events != "applied applied applied" || d.status(t, capture) != orders.Paid {
		t.Errorf("the events are %s, the order is %s", events, d.status(t, capture))
	}
}

// A signed event that contradicts what we know is accepted, kept for an operator, and changes
// nothing.
func TestWebhookQuarantine(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	capture := d.unknownCharge(t)
	other := func(change func(*payments.Capture)) payments.Capture {
		c := capture
		change(&c)
		return c
	}
	wrong := map[string]payments.Capture{
		"another amount":     other(func(c *payments.Capture) { c.Amount = 1 }),
		"another currency":   other(func(c *payments.Capture) { c.Currency = "JPY" }),
		"an unknown charge":  other(func(c *payments.Capture) { c.Reference = uuid.NewString() }),
		"no charge":          other(func(c *payments.Capture) { c.Reference = "" }),
		"an unknown outcome": other(func(c *payments.Capture) { c.Status = "perhaps" }),
	}
	for what, c := range wrong {
		message := d.message(t, "capture.succeeded", c).as(t, "evt "+what, d.now)
		message.expect(t, what, d.url, http.StatusNoContent, "")
		message.expect(t, what+" again", d.url, http.StatusNoContent, "")
	}
	for what, body := range map[string]string{
		"U+0000":          `{"type":"capture.succeeded","data":{"id":"\u0000"}}`,
		"half an emoji":   `{"type":"capture.succeeded","data":{"id":"\ud83d"}}`,
		"a huge number":   `{"type":"capture.succeeded","data":{"amount":1e200000}}`,
		"no JSON":         "\xff\x00",
		"no object":       `["capture.succeeded"]`,
		"another type":    `{"type":"capture.succeeded","data":{"amount":"100"}}`,
		"ambiguous":       `{"type":"capture.declined","type":"capture.succeeded","data":{}}`,
		"another shape":   `{"type":"capture.succeeded","data":[]}`,
		"an unknown type": `{"type":"capture.celebrated","data":{}}`,
	} {
		message := webhook{id: "evt raw " + what, body: body}.signed(t, secret, d.now)
		message.expect(t, what, d.url, http.StatusNoContent, "")
		wrong[what] = payments.Capture{}
	}
	d.message(t, "refund.succeeded", payments.ProviderRefund{ID: "ref_1", CaptureID: "cap_1", Status: "succeeded",
		Amount: 100, Currency: "EUR"}).as(t, "evt_refund", d.now).
		expect(t, "a young refund", d.url, http.StatusNoContent, "")
	d.message(t, "capture.declined", other(func(c *payments.Capture) {
		c.Status = payments.CaptureDeclined
	})).as(t, "evt_early", d.now).expect(t, "a decline before the answer", d.url, http.StatusNoContent, "")
	if events := d.events(t); strings.Count(events, "quarantined") != len(wrong) ||
		strings.Count(events, "received") != 2 || strings.Contains(events, "applied") {
		t.Errorf("the events are %s", events)
	}
	if status := d.status(t, capture); status != orders.Paying {
		t.Errorf("the order is %s", status)
	}
	d.message(t, "capture.succeeded", capture).expect(t, "the truth", d.url, http.StatusNoContent, "")
	if status := d.status(t, capture); status != orders.Paid {
		t.Errorf("the order is %s", status)
	}
}

func TestSameWebhookAtOnce(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	capture := d.unknownCharge(t)
	message := d.message(t, "capture.succeeded", capture)
	nodes := []string{d.url, d.listen(t, secret)}
	for _, status := range shoptest.Race(100, func(i int) int {
		status, _ := message.send(t, nodes[i%2])
		return status
	}) {
		if status != http.StatusNoContent {
			t.Errorf("got %d", status)
		}
	}
	var sold int
	if err := d.pool.QueryRow(t.Context(),
		"SELECT count(*) FROM stock_movements WHERE kind = 'sold'").Scan(&sold); err != nil {
		t.Fatal(err)
	}
	if events := d.events(t); events != "applied" || sold != 1 || d.status(t, capture) != orders.Paid {
		t.Errorf("the events are %s, %d sales, the order is %s", events, sold, d.status(t, capture))
	}
}
