package payments_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// How the line to the provider can be.
const (
	healthy = "healthy"
	loses   = "loses answers"
	cut     = "cut"
	refuses = "refuses"
	// works means that the provider goes on working on refunds, and answers all else.
	works = "works on refunds"
)

// step is one thing that happens. Its other members mean what the happening makes of them.
type step struct {
	What, Line string
	Order      int
	Amount     int64
	Declined   bool
	Method     string
}

// happenings draws a life. The first of each list is what a failure shrinks to.
var happenings = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
	return step{
		What: rapid.SampledFrom([]string{"rest", "place", "charge", "charge", "charge", "refund", "refund", "refund",
			"cancel", "cancel", "expire", "hear", "reconcile", "reconcile", "arrive", "again",
			"deliver", "decide", "outside", "dispute", "fail"}).Draw(t, "what"),
		Line: rapid.SampledFrom([]string{healthy, healthy, healthy, works, loses, cut,
			refuses}).Draw(t, "line"),
		Order: rapid.IntRange(0, 2).Draw(t, "order"),
		Amount: rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, 60),
			rapid.Int64Range(0, 210)).Draw(t, "amount"),
		Declined: rapid.Bool().Draw(t, "declined"),
		Method: rapid.SampledFrom([]string{"pm_ok", "pm_ok", "pm_ok", "pm_declined",
			"pm_requires_action"}).Draw(t, "method"),
	}
}), 10, 30)

// sale is what an order must be.
type sale struct {
	id       uuid.UUID
	units    int64
	status   orders.Status
	attempts []*attempt
}

// live is the charge that pays or still can, of which an order has at most one, or nil.
func (s *sale) live() *attempt {
	for _, a := range s.attempts {
		if a.status != payments.Declined && !a.late {
			return a
		}
	}
	return nil
}

func (s *sale) String() string {
	told := string(s.status)
	for _, a := range s.attempts {
		told += fmt.Sprintf(" %s-%d/%d", a.status, a.refunded(), a.reserved())
		if a.owes {
			told += "!"
		}
	}
	return told
}

// attempt is what a charge must be.
type attempt struct {
	charge   payments.ChargeOrder
	id       uuid.UUID
	amount   int64
	status   payments.Status
	held     payments.Status // by the provider, "" for nothing
	canceled bool            // at the provider
	refused  bool            // by the provider, on the first request
	dispute  string
	late     bool // captured, and does not pay
	owes     bool
	answer   int // of its key, 0 while it is open
	refunds  []*back
}

// back is a refund. Made is whether the provider holds it, done whether the shop knows. Refused is
// whether the provider refused to make it while an earlier request was on its way, working whether
// the provider works on it, outside whether the shop did not ask for it.
type back struct {
	amount                                int64
	made, done, refused, working, outside bool
}

func (a *attempt) refunded() int64 { return a.sum(true) }
func (a *attempt) reserved() int64 { return a.sum(false) }
func (a *attempt) left() int64     { return a.amount - a.refunded() - a.reserved() }

func (a *attempt) sum(done bool) (sum int64) {
	for _, r := range a.refunds {
		if r.done == done && (done || !r.outside) {
			sum += r.amount
		}
	}
	return sum
}

// keeps is what is left at the provider.
func (a *attempt) keeps() int64 {
	keeps := a.amount
	for _, r := range a.refunds {
		if r.made {
			keeps -= r.amount
		}
	}
	return keeps
}

// unheard reports whether the shop does not know of a refund outside.
func (a *attempt) unheard() bool {
	return slices.ContainsFunc(a.refunds, func(r *back) bool { return r.outside && !r.done })
}

// book is what follows when the shop looks at what the provider has given back.
func (s *sale) book(a *attempt) {
	for _, r := range a.refunds {
		r.done = r.made
	}
	s.close(a)
}

// open reports whether the charge can still capture money.
func (a *attempt) open() bool {
	return a.status == payments.Unknown || a.status == payments.RequiresAction
}

// outcome is what the provider makes of the payment method.
func (a *attempt) outcome() payments.Status {
	switch {
	case a.canceled:
		return ""
	case a.charge.PaymentMethod == "pm_declined":
		return payments.Declined
	case a.charge.PaymentMethod == "pm_requires_action":
		return payments.RequiresAction
	}
	return payments.Succeeded
}

