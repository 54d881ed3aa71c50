package payments_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/problem"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// scene is an object of money in a state that is not final.
type scene struct {
	*bundle
	order   orders.Order
	charge  payments.Charge
	capture payments.Capture
	subject string // the id of the object
}

// edge leads out of a state.
type edge struct {
	object, state string
	// by is the function that takes it.
	by    string
	reach func(t *testing.T, s *scene)
	take  func(t *testing.T, s *scene)
}

// Edges of the program, and those of an operator.
var (
	program = []edge{
		{"charge", "pending", "ReconcileOnce", crashed(true), reconciled},
		{"charge", "unknown", "ReconcileOnce", unknown(true), reconciled},
		{"charge", "requires_action", "ReconcileOnce", asked, func(t *testing.T, s *scene) {
			s.expire(t, s.order)
			reconciled(t, s)
		}},
		{"charge", "owing", "ReconcileOnce", owing, reconciled},
		{"charge", "stuck", "Receive", stuck, refundedOutside},
		{"refund", "pending", "ReconcileOnce", refundPending, reconciled},
		{"refund", "unknown", "ReconcileOnce", refundUnknown(true), reconciled},
		{"dispute", "open", "Receive", disputed, func(t *testing.T, s *scene) { s.dispute(t, payments.DisputeWon) }},
		{"order", "placed", "orders.ExpireOnce", placed, func(t *testing.T, s *scene) { s.expire(t, s.order) }},
		{"order", "paying", "ReconcileOnce", ofOrder(unknown(true)), reconciled},
		{"order", "paid", "Receive", ofOrder(paid), refundedOutside},
		{"event", "received", "ApplyOnce", early, reconciled},
	}
	operator = []edge{
		{"charge", "pending", "Operate", crashed(true), operate(payments.SettleCaptured)},
		{"charge", "pending", "Operate", crashed(false), operate(payments.SettleNotCaptured)},
		{"charge", "unknown", "Operate", unknown(true), operate(payments.SettleCaptured)},
		{"charge", "unknown", "Operate", unknown(false), operate(payments.SettleNotCaptured)},
		{"charge", "requires_action", "Operate", asked, operate(payments.SettleNotCaptured)},
		{"charge", "owing", "Operate", owing, operate(payments.EndDebt)},
		{"charge", "stuck", "Operate", stuck, operate(payments.RetryReturn)},
		{"charge", "stuck", "Operate", stuck, operate(payments.EndDebt)},
		{"refund", "pending", "Operate", refundPending, operate(payments.SettleRefunded)},
		{"refund", "unknown", "Operate", refundUnknown(true), operate(payments.SettleRefunded)},
		{"refund", "unknown", "Operate", refundUnknown(false), operate(payments.SettleNotRefunded)},
		{"dispute", "open", "Operate", disputed, operate(payments.CloseWon)},
		{"order", "placed", "Cancel", placed, canceledByAdmin},
		{"order", "paying", "Cancel", ofOrder(unknown(false)), canceledByAdmin},
		{"order", "paying", "Operate", ofOrder(unknown(false)), func(t *testing.T, s *scene) {
			s.subject = s.charge.ID.String()
			operate(payments.SettleNotCaptured)(t, s)
			s.subject = s.order.ID.String()
		}},
		{"order", "paid", "Cancel", ofOrder(paid), canceledByAdmin},
		{"order", "paid", "Refund", ofOrder(paid), func(t *testing.T, s *scene) { s.give(t, s.charge, 100) }},
		{"event", "received", "Operate", early, operate(payments.RedoEvent)},
		{"event", "received", "Operate", early, operate(payments.DismissEvent)},
		{"event", "quarantined", "Operate", quarantined, operate(payments.RedoEvent)},
		{"event", "quarantined", "Operate", quarantined, operate(payments.DismissEvent)},
	}
)

