package payments_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
)

// How the line to the provider can be.
const (
	healthy = "healthy"
	loses   = "loses answers"
	cut     = "cut"
)

// step is one thing that happens. Its other members mean what the happening makes of them.
type step struct {
	What, Line string
	Order      int
	Amount     int64
	Declined   bool
}

// happenings draws a life. The first of each list is what a failure shrinks to.
var happenings = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
	return step{
		What: rapid.SampledFrom([]string{"rest", "place", "charge", "charge", "charge", "refund", "refund", "cancel",
			"expire", "hear", "reconcile",
			"arrive", "again", "deliver"}).Draw(t, "what"),
		Line:     rapid.SampledFrom([]string{healthy, loses, cut}).Draw(t, "line"),
		Order:    rapid.IntRange(0, 2).Draw(t, "order"),
		Amount:   rapid.Int64Range(0, 210).Draw(t, "amount"),
		Declined: rapid.Bool().Draw(t, "declined"),
	}
}), 8, 24)

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
	late     bool            // captured, and does not pay
	owes     bool
	answer   int // of its key, 0 while it is open
	refunds  []*back
}

// back is a refund. Made is whether the provider holds it, done whether the shop knows.
type back struct {
	amount     int64
	made, done bool
}

func (a *attempt) refunded() int64 { return a.sum(true) }
func (a *attempt) reserved() int64 { return a.sum(false) }
func (a *attempt) left() int64     { return a.amount - a.refunded() - a.reserved() }

func (a *attempt) sum(done bool) (sum int64) {
	for _, r := range a.refunds {
		if r.done == done {
			sum += r.amount
		}
	}
	return sum
}

// outcome is what the provider makes of the payment method.
func (a *attempt) outcome() payments.Status {
	switch {
	case a.canceled:
		return ""
	case a.charge.PaymentMethod == "pm_declined":
		return payments.Declined
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
	}
}

// set puts the line into a state.
func (m *machine) set(line string) {
	switch line {
	case cut:
		m.b.line.cut()
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
		PaymentMethod: "pm_ok"}, amount: 100 * s.units}
	if how.Declined {
		a.charge.PaymentMethod = "pm_declined"
	}
	live := s.live()
	answer, err := m.b.shop.Charge(m.t.Context(), a.charge)
	if s.status != orders.Placed {
		_, busy := errors.AsType[payments.InProgressError](err)
		_, paid := errors.AsType[payments.AlreadyPaidError](err)
		unsettled := live != nil && live.status == payments.Unknown
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
	if how.Line != cut {
		a.held = a.outcome()
	}
	if how.Line == healthy {
		m.settle(s, a)
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
	default:
		a.answer = 402
		if paying {
			s.status = orders.Placed
		}
	}
}

// refund asks for the amount, 0 for the rest.
func (m *machine) refund(r *rapid.T, s *sale, how step) {
	a := s.live()
	if a == nil {
		return
	}
	amount := &how.Amount
	if how.Amount == 0 {
		amount = nil
		if how.Line == healthy && a.status == payments.Succeeded { // the shop asks what the provider holds
			for _, refund := range a.refunds {
				refund.done = refund.made
			}
			s.close(a)
		}
	}
	left := a.left()
	if a.status != payments.Succeeded {
		left = 0
	}
	asked := cmp.Or(how.Amount, left)
	_, err := m.b.shop.Refund(m.t.Context(), m.b.refund(payments.Charge{ID: a.id}, dedup.Key(uuid.NewString()), amount))
	if left == 0 || asked > left {
		if _, exceeds := errors.AsType[payments.RefundExceedsError](err); !exceeds {
			r.Fatalf("refund of %d, %d are left: %v", asked, left, err)
		}
		return
	}
	if err != nil {
		r.Fatal(err)
	}
	a.refunds = append(a.refunds, &back{amount: asked, made: how.Line != cut, done: how.Line == healthy})
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
		a.owes, s.status = true, orders.Refunded
		if line == healthy {
			m.giveBack(s, a)
		}
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
func (m *machine) giveBack(s *sale, a *attempt) {
	for _, refund := range a.refunds {
		refund.done = refund.made
	}
	if left := a.left(); left > 0 {
		a.refunds = append(a.refunds, &back{amount: left, made: true, done: true})
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
		if a.held != "" {
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
			for _, refund := range a.refunds {
				refund.done = refund.made
			}
			s.close(a)
		}
	}
}

// reconcile ends all pauses first.
func (m *machine) reconcile(r *rapid.T, line string) {
	m.b.timePasses(m.t)
	m.b.exec(m.t, "UPDATE charges SET return_tries = 0") // no operator comes
	owing := map[*attempt]bool{}
	for _, s := range m.sales {
		for _, a := range s.attempts {
			owing[a] = a.owes
		}
	}
	if _, err := m.b.shop.ReconcileOnce(m.t.Context()); err != nil {
		r.Fatal(err)
	}
	if _, err := m.b.shop.ApplyOnce(m.t.Context()); err != nil {
		r.Fatal(err)
	}
	for _, s := range m.sales {
		for _, a := range s.attempts {
			if line == cut {
				continue
			}
			if line == healthy {
				for _, refund := range a.refunds {
					refund.made, refund.done = true, true
				}
				if owing[a] {
					m.giveBack(s, a)
				}
				if a.status == payments.Succeeded {
					s.close(a)
				}
			}
			if a.status == payments.Unknown {
				m.lookUp(s, a, line)
			}
		}
	}
}

func (m *machine) lookUp(s *sale, a *attempt, line string) {
	switch {
	case a.held != "":
		m.settle(s, a)
	case s.status == orders.Paying:
		a.held = a.outcome()
		if line == healthy {
			m.settle(s, a)
		}
	default: // given up, at the provider too
		a.status, a.canceled, a.answer = payments.Declined, true, 402
	}
}

// compare reads what the shop tells of the orders and of the stock.
func (m *machine) compare(r *rapid.T, after step) {
	var want, got strings.Builder
	for _, s := range m.sales {
		fmt.Fprintln(&want, s)
		fmt.Fprintln(&got, m.b.text(m.t, `SELECT concat_ws(' ', o.status, (SELECT string_agg(format('%s-%s/%s%s',
			c.status, c.amount_refunded, c.refund_reserved, CASE WHEN c.owes IS NOT NULL THEN '!' END), ' '
				ORDER BY c.id)
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