// machine is a model of the shop beside the shop: after each step both must tell the same.
type machine struct {
	t     testing.TB
	b     *bundle
	sku   string
	stock int64
	sales []*sale
}

// Whatever happens to three orders of a scarce product, in any order and over a line that loses
// answers: the shop does what a model of a page does, and when all is told the provider holds the
// money of the paid orders and no other.
func TestShopIsItsModel(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	b := setup(t)
	rapid.Check(t, func(r *rapid.T) {
		m := &machine{t: t, b: b, sku: "S-" + uuid.NewString()}
		if err := b.orders.AddProduct(t.Context(),
			orders.Product{SKU: m.sku, Name: "Scarce", Description: "Few.", Currency: "EUR", UnitPrice: 100},
			2); err != nil {
			t.Fatal(err)
		}
		m.deliver(r, 3)
		m.place(r, 1)
		for _, s := range happenings.Draw(r, "steps") {
			m.take(r, s)
			m.compare(r, s)
		}
		m.finish(r, rapid.Bool().Draw(r, "what was given up arrives"))
	})
	if n := b.count(t, "SELECT count(*) FROM provider_events WHERE state <> 'applied'"); n != 0 {
		t.Errorf("%d events were quarantined", n)
	}
}

// take lets one thing happen, to the shop and to the model.
func (m *machine) take(r *rapid.T, s step) {
	s0 := m.sales[s.Order%len(m.sales)]
	m.set(s.Line)
	defer m.b.line.heal()
	switch s.What {
	case "deliver":
		m.deliver(r, 1)
	case "place":
		m.place(r, 1+s.Amount%2)
	case "charge":
		m.charge(r, s0, s)
	case "again":
		m.again(r, s0)
	case "refund":
		m.refund(r, s0, s)
	case "cancel":
		m.cancel(r, s0, s.Line)
	case "expire":
		m.expire(r, s0)
	case "arrive":
		m.arrive(r, s0)
	case "hear":
		m.hear(r, s0)
	case "reconcile":
		m.reconcile(r, s.Line)
	case "decide":
		m.decide(s0, s.Declined)
	case "outside":
		m.outside(r, s0, s.Amount)
	case "dispute":
		m.dispute(r, s0)
	case "fail":
		m.fail(r, s0)
	}
}

// set puts the line into a state.
func (m *machine) set(line string) {
	switch line {
	case cut:
		m.b.line.cut()
	case refuses:
		m.b.line.onCapture(refuseCapture)
		m.b.line.onRefund(refuseRefund)
	case works:
		m.b.line.onRefund(func(context.Context,
			func() (payments.ProviderRefund, error)) (payments.ProviderRefund, error) {
			return payments.ProviderRefund{ID: "ref_works_" + uuid.NewString(), Status: payments.RefundPending}, nil
		})
	case loses:
		m.b.line.onCapture(loseAnswer)
		m.b.line.onRefund(func(_ context.Context,
			ask func() (payments.ProviderRefund, error)) (payments.ProviderRefund, error) {
			if _, err := ask(); err != nil {
				return payments.ProviderRefund{}, err
			}
			return payments.ProviderRefund{}, errCut
		})
		m.b.line.onFindRefunds(errCut)
	}
}

func (m *machine) deliver(r *rapid.T, n int64) {
	_, err := m.b.orders.Receive(m.t.Context(),
		orders.ReceiveDelivery{CustomerID: m.b.alice, Key: dedup.Key(uuid.NewString()),
			Lines: []orders.LineRequest{{SKU: m.sku, Quantity: n}}})
	if err != nil {
		r.Fatal(err)
	}
	m.stock += n
}

func (m *machine) place(r *rapid.T, units int64) {
	answer, err := m.b.orders.Place(m.t.Context(),
		orders.PlaceOrder{CustomerID: m.b.alice, Key: dedup.Key(uuid.NewString()),
			Email: "alice@example.com", Lines: []orders.LineRequest{{SKU: m.sku, Quantity: units}}})
	if m.stock < units {
		if _, short := errors.AsType[orders.OutOfStockError](err); !short {
			r.Fatalf("%d of %d units: %v", units, m.stock, err)
		}
		return
	}
	if err != nil {
		r.Fatal(err)
	}
	m.stock -= units
	m.sales = append(m.sales, &sale{id: answer.ID, units: units, status: orders.Placed})
}