// stateOf selects the state of each object. A charge whose money has to go back is owing, or stuck
// if no try is to come.
var stateOf = map[string]string{
	"charge": `SELECT CASE WHEN owes IS NULL OR owed_ended_at IS NOT NULL OR amount_refunded + refund_reserved = amount
		THEN status WHEN return_due IS NULL THEN 'stuck' ELSE 'owing' END FROM charges WHERE id::text = $1`,
	"refund":  "SELECT status FROM refunds WHERE id::text = $1",
	"dispute": "SELECT status FROM disputes WHERE id = $1",
	"order":   "SELECT status FROM orders WHERE id::text = $1",
	"event":   "SELECT state FROM provider_events WHERE id = $1",
}

// No state is a dead end: the program leaves each that is not final, and so does an operator, who
// acts once however often the form comes. A quarantined event waits for an operator by definition.
func TestEveryStateHasAWayOut(t *testing.T) {
	t.Parallel()
	b := setup(t)
	leaves := map[string]bool{}
	for by, edges := range map[string][]edge{"program": program, "operator": operator} {
		for i, e := range edges {
			s := &scene{bundle: b}
			e.reach(t, s)
			b.line.heal()
			name := fmt.Sprintf("%s %d: %s of a %s %s", by, i, e.by, e.state, e.object)
			if state := b.text(t, stateOf[e.object], s.subject); state != e.state {
				t.Fatalf("%s: it is %s", name, state)
			}
			e.take(t, s)
			if t.Failed() {
				t.Fatal(name)
			}
			if state := b.text(t, stateOf[e.object], s.subject); state == e.state {
				t.Fatalf("%s: it still is", name)
			}
			b.settleAll(t)
			leaves[by+" "+e.object+" "+e.state] = true
		}
	}
	final := map[string]bool{"charge succeeded": true, "charge declined": true, "refund succeeded": true,
		"refund failed": true, "dispute won": true, "dispute lost": true, "order refunded": true,
		"order canceled": true, "order expired": true, "event applied": true, "event dismissed": true}
	for object, constraint := range map[string]string{
		"charge": "charges_status_check", "refund": "refunds_status_check",
		"dispute": "disputes_status_check", "order": "orders_status_check", "event": "provider_events_state_check"} {
		for _, state := range b.states(t, constraint) {
			if name := object + " " + state; !final[name] {
				if !leaves["program "+name] && name != "event quarantined" {
					t.Errorf("the program never leaves %s", name)
				}
				if !leaves["operator "+name] {
					t.Errorf("no operator leaves %s", name)
				}
			}
		}
	}
}

