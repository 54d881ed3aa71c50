package web_test

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// buy returns the id of a new order for which the method was charged.
func (s *shop) buy(b *browser, sku, method string) string {
	s.t.Helper()
	b.add(sku)
	page := b.post("/checkout", b.checkoutForm(method)).want(200, "/orders/")
	return strings.TrimPrefix(page.path, "/orders/")
}

var (
	forms  = regexp.MustCompile(`(?s)<form [^>]*method="post" action="([^"]+)">(.*?)</form>`)
	inputs = regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)">`)
)

// form returns the hidden fields of the page's form that is sent to the address and has the button.
func (a answer) form(action, button string) url.Values {
	a.t.Helper()
	for _, found := range forms.FindAllStringSubmatch(a.body, -1) {
		if found[1] == action && strings.Contains(found[2], button) {
			fields := url.Values{}
			for _, input := range inputs.FindAllStringSubmatch(found[2], -1) {
				fields.Set(input[1], input[2])
			}
			return fields
		}
	}
	a.t.Fatalf("no form to %s with %s on %s:\n%s", action, button, a.path, a.body)
	return nil
}

func (s *shop) count(query string, args ...any) (n int) {
	s.t.Helper()
	if err := s.pool.QueryRow(s.t.Context(), query, args...).Scan(&n); err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
	return n
}

func (s *shop) chargeOf(order string) payments.Charge {
	s.t.Helper()
	charges, err := s.pages.Payments.OfOrder(s.t.Context(), uuid.MustParse(order))
	if err != nil || len(charges) != 1 {
		s.t.Fatalf("%d charges, %v", len(charges), err)
	}
	return charges[0]
}

