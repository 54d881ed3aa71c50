package web_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/outbox/broker"
	natsbroker "github.com/onceshop/onceshop/internal/outbox/broker/nats"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/shoptest"
	"github.com/onceshop/onceshop/web"
)

var adminPages = []string{"/admin", "/admin/attention", "/admin/stock/MUG-ONCE", "/admin/orders", "/admin/charges",
	"/admin/events", "/admin/letters"}

func serious(w *web.Web) { w.Demo = false }

func TestCounterIsOpenInTheDemo(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	for _, path := range adminPages {
		b.get(path).want(200, path, "Dead letters").without("Sign out")
	}
	b.get("/admin/stock/NO-SUCH").want(404, "/admin")
	b.get("/admin/orders/"+uuid.NewString()).want(404, "/admin")
	b.get("/admin/login").want(200, "/admin", "Stock")
	b.get("/admin/letters").want(200, "/admin/letters", "no connection to the broker")
}

func TestCounterOutsideTheDemo(t *testing.T) {
	t.Parallel()
	s := open(t, serious)
	admin, err := s.pages.Accounts.IssueToken(t.Context(), "admin@example.com", true)
	if err != nil {
		t.Fatal(err)
	}
	customer, err := s.pages.Accounts.IssueToken(t.Context(), "bob@example.com", false)
	if err != nil {
		t.Fatal(err)
	}
	b := s.browser()
	refused := func(b *browser) {
		t.Helper()
		for _, path := range append(adminPages, "/admin/orders/"+uuid.NewString()) {
			b.get(path).want(200, "/admin/login", "Sign in").without("The Once Mug", "Dead letters")
		}
		for _, form := range []string{"/admin/letters/1/retry", "/admin/actions", "/admin/charges/1/refund",
			"/admin/orders/1/cancel"} {
			b.post(form, nil).want(403, form, "Operators only")
		}
		b.post("/admin/logout", nil).want(403, "/admin/logout")
	}
	refused(b)
	for _, token := range []string{"", "nonsense", customer} {
		b.post("/admin/login", url.Values{"token": {token}}).want(403, "/admin/login", "not an admin")
	}
	refused(b)

	page := b.get("/admin/charges").want(200, "/admin/login")
	b.post("/admin/login", url.Values{"token": {" " + admin + "\n"}, "next": {page.field("next")}}).want(200,
		"/admin/charges", "Sign out")
	for _, path := range adminPages {
		b.get(path).want(200, path, "Sign out")
	}
	refused(s.browser())
	b.post("/admin/logout", nil).want(200, "/")
	refused(b)
}

func TestSignInLeadsToTheCounterOnly(t *testing.T) {
	t.Parallel()
	s := open(t, serious)
	admin, err := s.pages.Accounts.IssueToken(t.Context(), "admin@example.com", true)
	if err != nil {
		t.Fatal(err)
	}
	for next, want := range map[string]string{"": "/admin", "/admin/orders": "/admin/orders",
		"https://evil.example": "/admin", "//evil.example": "/admin",
		"/\\evil.example": "/admin", "/administrator": "/admin", "/section": "/section", "/cart": "/admin"} {
		b := s.browser()
		b.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		answer := b.post("/admin/login", url.Values{"token": {admin}, "next": {next}})
		if got := answer.header.Get("Location"); answer.status != 303 || got != want {
			t.Errorf("%q leads to %q, want %q", next, got, want)
		}
	}
}

func TestAdminCookie(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		s := open(t, func(w *web.Web) { w.Demo, w.Secure = false, secure })
		admin, err := s.pages.Accounts.IssueToken(t.Context(), "admin@example.com", true)
		if err != nil {
			t.Fatal(err)
		}
		b := s.browser()
		b.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		cookie, err := http.ParseSetCookie(b.post("/admin/login",
			url.Values{"token": {admin}}).header.Get("Set-Cookie"))
		if err != nil {
			t.Fatal(err)
		}
		name := "shop_admin"
		if secure {
			name = "__Host-shop_admin"
		}
		if cookie.Name != name || !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode ||
			cookie.Secure != secure || cookie.Path != "/" || cookie.MaxAge != 8*60*60 {
			t.Errorf("cookie %s", cookie.Raw)
		}
		if strings.Contains(cookie.Value, admin) {
			t.Error("the cookie holds the token")
		}
	}
}