// states are those that a column may have.
func (b *bundle) states(t *testing.T, constraint string) (states []string) {
	t.Helper()
	text := b.text(t, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = $1", constraint)
	for _, state := range regexp.MustCompile(`'([a-z_]+)'`).FindAllStringSubmatch(text, -1) {
		states = append(states, state[1])
	}
	if len(states) < 3 {
		t.Fatalf("%s: %s", constraint, text)
	}
	return states
}

func reconciled(t *testing.T, s *scene) {
	t.Helper()
	s.timePasses(t)
	s.reconcile(t)
}

func placed(t *testing.T, s *scene) {
	t.Helper()
	s.order = s.place(t)
	s.subject = s.order.ID.String()
}

// ofOrder makes the order the object of the scene.
func ofOrder(reach func(*testing.T, *scene)) func(*testing.T, *scene) {
	return func(t *testing.T, s *scene) {
		t.Helper()
		reach(t, s)
		s.subject = s.order.ID.String()
	}
}

func paid(t *testing.T, s *scene) {
	t.Helper()
	s.order = s.place(t)
	s.charge = s.bundle.charge(t, s.order, dedup.Key(s.order.ID.String()), 201)
	s.subject, s.capture = s.charge.ID.String(), s.line.captures(t, s.charge.ID)[0]
}

// crashed leaves a pending charge, captured or not.
func crashed(captured bool) func(*testing.T, *scene) {
	return func(t *testing.T, s *scene) {
		t.Helper()
		s.order = s.place(t)
		s.charge = s.crash(t, s.order, captured)
		s.subject = s.charge.ID.String()
		if captured {
			s.capture = s.line.captures(t, s.charge.ID)[0]
		}
	}
}

func unknown(captured bool) func(*testing.T, *scene) {
	return func(t *testing.T, s *scene) {
		t.Helper()
		crashed(captured)(t, s)
		s.exec(t, "UPDATE charges SET status = 'unknown' WHERE id = $1", s.charge.ID)
	}
}

func asked(t *testing.T, s *scene) {
	t.Helper()
	s.order = s.place(t)
	c := s.chargeOf(s.order, dedup.Key(s.order.ID.String()))
	c.PaymentMethod = "pm_requires_action"
	s.charge = decode[payments.Charge](t, s.answer(t, c).Body)
	s.subject = s.charge.ID.String()
}

func refuseRefund(context.Context, func() (payments.ProviderRefund, error)) (payments.ProviderRefund, error) {
	return payments.ProviderRefund{}, payments.ErrRefused
}

func owing(t *testing.T, s *scene) {
	t.Helper()
	paid(t, s)
	s.line.onRefund(refuseRefund)
	s.canceled(t, s.order, dedup.Key(s.order.ID.String()), orders.Refunded)
}

func stuck(t *testing.T, s *scene) {
	t.Helper()
	owing(t, s)
	s.exec(t, "UPDATE charges SET return_due = NULL, return_tries = $2 WHERE id = $1", s.charge.ID,
		payments.MaxReturnTries)
}

func refundUnknown(made bool) func(*testing.T, *scene) {
	return func(t *testing.T, s *scene) {
		t.Helper()
		paid(t, s)
		s.line.onRefund(func(_ context.Context,
			ask func() (payments.ProviderRefund, error)) (payments.ProviderRefund, error) {
			if made {
				if given, err := ask(); err != nil {
					t.Error(err)
				} else {
					s.capture.ID = given.ID // what the operator finds at the provider
				}
			}
			return payments.ProviderRefund{}, errCut
		})
		answer, err := s.shop.Refund(t.Context(), s.refund(s.charge, dedup.Key(s.order.ID.String()), nil))
		if err != nil || answer.Status != 202 {
			t.Fatalf("refund: %d %s %v", answer.Status, answer.Body, err)
		}
		s.subject = answer.ID.String()
	}
}

func refundPending(t *testing.T, s *scene) {
	t.Helper()
	refundUnknown(true)(t, s)
	s.exec(t, "UPDATE refunds SET status = 'pending' WHERE id::text = $1", s.subject)
}

// refundedOutside gives all the money back as from the provider's dashboard.
func refundedOutside(t *testing.T, s *scene) {
	t.Helper()
	given, err := s.line.provider.Refund(t.Context(), payments.RefundRequest{Key: uuid.NewString(),
		CaptureID: s.capture.ID, Amount: s.charge.Amount})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.shop.Receive(t.Context(), refundEvent(given)); err != nil {
		t.Fatal(err)
	}
}

func disputed(t *testing.T, s *scene) {
	t.Helper()
	paid(t, s)
	s.dispute(t, payments.DisputeOpen)
	s.subject = "dp_" + s.capture.ID
}

// dispute brings an event about the charge's dispute.
func (s *scene) dispute(t *testing.T, status string) {
	t.Helper()
	dispute := payments.Dispute{ID: "dp_" + s.capture.ID, CaptureID: s.capture.ID, Status: status,
		Amount: s.charge.Amount, Currency: s.charge.Currency}
	event := payments.Event{ID: uuid.NewString(), Type: "dispute." + status, Dispute: &dispute,
		Payload: payload(dispute)}
	if err := s.shop.Receive(t.Context(), event); err != nil {
		t.Fatal(err)
	}
}

// early leaves an event that came before its charge was settled, which it is now.
func early(t *testing.T, s *scene) {
	t.Helper()
	crashed(true)(t, s)
	other := s.capture
	other.ID, other.Status, other.DeclineCode = s.capture.ID+"_late", payments.CaptureDeclined, "card_declined"
	for _, event := range []payments.Event{captureEvent(other), captureEvent(s.capture)} {
		if err := s.shop.Receive(t.Context(), event); err != nil {
			t.Fatal(err)
		}
	}
	s.subject = "evt_" + other.ID
}

func quarantined(t *testing.T, s *scene) {
	t.Helper()
	early(t, s)
	s.exec(t, "UPDATE provider_events SET state = 'quarantined', reason = 'a test' WHERE id = $1", s.subject)
}

func canceledByAdmin(t *testing.T, s *scene) {
	t.Helper()
	s.twice(t, func(key dedup.Key) (dedup.Answer, error) {
		return s.shop.Cancel(t.Context(),
			payments.CancelOrder{CustomerID: s.admin(t), Key: key, OrderID: s.order.ID, Admin: true})
	})
}

// admin is the account of an operator.
func (b *bundle) admin(t *testing.T) (id uuid.UUID) {
	t.Helper()
	b.exec(t, "INSERT INTO customers (id, email) VALUES (gen_random_uuid(), 'op@example.com') ON CONFLICT DO NOTHING")
	if err := b.pool.QueryRow(t.Context(), "SELECT id FROM customers WHERE email = 'op@example.com'").Scan(&id); err !=
		nil {
		t.Fatal(err)
	}
	return id
}

func (s *scene) operation(t *testing.T, action payments.Action) payments.Operation {
	t.Helper()
	o := payments.Operation{CustomerID: s.admin(t), Operator: "op@example.com", Action: action, Subject: s.subject,
		Reason: "seen on the dashboard"}
	if action == payments.SettleCaptured || action == payments.SettleRefunded {
		o.ProviderID = s.capture.ID
	}
	return o
}

// operate carries out an action eight times at the same moment under one key, on two nodes; then
// the key with another meaning, and another key.
func operate(action payments.Action) func(*testing.T, *scene) {
	return func(t *testing.T, s *scene) {
		t.Helper()
		o := s.operation(t, action)
		nodes := []*payments.Service{s.shop, s.node(t, s.line.again())}
		before := s.count(t, "SELECT count(*) FROM operator_actions")
		turn := make(chan int, 8)
		for i := range cap(turn) {
			turn <- i
		}
		key := s.twice(t, func(key dedup.Key) (dedup.Answer, error) {
			o := o
			o.Key = key
			return nodes[<-turn%2].Operate(t.Context(), o)
		})
		if n := s.count(t, "SELECT count(*) FROM operator_actions") - before; n != 1 {
			t.Errorf("%s: %d actions, want 1", action, n)
		}
		if n := s.count(t, `SELECT count(*) FROM operator_actions WHERE idempotency_key = $1 AND action = $2
			AND subject = $3 AND operator = 'op@example.com' AND reason = 'seen on the dashboard'`, string(key), action,
			s.subject); n != 1 {
			t.Errorf("%s is not on record", action)
		}
		other := o
		other.Key, other.Reason = key, "another reason"
		if answer, err := s.shop.Operate(t.Context(), other); !errors.Is(err, dedup.ErrKeyReused) {
			t.Errorf("%s, the key with another meaning: %s, %v", action, answer.Body, err)
		}
		if action == payments.RetryReturn {
			return // can be wanted again
		}
		o.Key = dedup.Key(uuid.NewString())
		answer, err := s.shop.Operate(t.Context(), o)
		if _, refused := errors.AsType[payments.RefusedError](err); !refused {
			t.Errorf("%s again under another key: %s, %v", action, answer.Body, err)
		}
		if n := s.count(t, "SELECT count(*) FROM operator_actions WHERE idempotency_key = $1", string(o.Key)); n != 0 {
			t.Errorf("%s was refused and binds its key", action)
		}
	}
}

// twice sends a request eight times at the same moment under one key, which it returns. One of them
// acts, and all have its answer.
func (s *scene) twice(t *testing.T, run func(key dedup.Key) (dedup.Answer, error)) dedup.Key {
	t.Helper()
	key := dedup.Key(uuid.NewString())
	var bodies [8][]byte
	acted := 0
	for i, replayed := range shoptest.Race(len(bodies), func(i int) bool {
		answer, err := run(key)
		if err != nil || answer.Status != 200 {
			t.Errorf("%d %s %v", answer.Status, answer.Body, err)
		}
		bodies[i] = answer.Body
		return answer.Replayed
	}) {
		if !replayed {
			acted++
		}
		if !bytes.Equal(bodies[i], bodies[0]) {
			t.Errorf("answered %s and %s", bodies[0], bodies[i])
		}
	}
	if acted != 1 {
		t.Errorf("%d of them acted", acted)
	}
	return key
}

// An end of the debt is the end of the buyer's key, too.
func TestEndOfADebtAnswersItsKey(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := &scene{bundle: b}
	unknown(true)(t, s)
	b.canceled(t, s.order, "k", orders.Canceled)
	b.line.onRefund(refuseRefund)
	b.timePasses(t)
	b.reconcile(t)
	b.timePasses(t)
	b.reconcile(t)
	command := b.chargeOf(s.order, dedup.Key(s.order.ID.String()))
	if answer := b.answer(t, command); answer.Status != 202 {
		t.Fatalf("while it is owed, the key is answered %d %s", answer.Status, answer.Body)
	}
	operate(payments.EndDebt)(t, s)
	answer := b.answer(t, command)
	if charge := decode[payments.Charge](t, answer.Body); answer.Status != 201 || !answer.Final ||
		charge.AmountRefunded != 0 {
		t.Errorf("after the end of the debt, the key is answered %d %s", answer.Status, answer.Body)
	}
	b.line.heal()
	b.settleAll(t)
	if _, gave := b.provider(t, s.charge.ID); gave != 0 {
		t.Errorf("the provider gave back %d", gave)
	}
}

// A charge that an operator gave up and that was captured after all is settled by hand as well: its
// money goes back.
func TestCaptureByHandOfAChargeGivenUp(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := &scene{bundle: b}
	unknown(true)(t, s)
	operate(payments.SettleNotCaptured)(t, s)
	b.expectTrail(t, s.order, "placed | declined not_captured 0 | reserved | placed paying payment_declined")
	operate(payments.SettleCaptured)(t, s)
	b.settleAll(t)
	b.expectTrail(t, s.order, "placed | succeeded 100 | late succeeded 100 | reserved | placed paying payment_declined")
}

func TestOperationsThatAreRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	open, other, done := &scene{bundle: b}, &scene{bundle: b}, &scene{bundle: b}
	unknown(true)(t, open)
	unknown(true)(t, other)
	paid(t, done)
	back := &scene{bundle: b}
	refundUnknown(true)(t, back)
	b.line.heal()
	for name, test := range map[string]struct {
		scene  *scene
		change func(o *payments.Operation)
		is     func(error) bool
	}{
		"no reason": {open, func(o *payments.Operation) { o.Reason = " " }, invalid("reason")},
		"no id":     {open, func(o *payments.Operation) { o.ProviderID = "" }, invalid("provider_id")},
		"no action": {open, func(o *payments.Operation) { o.Action = "charge stolen" }, invalid("action")},
		"no charge": {open, func(o *payments.Operation) { o.Subject = uuid.NewString() }, missing},
		"nonsense":  {open, func(o *payments.Operation) { o.Subject = "nonsense" }, missing},
		"no refund's id": {back, func(o *payments.Operation) {
			o.Action, o.ProviderID = payments.SettleRefunded, ""
		}, invalid("provider_id")},
		"another's capture": {open, func(o *payments.Operation) { o.ProviderID = done.capture.ID }, refused},
		"nothing owed":      {done, func(o *payments.Operation) { o.Action = payments.EndDebt }, refused},
		"no retry":          {done, func(o *payments.Operation) { o.Action = payments.RetryReturn }, refused},
		"no event":          {done, func(o *payments.Operation) { o.Action = payments.RedoEvent }, missing},
		"captured twice":    {done, func(o *payments.Operation) { o.ProviderID = other.capture.ID }, refused},
	} {
		o := test.scene.operation(t, payments.SettleCaptured)
		o.Key = dedup.Key(uuid.NewString())
		test.change(&o)
		if answer, err := b.shop.Operate(t.Context(), o); !test.is(err) {
			t.Errorf("%s: %s, %v", name, answer.Body, err)
		}
	}
	if n := b.count(t, "SELECT count(*) FROM operator_actions"); n != 0 {
		t.Errorf("%d actions", n)
	}
	b.settleAll(t)
	for _, s := range []*scene{open, other, done} {
		b.expectTrail(t, s.order, paidOnce)
	}
}