// Each form of an operator, pressed eight times at the same moment over two nodes: it acts once, is
// on record, and its key does nothing else.
func TestOperatorsActOnce(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	if err := s.pages.Accounts.SeedDemo(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := s.pages
	second.Replays = nil
	nodes := []string{s.url, s.serve(second)}
	buyer := s.browser()
	lost, paid := s.buy(buyer, "MUG-ONCE", "pm_error_before_capture"), s.buy(buyer, "PIN-KEY", "pm_ok")
	canceled := s.buy(buyer, "LAST-ONE", "pm_ok")
	if _, err := s.pool.Exec(t.Context(),
		"UPDATE charges SET unknown_at = now() - interval '1 hour' WHERE status = 'unknown'"); err != nil {
		t.Fatal(err)
	}
	event := payments.Event{ID: "evt_odd", Type: "capture.succeeded", Payload: []byte("{}"),
		Capture: &payments.Capture{ID: "cap_odd", Reference: uuid.NewString(), Status: payments.CaptureSucceeded,
			Amount: 1, Currency: "EUR"}}
	if err := s.pages.Payments.Receive(t.Context(), event); err != nil {
		t.Fatal(err)
	}
	refund, cancel := "/admin/charges/"+s.chargeOf(paid).ID.String()+"/refund", "/admin/orders/"+canceled+"/cancel"
	for name, test := range map[string]struct {
		page, action, button string
		fields               url.Values
		ends, notice         string
		effects              string // a query that counts them
		other                url.Values
	}{
		"settle": {"/admin/attention", "/admin/actions", "charge not captured",
			url.Values{"action": {"charge not captured"}, "reason": {"not on the dashboard"}},
			"/admin/orders/" + lost, "Done",
			`SELECT count(*) FROM operator_actions
				WHERE action = 'charge not captured' AND operator = 'admin@example.com'`,
			url.Values{"reason": {"another"}}},
		"refund": {"/admin/orders/" + paid, refund, "Refund",
			url.Values{"amount": {"2.50"}, "reason": {"it came broken"}}, "/admin/orders/" + paid,
			"refund has succeeded",
			"SELECT count(*) FROM refunds WHERE amount = 250 AND reason = 'it came broken' AND status = 'succeeded'",
			url.Values{"amount": {"2.51"}}},
		"cancel": {"/admin/orders/" + canceled, cancel, "Cancel", url.Values{}, "/admin/orders/" + canceled,
			"is canceled", "SELECT count(*) FROM cancellations", nil},
		"dismiss": {"/admin/events", "/admin/actions", "event dismissed",
			url.Values{"action": {"event dismissed"}, "reason": {"a test"}}, "/admin/events", "Done",
			"SELECT count(*) FROM operator_actions WHERE action = 'event dismissed' AND subject = 'evt_odd'",
			url.Values{"action": {"event applied"}}},
	} {
		form := s.browser().get(test.page).want(200, test.page).form(test.action, test.button)
		for field, value := range test.fields {
			form[field] = value
		}
		clicks := make([]*browser, 8)
		for i := range clicks {
			clicks[i] = s.browser()
			clicks[i].url = nodes[i%2]
		}
		answers := shoptest.Race(len(clicks), func(i int) answer { return clicks[i].post(test.action, form) })
		for _, answer := range append(answers, s.browser().post(test.action, form)) {
			if answer.status == http.StatusConflict && strings.Contains(answer.body, "still running") {
				continue // a refund asks the provider meanwhile
			}
			answer.want(200, test.ends, test.notice)
		}
		if n := s.count(test.effects); n != 1 {
			t.Errorf("%s: %d effects, want 1", name, n)
		}
		if test.other == nil {
			continue
		}
		for field, value := range test.other {
			form[field] = value
		}
		s.browser().post(test.action, form).want(422, test.action, "Nothing was changed", "with other values")
		if n := s.count(test.effects); n != 1 {
			t.Errorf("%s with another meaning: %d effects", name, n)
		}
	}
	s.wantCaptures(2)
	if status := s.chargeOf(lost).Status; status != payments.Declined {
		t.Errorf("the charge settled by hand is %s", status)
	}

	s.browser().get("/admin/attention").want(200, "/admin/attention", "Nothing needs attention")
	s.browser().get("/admin/orders/"+lost).want(200, "/admin/orders/", "was settled by hand: no money moved",
		"By admin@example.com: “not on the dashboard”")
	s.browser().get("/admin/orders/"+paid).want(200, "/admin/orders/", "By admin@example.com: “it came broken”")
	s.browser().get("/admin/orders/"+canceled).want(200, "/admin/orders/", "By admin@example.com.")
	for _, order := range []string{lost, paid, canceled} {
		buyer.get("/orders/"+order).want(200, "/orders/").without("admin@example.com", "dashboard", "it came broken")
	}
	buyer.get("/orders/"+lost).want(200, "/orders/", "was settled by hand: no money moved")
}

func TestOperatorsFormsThatAreRefused(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	if err := s.pages.Accounts.SeedDemo(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := s.browser()
	paid := s.buy(b, "PIN-KEY", "pm_ok")
	charge := s.chargeOf(paid)
	refund, cancel := "/admin/charges/"+charge.ID.String()+"/refund", "/admin/orders/"+paid+"/cancel"
	settle := url.Values{"action": {"charge captured"}, "subject": {charge.ID.String()}, "reason": {"r"},
		"provider_id": {"cap_x"}}
	with := func(form url.Values, field, value string) url.Values {
		changed := url.Values{"key": {uuid.NewString()}}
		for name, values := range form {
			changed[name] = slices.Clone(values)
		}
		changed.Set(field, value)
		return changed
	}
	for _, test := range []struct {
		path   string
		form   url.Values
		status int
		says   string
	}{
		{"/admin/actions", with(settle, "key", ""), 400, "key"},
		{"/admin/actions", with(settle, "reason", " "), 400, "reason"},
		{"/admin/actions", with(settle, "provider_id", ""), 400, "provider_id"},
		{"/admin/actions", with(settle, "reason", "a\xff"), 400, "reason"},
		{"/admin/actions", with(settle, "subject", "a\x00"), 400, "subject"},
		{"/admin/actions", with(settle, "action", "steal"), 400, "action"},
		{"/admin/actions", with(settle, "subject", uuid.NewString()), 404, ""},
		{"/admin/actions", with(settle, "action", "charge captured"), 409, "Nothing was changed"},
		{"/admin/actions", with(settle, "action", "debt ended"), 409, "owes nothing"},
		{refund, with(url.Values{"reason": {"r"}}, "amount", "6.51"), 409, "can still give back €6.50"},
		{refund, with(url.Values{"reason": {"r"}}, "amount", "6,50"), 400, "amount"},
		{refund, with(url.Values{}, "amount", "1"), 400, "reason"},
		{"/admin/charges/" + uuid.NewString() + "/refund", with(url.Values{}, "reason", "r"), 404, ""},
		{"/admin/orders/" + uuid.NewString() + "/cancel", with(url.Values{}, "reason", "r"), 404, ""},
	} {
		b.post(test.path, test.form).want(test.status, test.path, test.says)
	}
	b.do(http.MethodPost, cancel, url.Values{"key": {"k"}}, http.Header{"Sec-Fetch-Site": {"cross-site"}}).want(403,
		cancel, "did not come from this shop")
	if n := s.count("SELECT (SELECT count(*) FROM operator_actions) + (SELECT count(*) FROM refunds) + " +
		"(SELECT count(*) FROM cancellations)"); n != 0 {
		t.Errorf("%d rows of what was refused", n)
	}
	b.post(cancel, url.Values{"key": {"k"}}).want(200, "/admin/orders/"+paid, "is canceled")
	b.post(cancel, url.Values{"key": {"l"}}).want(409, cancel, "The order has ended")
}

// Outside the demo, the account of the session is on record.
func TestOperatorIsWhoSignedIn(t *testing.T) {
	t.Parallel()
	s := open(t, serious)
	admin, err := s.pages.Accounts.IssueToken(t.Context(), "olga@example.com", true)
	if err != nil {
		t.Fatal(err)
	}
	order := s.buy(s.browser(), "PIN-KEY", "pm_ok")
	if _, err := s.pool.Exec(t.Context(), `UPDATE charges SET owes = 'canceled', return_tries = 8`); err != nil {
		t.Fatal(err)
	}
	b := s.browser()
	b.post("/admin/login", url.Values{"token": {admin}}).want(200, "/admin")
	form := b.get("/admin/attention").want(200, "/admin/attention", "no more automatic tries").form(
		"/admin/actions", "debt ended")
	form.Set("action", "debt ended")
	form.Set("reason", "paid by bank transfer")
	b.post("/admin/actions", form).want(200, "/admin/orders/"+order, "By olga@example.com: “paid by bank transfer”",
		"written off by an operator")
	if n := s.count(`SELECT count(*) FROM operator_actions a JOIN customers c ON c.id = a.customer_id
		WHERE c.email = 'olga@example.com' AND a.operator = c.email`); n != 1 {
		t.Errorf("%d actions of Olga, want 1", n)
	}
}