func TestForgedAndExpiredSessions(t *testing.T) {
	t.Parallel()
	s := open(t, serious)
	admin, err := s.pages.Accounts.IssueToken(t.Context(), "admin@example.com", true)
	if err != nil {
		t.Fatal(err)
	}
	id, _, err := s.pages.Accounts.OpenSession(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	idle, _, err := s.pages.Accounts.OpenSession(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.pool.Exec(t.Context(), "UPDATE operator_sessions SET seen_at = now() - interval '31 minutes' "+
		"WHERE hash = sha256($1::bytea)", []byte(idle)); err != nil {
		t.Fatal(err)
	}
	secret := strings.Repeat("s", 32)
	ours, theirs := s.pages.Signer, accounts.NewSigner(strings.Repeat("x", 32), "demo")
	good := ours.Sign("shop_admin", id)
	for name, test := range map[string]struct {
		cookie string
		want   string
	}{
		"valid":                 {good, "/admin/charges"},
		"idle":                  {ours.Sign("shop_admin", idle), "/admin/login"},
		"another shop's":        {theirs.Sign("shop_admin", id), "/admin/login"},
		"another audience's":    {accounts.NewSigner(secret, "serve").Sign("shop_admin", id), "/admin/login"},
		"for another purpose":   {ours.Sign("shop_guest", id), "/admin/login"},
		"not signed":            {id, "/admin/login"},
		"signed, and no id":     {ours.Sign("shop_admin", "for ever"), "/admin/login"},
		"signed, and empty":     {ours.Sign("shop_admin", ""), "/admin/login"},
		"with another id":       {strings.Replace(good, good[:8], "OTk5OTk5", 1), "/admin/login"},
		"without its signature": {good[:strings.Index(good, ".")+1], "/admin/login"},
	} {
		b := s.browser()
		b.do(http.MethodGet, "/admin/charges", nil, http.Header{"Cookie": {"shop_admin=" + test.cookie}})
		b.http.Jar.SetCookies(b.address(), []*http.Cookie{{Name: "shop_admin", Value: test.cookie}})
		if got := b.get("/admin/charges"); got.path != test.want {
			t.Errorf("%s: at %s, want %s", name, got.path, test.want)
		}
	}
}

func TestUnknownChargesOnTop(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := s.browser()
	var numbers []string
	for _, buy := range [][2]string{{"MUG-ONCE", "pm_ok"}, {"PIN-KEY", "pm_error_before_capture"},
		{"LAST-ONE", "pm_ok"}} {
		b.add(buy[0])
		page := b.post("/checkout", b.checkoutForm(buy[1])).want(200, "/orders/")
		numbers = append(numbers, strings.TrimPrefix(page.path, "/orders/"))
	}
	page := b.get("/admin/charges").want(200, "/admin/charges", "Not settled", "unknown since", "succeeded")
	var seen []string
	for _, link := range regexp.MustCompile(`/admin/orders/([0-9a-f-]{36})`).FindAllStringSubmatch(page.body, -1) {
		seen = append(seen, link[1])
	}
	if want := []string{numbers[1], numbers[2], numbers[1], numbers[0]}; strings.Join(seen, " ") != strings.Join(want,
		" ") {
		t.Errorf("charges of the orders %v, want %v", seen, want)
	}
	b.get("/admin/orders").want(200, "/admin/orders", numbers[0], numbers[1], numbers[2], "paying", "paid",
		"alice@example.com", "MUG-ONCE")
	number := orders.Number(uuid.MustParse(numbers[1]))
	for _, typed := range []string{number, strings.ToLower(strings.ReplaceAll(number, "-", "")), numbers[1]} {
		found := b.get("/admin/orders?number="+typed).want(200, "/admin/orders", numbers[1], number)
		if strings.Contains(found.body, numbers[0]) {
			t.Errorf("the search for %s finds another order", typed)
		}
	}
	b.get("/admin/orders?number=nothing").want(200, "/admin/orders", "No order has this number")
	s.browser().get("/admin/orders/"+numbers[1]).want(200, "/admin/orders/", "unknown", "The order was placed",
		"1 × <a")
}

func TestMovementsPageByPage(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	var lines []string
	for n := range 60 {
		lines = append(lines, fmt.Sprintf("later-%02d,1,MUG-ONCE,1", n))
	}
	s.deliver(lines...)
	b := s.browser()
	first := b.get("/admin/stock/MUG-ONCE").want(200, "/admin/stock/MUG-ONCE", "70 of", "later-59", "later-10",
		"+1").without("later-09", "opening")
	older := regexp.MustCompile(`href="(\?before=[0-9]+)"`).FindStringSubmatch(first.body)
	if older == nil {
		t.Fatalf("no way to older movements:\n%s", first.body)
	}
	b.get("/admin/stock/MUG-ONCE"+older[1]).want(200, "/admin/stock/MUG-ONCE", "later-09", "later-00", "opening",
		"+10").without("later-10", "Older ones")
}

func TestQuarantineShowsWhatContradicts(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	s.browser().get("/admin/events").want(200, "/admin/events", "No quarantined events")
	event := payments.Event{ID: "evt_odd", Type: "capture.succeeded",
		Payload: []byte(`{"type": "<b>odd</b>"}`),
		Capture: &payments.Capture{ID: "cap_odd", Reference: uuid.NewString(), Status: payments.CaptureSucceeded,
			Amount: 1, Currency: "EUR"}}
	if err := s.pages.Payments.Receive(t.Context(), event); err != nil {
		t.Fatal(err)
	}
	s.browser().get("/admin/events").want(200, "/admin/events", "evt_odd",
		"for the unknown charge "+event.Capture.Reference, "&lt;b&gt;odd").without("<b>odd")
}

// ten clicks on the retry of a dead letter, over two nodes: its event is delivered once more.
func TestRetryOfADeadLetter(t *testing.T) {
	t.Parallel()
	js, on := openBroker(t)
	event := outbox.Event{ID: uuid.New(), Type: orders.EventPaid, OrderID: uuid.New(), CreatedAt: time.Now()}
	bury(t, js, event, "the mail server <said> no")
	s := open(t, func(w *web.Web) { w.Letters = outbox.NewLetters(on) })
	page := s.browser().get("/admin/letters").want(200, "/admin/letters", "order.paid", event.ID.String(), "receipts",
		"the mail server &lt;said&gt; no")
	action := regexp.MustCompile(`action="(/admin/letters/[0-9]+-[0-9]+/retry)"`).FindStringSubmatch(page.body)
	if action == nil {
		t.Fatalf("no way to retry:\n%s", page.body)
	}
	clicks := make([]*browser, 10)
	for i := range clicks {
		clicks[i] = s.browser()
	}
	for _, answer := range shoptest.Race(len(clicks), func(i int) answer { return clicks[i].post(action[1], nil) }) {
		answer.want(200, "/admin/letters", "No dead letters")
	}
	var delivered atomic.Int64
	consumer, err := outbox.NewConsumer(t.Context(), s.pool, on, "receipts", orders.EventPaid,
		func(_ context.Context, got outbox.Event) error {
			if got.ID == event.ID {
				delivered.Add(1)
			}
			return nil
		}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for seen := 0; seen < 2; { // the retried event, and the one behind it
		if seen == 0 {
			publish(t, js, outbox.Event{ID: uuid.New(), Type: orders.EventPaid})
		}
		found, err := consumer.RunOnce(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if found {
			seen++
		}
	}
	if delivered.Load() != 1 {
		t.Errorf("delivered %d times, want 1", delivered.Load())
	}
	s.browser().post(action[1], nil).want(200, "/admin/letters", "already retried")
	s.browser().post("/admin/letters/nonsense/retry", nil).want(200, "/admin/letters", "already retried")
	s.browser().post("/admin/letters/1/retry", nil).want(200, "/admin/letters", "already retried") // a number alone
}

// An operator retries one dead receipt, and then all receipts and events that are dead letters.
func TestRetryOfAllDeadLetters(t *testing.T) {
	t.Parallel()
	js, on := openBroker(t)
	s := open(t, func(w *web.Web) { w.Letters = outbox.NewLetters(on) })
	var orderIDs []string
	for range 3 {
		id := s.buy(s.browser(), "PIN-KEY", "pm_ok")
		orderIDs = append(orderIDs, id)
		s.exec(`INSERT INTO receipts (order_id, kind, lease_until, failures, dead_at, last_error)
			VALUES ('` + id + `', 'paid', now(), 24, now(), '550 <no> such user')`)
	}
	for range 3 {
		bury(t, js, outbox.Event{ID: uuid.New(), Type: orders.EventPaid, OrderID: uuid.New()}, "it is broken")
	}
	b := s.browser()
	b.get("/admin/letters").
		want(200, "/admin/letters", orderIDs[0], orderIDs[2], "550 &lt;no&gt; such user", "Retry all")
	one := "/admin/letters/receipts/" + orderIDs[0] + "/retry"
	b.post(one, nil).want(200, "/admin/letters", "The receipt is sent again", orderIDs[1]).without(orderIDs[0])
	b.post(one, nil).want(200, "/admin/letters", "already retried")
	b.post("/admin/letters/receipts/nonsense/retry", nil).want(404, "")
	b.post("/admin/letters/retry", nil).
		want(200, "/admin/letters", "All dead letters", "No dead letters", "No dead receipts").without("Retry all")
	b.post("/admin/letters/retry", nil).want(200, "/admin/letters", "All dead letters")
	stream, err := js.Stream(t.Context(), natsbroker.EventStream)
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 3 {
		t.Errorf("%d events were published again, want 3", n)
	}
	const due = "SELECT count(*) FROM receipts WHERE dead_at IS NULL AND failures = 0 AND due_at <= now()"
	if n := s.count(due); n != 3 {
		t.Errorf("%d receipts are due, want 3", n)
	}
}

func TestDeadLettersWithoutABroker(t *testing.T) {
	t.Parallel()
	on, err := natsbroker.Connect("nats://"+shoptest.FreeAddr(t), natsbroker.Settings{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(on.Close)
	s := open(t, func(w *web.Web) { w.Letters = outbox.NewLetters(on) })
	s.browser().get("/admin/letters").want(503, "/admin/letters", "no connection to the broker")
	s.browser().post("/admin/letters/1-1/retry", nil).want(503, "/admin/letters/1-1/retry", "may have happened")
}

func openBroker(t *testing.T) (jetstream.JetStream, broker.Broker) {
	t.Helper()
	conn, err := nats.Connect(shoptest.NATS(t, t.TempDir()).URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	settings := natsbroker.Settings{Window: time.Minute, MaxAge: time.Hour}
	on := natsbroker.New(js, settings, slog.New(slog.DiscardHandler))
	if err := on.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return js, on
}

func encode(t *testing.T, event outbox.Event) []byte {
	t.Helper()
	event.Data = []byte("{}")
	data, err := json.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func publish(t *testing.T, js jetstream.JetStream, event outbox.Event) {
	t.Helper()
	if _, err := js.Publish(t.Context(), "shop.events."+event.Type, encode(t, event)); err != nil {
		t.Fatal(err)
	}
}

// bury puts an event among the dead letters, as a consumer does that gives up.
func bury(t *testing.T, js jetstream.JetStream, event outbox.Event, reason string) {
	t.Helper()
	letter := &nats.Msg{Subject: "shop.dead.receipts", Data: encode(t, event), Header: nats.Header{
		"Shop-Subject": {"shop.events." + event.Type}, "Shop-Stream-Seq": {"7"}, "Shop-Error": {strconv.Quote(reason)}}}
	if _, err := js.PublishMsg(t.Context(), letter); err != nil {
		t.Fatal(err)
	}
}