// charge asks to pay under a new key.
func (m *machine) charge(r *rapid.T, s *sale, how step) {
	a := &attempt{charge: payments.ChargeOrder{CustomerID: m.b.alice, Key: dedup.Key(uuid.NewString()), OrderID: s.id,
		PaymentMethod: how.Method}, amount: 100 * s.units}
	live := s.live()
	answer, err := m.b.shop.Charge(m.t.Context(), a.charge)
	if s.status != orders.Placed {
		_, busy := errors.AsType[payments.InProgressError](err)
		_, paid := errors.AsType[payments.AlreadyPaidError](err)
		unsettled := live != nil && live.open()
		if busy != unsettled || paid != (s.status == orders.Paid) ||
			(!busy && !paid && !errors.Is(err, payments.ErrOrderNotPayable)) {
			r.Fatalf("charge of the order %s: %v", s, err)
		}
		return
	}
	if err != nil {
		r.Fatal(err)
	}
	s.attempts = append(s.attempts, a)
	a.id, a.status, s.status = answer.ID, payments.Unknown, orders.Paying
	switch how.Line {
	case healthy, works:
		a.held = a.outcome()
		m.settle(s, a)
	case loses:
		a.held = a.outcome()
	case refuses:
		a.refused = true
		m.giveUp(s, a)
	}
	if want := cmp.Or(a.answer, 202); answer.Status != want {
		r.Fatalf("charge: %d %s, want %d", answer.Status, answer.Body, want)
	}
}

// again asks every charge once more, under its key, with its meaning and with another.
func (m *machine) again(r *rapid.T, s *sale) {
	for _, a := range s.attempts {
		answer, err := m.b.shop.Charge(m.t.Context(), a.charge)
		want := cmp.Or(a.answer, 202)
		if err != nil || answer.ID != a.id || answer.Final != (a.answer != 0) || !answer.Replayed ||
			answer.Status != want {
			r.Fatalf("again: %+v %s, %v; want %d", answer, answer.Body, err, want)
		}
		other := a.charge
		other.PaymentMethod += "_2"
		if answer, err := m.b.shop.Charge(m.t.Context(), other); !errors.Is(err, dedup.ErrKeyReused) {
			r.Fatalf("the key of another meaning: %+v, %v", answer, err)
		}
	}
}

// settle is what follows when the shop hears what the provider holds.
func (m *machine) settle(s *sale, a *attempt) {
	a.status = a.held
	paying := s.status == orders.Paying
	switch {
	case paying && a.held == payments.Succeeded:
		s.status, a.answer = orders.Paid, 201
	case a.held == payments.Succeeded: // too late: all of it goes back
		a.late, a.owes = true, true
	case a.held == payments.RequiresAction:
	default:
		a.answer = 402
		if paying {
			s.status = orders.Placed
		}
	}
}

// giveUp ends a charge that nothing will come of.
func (m *machine) giveUp(s *sale, a *attempt) {
	a.status, a.held, a.answer = payments.Declined, "", 402
	if s.status == orders.Paying {
		s.status = orders.Placed
	}
}

// decide lets the buyer approve or refuse at the provider.
func (m *machine) decide(s *sale, refuse bool) {
	for _, a := range s.attempts {
		if a.held != payments.RequiresAction {
			continue
		}
		a.held = payments.Succeeded
		decision := "approve"
		if refuse {
			a.held, decision = payments.Declined, "refuse"
		}
		decideAt(m.t, m.b.line.captures(m.t, a.id)[0].NextAction.URL, decision)
	}
}

// outside gives back at the provider, as from its dashboard, what the shop has neither given back
// nor asked for.
func (m *machine) outside(r *rapid.T, s *sale, amount int64) {
	for _, a := range s.attempts {
		if a.status != payments.Succeeded || a.reserved() > 0 || amount == 0 || amount > a.keeps() {
			continue
		}
		given, err := m.b.line.provider.Refund(m.t.Context(), payments.RefundRequest{Key: uuid.NewString(),
			CaptureID: m.b.line.captures(m.t, a.id)[0].ID, Amount: amount})
		if err != nil || given.Status != payments.RefundSucceeded {
			r.Fatalf("refund outside: %+v, %v", given, err)
		}
		a.refunds = append(a.refunds, &back{amount: amount, made: true, outside: true})
	}
}