func invalid(field string) func(error) bool {
	return func(err error) bool {
		wrong, ok := errors.AsType[problem.InvalidError](err)
		return ok && wrong.Field == field
	}
}

func missing(err error) bool { return errors.Is(err, payments.ErrNotFound) }

func refused(err error) bool {
	_, ok := errors.AsType[payments.RefusedError](err)
	return ok
}

// Operators see what the program does not end by itself, and nothing that is young or that has
// ended.
func TestAttention(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var want []uuid.UUID
	for name, look := range map[string]struct {
		reach func(*testing.T, *scene)
		age   string // of the open charges and refunds
		shown bool
	}{
		"unknown":               {unknown(true), "2 minutes", true},
		"unknown, young":        {unknown(true), "10 seconds", false},
		"pending":               {crashed(true), "2 hours", true},
		"waits for its buyer":   {asked, "5 minutes", false},
		"refund unknown":        {refundUnknown(true), "2 minutes", true},
		"refund unknown, young": {refundUnknown(true), "10 seconds", false},
		"refund pending":        {refundPending, "2 hours", false},
		"refund pending, old":   {refundPending, "2 days", true},
		"owing":                 {owing, "2 hours", false},
		"stuck":                 {stuck, "2 hours", true},
		"disputed":              {disputed, "0", true},
		"paid":                  {paid, "2 hours", false},
	} {
		s := &scene{bundle: b}
		look.reach(t, s)
		b.line.heal()
		b.exec(t, `UPDATE charges SET started_at = now() - $2::interval, unknown_at = now() - $2::interval
			WHERE id = $1 AND status IN ('pending', 'unknown', 'requires_action')`, s.charge.ID, look.age)
		b.exec(t, `UPDATE refunds SET started_at = now() - $2::interval WHERE charge_id = $1`, s.charge.ID, look.age)
		if name == "waits for its buyer" || name == "pending" {
			b.exec(t, "UPDATE charges SET unknown_at = NULL WHERE id = $1", s.charge.ID)
		}
		if look.shown {
			want = append(want, s.charge.ID)
		}
	}
	shown, err := b.shop.Attention(t.Context(), 50)
	if err != nil {
		t.Fatal(err)
	}
	var got []uuid.UUID
	for _, charge := range shown {
		got = append(got, charge.ID)
		open := charge.Open || charge.Owing && charge.ReturnDue == nil || charge.Dispute == payments.DisputeOpen
		for _, refund := range charge.Refunds {
			open = open || refund.Open
		}
		if !open {
			t.Errorf("nothing about %+v needs attention", charge)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("charges %v need attention, want %v", got, want)
	}
	b.exec(t, "UPDATE orders SET expires_at = now() - interval '1 day' WHERE status = 'paying'")
	if _, err := b.orders.ExpireOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.exec(t, "UPDATE charges SET return_due = now() WHERE owes IS NOT NULL")
	b.settleAll(t)
}