// dispute opens a dispute over each charge of the order, or wins it for the shop.
func (m *machine) dispute(r *rapid.T, s *sale) {
	for _, a := range s.attempts {
		switch {
		case a.status != payments.Succeeded || a.dispute == payments.DisputeWon:
			continue
		case a.dispute == payments.DisputeOpen:
			a.dispute = payments.DisputeWon
		default:
			a.dispute = payments.DisputeOpen
		}
		capture := m.b.line.captures(m.t, a.id)[0]
		dispute := payments.Dispute{ID: "dp_" + capture.ID, CaptureID: capture.ID, Status: a.dispute, Amount: a.amount,
			Currency: "EUR"}
		if err := m.b.shop.Receive(m.t.Context(), payments.Event{ID: uuid.NewString(), Type: "dispute." + a.dispute,
			Dispute: &dispute, Payload: payload(dispute)}); err != nil {
			r.Fatal(err)
		}
	}
}

// fail brings the news that a refund on which the provider worked has failed.
func (m *machine) fail(r *rapid.T, s *sale) {
	for _, a := range s.attempts {
		rows, err := m.b.pool.Query(m.t.Context(), `SELECT id, provider_id, amount FROM refunds
			WHERE charge_id = $1 AND status = 'pending' AND provider_id LIKE 'ref_works_%'`, a.id)
		if err != nil {
			r.Fatal(err)
		}
		open, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
			ID         uuid.UUID
			ProviderID string
			Amount     int64
		}])
		if err != nil {
			r.Fatal(err)
		}
		for _, refund := range open {
			failed := payments.ProviderRefund{ID: refund.ProviderID, Reference: refund.ID.String(),
				CaptureID: m.b.line.captures(m.t, a.id)[0].ID, Status: payments.RefundFailed,
				Amount: refund.Amount, Currency: "EUR"}
			if err := m.b.shop.Receive(m.t.Context(), refundEvent(failed)); err != nil {
				r.Fatal(err)
			}
		}
		a.refunds = slices.DeleteFunc(a.refunds, func(refund *back) bool { return refund.working && !refund.made })
	}
}

// refund asks for the amount, 0 for the rest.
func (m *machine) refund(r *rapid.T, s *sale, how step) {
	a := s.live()
	answers := how.Line == healthy || how.Line == refuses || how.Line == works
	if a == nil || a.unheard() && !answers { // which of two refunds finds enough is a matter of luck
		return
	}
	amount := &how.Amount
	if how.Amount == 0 {
		amount = nil
		if answers && a.status == payments.Succeeded { // the shop asks what the provider holds
			s.book(a)
		}
	}
	left := a.left()
	if a.status != payments.Succeeded {
		left = 0
	}
	asked := cmp.Or(how.Amount, left)
	answer, err := m.b.shop.Refund(m.t.Context(),
		m.b.refund(payments.Charge{ID: a.id}, dedup.Key(uuid.NewString()), amount))
	if a.dispute == payments.DisputeOpen {
		if !errors.Is(err, payments.ErrDisputed) {
			r.Fatalf("refund of a disputed charge: %v", err)
		}
		return
	}
	if left == 0 || asked > left {
		if _, exceeds := errors.AsType[payments.RefundExceedsError](err); !exceeds {
			r.Fatalf("refund of %d, %d are left: %v", asked, left, err)
		}
		return
	}
	if err != nil {
		r.Fatal(err)
	}
	want := 201
	switch {
	case how.Line == refuses, (how.Line == healthy || how.Line == loses) && asked > a.keeps():
		// a failed refund is as if it had never been
		want = 402
	default:
		if how.Line != healthy {
			want = 202
		}
		a.refunds = append(a.refunds, &back{amount: asked, made: how.Line == healthy || how.Line == loses,
			done: how.Line == healthy, working: how.Line == works})
	}
	if answer.Status != want {
		r.Fatalf("refund of %d: %d %s, want %d", asked, answer.Status, answer.Body, want)
	}
	s.close(a)
}

// close ends a paid order all of whose money is back.
func (s *sale) close(a *attempt) {
	if a.refunded() < a.amount {
		return
	}
	a.answer = cmp.Or(a.answer, 201)
	if s.status == orders.Paid {
		s.status = orders.Refunded
	}
}

func (m *machine) cancel(r *rapid.T, s *sale, line string) {
	_, err := m.b.shop.Cancel(m.t.Context(),
		payments.CancelOrder{CustomerID: m.b.alice, Key: dedup.Key(uuid.NewString()), OrderID: s.id})
	switch s.status {
	case orders.Placed, orders.Paying:
		s.status = orders.Canceled
	case orders.Paid:
		a := s.live()
		if a.dispute == payments.DisputeOpen {
			if !errors.Is(err, payments.ErrDisputed) {
				r.Fatalf("cancel of an order whose charge is disputed: %v", err)
			}
			return
		}
		a.owes, s.status = true, orders.Refunded
		m.giveBack(s, a, line)
	default:
		if !errors.Is(err, payments.ErrOrderNotCancelable) {
			r.Fatalf("cancel of the order %s: %v", s, err)
		}
		return
	}
	m.stock += s.units
	if err != nil {
		r.Fatal(err)
	}
}

// giveBack is what follows when the shop returns what a charge owes: first it asks what the
// provider holds.
func (m *machine) giveBack(s *sale, a *attempt, line string) {
	if line == cut || line == loses || a.dispute == payments.DisputeOpen {
		return
	}
	s.book(a)
	if left := a.left(); left > 0 && (line == healthy || line == works) {
		made := line == healthy
		a.refunds = append(a.refunds, &back{amount: left, made: made, done: made, working: !made})
	}
	s.close(a)
}

func (m *machine) expire(r *rapid.T, s *sale) {
	m.b.exec(m.t, "UPDATE orders SET expires_at = now() - interval '1 day' WHERE id = $1", s.id)
	if _, err := m.b.orders.ExpireOnce(m.t.Context()); err != nil {
		r.Fatal(err)
	}
	if s.status == orders.Placed || s.status == orders.Paying {
		s.status = orders.Expired
		m.stock += s.units
	}
}

// arrive brings a request that was thought lost to the provider after all.
func (m *machine) arrive(r *rapid.T, s *sale) {
	for _, a := range s.attempts {
		if a.held != "" || a.refused {
			continue
		}
		_, err := m.b.line.provider.Capture(m.t.Context(), payments.CaptureRequest{Key: "charge_" + a.id.String(),
			Reference: a.id.String(), OrderID: s.id.String(), Amount: a.amount, Currency: "EUR",
			PaymentMethod: a.charge.PaymentMethod})
		if err != nil {
			r.Fatal(err)
		}
		a.held = a.outcome()
	}
}

// hear brings all that the provider can tell about the order. A decline of an open charge waits for
// the reconciler.
func (m *machine) hear(r *rapid.T, s *sale) {
	for _, a := range s.attempts {
		for _, capture := range m.b.line.captures(m.t, a.id) {
			if capture.Status == payments.CaptureRequiresAction {
				continue // the provider has no event for that
			}
			if err := m.b.shop.Receive(m.t.Context(), captureEvent(capture)); err != nil {
				r.Fatalf("%s of a charge that is %s: %v", capture.Status, a.status, err)
			}
			if a.status != a.held && a.held == payments.Succeeded {
				m.settle(s, a)
			}
			refunds, err := m.b.line.provider.FindRefunds(m.t.Context(), capture.ID)
			if err != nil {
				r.Fatal(err)
			}
			for _, refund := range refunds {
				if err := m.b.shop.Receive(m.t.Context(), refundEvent(refund)); err != nil {
					r.Fatalf("refund: %v", err)
				}
			}
			s.book(a)
		}
	}
}

// reconcile ends all pauses first. Charges and refunds come to rest before what is owed is looked
// at: which of them is faster is a matter of luck.
func (m *machine) reconcile(r *rapid.T, line string) {
	m.b.timePasses(m.t)
	m.b.exec(m.t, "UPDATE refunds SET asked_at = now() - interval '1 minute' WHERE settled_at IS NULL")
	m.b.exec(m.t, "UPDATE charges SET return_due = now() + interval '1 hour' WHERE return_due IS NOT NULL")
	m.round(r)
	for _, s := range m.sales {
		for _, a := range s.attempts {
			m.lookAtRefunds(s, a, line)
			if a.open() && line != cut {
				m.lookUp(s, a, line)
			}
		}
	}
	m.b.exec(m.t, "UPDATE charges SET lease_until = now() + interval '1 hour' WHERE settled_at IS NULL")
	m.b.exec(m.t, "UPDATE refunds SET lease_until = now() + interval '1 hour' WHERE settled_at IS NULL")
	m.b.exec(m.t, "UPDATE charges SET return_tries = 0") // no operator comes
	m.b.exec(m.t, "UPDATE charges SET return_due = now() - interval '1 second' WHERE return_due IS NOT NULL")
	m.round(r)
	for _, s := range m.sales {
		for _, a := range s.attempts {
			if a.owes && a.left() > 0 {
				m.giveBack(s, a, line)
			}
		}
	}
}

func (m *machine) round(r *rapid.T) {
	if _, err := m.b.shop.ReconcileOnce(m.t.Context()); err != nil {
		r.Fatal(err)
	}
	if _, err := m.b.shop.ApplyOnce(m.t.Context()); err != nil {
		r.Fatal(err)
	}
}

// lookAtRefunds is what follows when the shop asks what came of its open refunds. The provider
// makes those that it does not hold, or refuses; one that was refused and is not held, fails.
func (m *machine) lookAtRefunds(s *sale, a *attempt, line string) {
	if line == cut || line == loses {
		return
	}
	a.refunds = slices.DeleteFunc(a.refunds, func(refund *back) bool {
		switch {
		case refund.done || refund.outside:
		case refund.made:
			refund.done = true
		case refund.refused:
			return true
		case line == refuses:
			refund.refused = true
		case line == works:
			refund.working = true
		default:
			refund.made, refund.done = true, true
		}
		return false
	})
	s.close(a)
}

func (m *machine) lookUp(s *sale, a *attempt, line string) {
	waits := s.status == orders.Paying
	switch {
	case a.held == payments.RequiresAction && !waits, // given up, at the provider too
		a.held == "" && (!waits || line == refuses):
		a.canceled = true
		m.giveUp(s, a)
	case a.held != "":
		m.settle(s, a)
	default:
		a.held = a.outcome()
		if line == healthy || line == works {
			m.settle(s, a)
		}
	}
}

// compare reads what the shop tells of the orders and of the stock.
func (m *machine) compare(r *rapid.T, after step) {
	var want, got strings.Builder
	for _, s := range m.sales {
		fmt.Fprintln(&want, s)
		fmt.Fprintln(&got, m.b.text(m.t, `SELECT concat_ws(' ', o.status, (SELECT string_agg(format('%s-%s/%s%s',
			c.status, c.amount_refunded, c.refund_reserved, CASE WHEN c.owes IS NOT NULL THEN '!' END), ' '
				ORDER BY c.created_at, c.id)
			FROM charges c WHERE c.order_id = o.id)) FROM orders o WHERE o.id = $1`, s.id))
	}
	fmt.Fprintln(&want, m.stock)
	fmt.Fprintln(&got, m.b.count(m.t, "SELECT available FROM stock WHERE sku = $1", m.sku))
	if got.String() != want.String() {
		r.Fatalf("after %+v the shop says\n%swant\n%s", after, got.String(), want.String())
	}
}

// finish heals everything and counts the money.
func (m *machine) finish(r *rapid.T, late bool) {
	for range 4 { // the charges, and what late ones owe
		m.reconcile(r, healthy)
		for _, s := range m.sales {
			m.decide(s, false)
			for slices.ContainsFunc(s.attempts, func(a *attempt) bool { return a.dispute == payments.DisputeOpen }) {
				m.dispute(r, s)
			}
			if late {
				m.arrive(r, s)
			}
			m.hear(r, s)
		}
	}
	m.compare(r, step{What: "the end"})
	for _, s := range m.sales {
		var kept, due int64
		for _, a := range s.attempts {
			took, gave := m.b.provider(m.t, a.id)
			kept += took - gave
			if s.status == orders.Paid && a.status == payments.Succeeded && !a.late {
				due = a.amount - a.refunded()
			}
			if a.reserved() != 0 || a.answer == 0 || a.owes && a.left() > 0 {
				r.Fatalf("never settled: %s", s)
			}
		}
		if kept != due {
			r.Fatalf("the provider holds %d of the order %s, want %d", kept, s, due)
		}
	}
}
