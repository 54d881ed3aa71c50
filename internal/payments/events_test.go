package payments_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// What can be told of one charge, whose refund is asked for as soon as it has succeeded.
const (
	answered  = "the answer to our own call"
	succeeded = "capture.succeeded"
	duplicate = "capture.succeeded again"
	refunded  = "refund.succeeded"
	declined  = "capture.declined" // of another try, late
)

var told = []string{answered, succeeded, duplicate, refunded, declined}

// theEnd is where all of it ends, whatever is told, and in whatever order.
const theEnd = "refunded | succeeded 100 | requested succeeded 100 | reserved sold | placed paying paid refunded"

// tale is one charge whose provider has taken the money and has not answered yet.
type tale struct {
	b       *bundle
	order   orders.Order
	capture payments.Capture
	answers chan error // nil lets the answer through
	charged chan struct{}

	refund   *payments.ProviderRefund // once the provider has made it
	repays   chan error
	repaid   chan struct{}
	heard    map[string]bool
	silenced bool
}

func begin(t testing.TB, b *bundle) *tale {
	t.Helper()
	s := &tale{b: b, order: b.place(t), answers: make(chan error, 1), charged: make(chan struct{}),
		repays: make(chan error, 1),
		repaid: make(chan struct{}), heard: map[string]bool{}}
	captured := make(chan payments.Capture, 1)
	b.line.onCapture(func(ctx context.Context, ask func() (payments.Capture, error)) (payments.Capture, error) {
		capture, err := ask()
		captured <- capture
		if err != nil {
			return capture, err
		}
		return capture, wait(ctx, s.answers)
	})
	go func() {
		defer close(s.charged)
		if _, err := b.shop.Charge(t.Context(), b.chargeOf(s.order, dedup.Key(s.order.ID.String()))); err != nil {
			t.Errorf("charge: %v", err)
		}
	}()
	s.capture = <-captured
	b.line.onCapture(nil)
	return s
}

// wait returns what the channel says, or that nobody answers.
func wait(ctx context.Context, verdict <-chan error) error {
	select {
	case err := <-verdict:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tell lets one thing be heard, as often as it is called.
func (s *tale) tell(t testing.TB, what string) {
	t.Helper()
	switch what {
	case answered:
		s.answer(nil)
	case succeeded, duplicate:
		s.receive(t, captureEvent(s.capture))
	case refunded:
		if s.refund != nil {
			s.receive(t, refundEvent(*s.refund))
		}
	case declined:
		other := s.capture
		other.ID, other.Status, other.DeclineCode = s.capture.ID+"_late", payments.CaptureDeclined, "card_declined"
		s.receive(t, captureEvent(other))
	}
	s.heard[what] = true
	s.repay(t)
}

// answer ends our own call, once.
func (s *tale) answer(err error) {
	if !s.silenced {
		s.silenced = true
		s.answers <- err
		<-s.charged
	}
}

func (s *tale) receive(t testing.TB, event payments.Event) {
	t.Helper()
	if err := s.b.shop.Receive(t.Context(), event); err != nil {
		t.Errorf("%s: %v", event.Type, err)
	}
}

// repay asks for the refund once the charge has succeeded, and holds its answer back.
func (s *tale) repay(t testing.TB) {
	t.Helper()
	charge, err := s.b.shop.Get(t.Context(), uuid.MustParse(s.capture.Reference))
	if err != nil {
		t.Fatal(err)
	}
	if s.refund != nil || charge.Status != payments.Succeeded {
		return
	}
	made := make(chan payments.ProviderRefund, 1)
	s.b.line.onRefund(func(ctx context.Context, ask func() (payments.ProviderRefund, error)) (payments.ProviderRefund,
		error) {
		refund, err := ask()
		made <- refund
		if err != nil {
			return refund, err
		}
		return refund, wait(ctx, s.repays)
	})
	go func() {
		defer close(s.repaid)
		if _, err := s.b.shop.Refund(t.Context(), s.b.refund(charge, dedup.Key(charge.ID.String()), nil)); err != nil {
			t.Errorf("refund: %v", err)
		}
	}()
	refund := <-made
	s.refund = &refund
	s.b.line.onRefund(nil)
}

// finish ends what is open, with the refund's answer lost or not, and returns the trail.
func (s *tale) finish(t testing.TB, lost bool) string {
	t.Helper()
	s.answer(errCut)
	s.repay(t)
	if s.refund == nil {
		s.b.settleAll(t)
		s.repay(t)
	}
	if s.refund == nil {
		return s.b.trail(t, s.order)
	}
	if lost {
		s.repays <- errCut
	} else {
		s.repays <- nil
	}
	<-s.repaid
	s.b.settleAll(t)
	if s.heard[refunded] {
		s.receive(t, refundEvent(*s.refund))
	}
	s.b.settleAll(t)
	return s.b.trail(t, s.order)
}

// Whatever is told of a charge, in any order, more than once or never: it ends the same.
func TestEveryOrderOfEventsEndsTheSame(t *testing.T) {
	t.Parallel()
	b := setup(t)
	rapid.Check(t, func(r *rapid.T) {
		events := rapid.SliceOfN(rapid.SampledFrom(told), 0, 5).Draw(r, "events")
		lost := rapid.Bool().Draw(r, "the refund's answer is lost")
		s := begin(t, b)
		for _, what := range events {
			s.tell(t, what)
		}
		if end := s.finish(t, lost); end != theEnd {
			r.Fatalf("%q ended as\n%s", events, end)
		}
	})
	if n := b.count(t, "SELECT count(*) FROM provider_events WHERE state <> 'applied'"); n != 0 {
		t.Errorf("%d events were quarantined", n)
	}
}

// The orders of all five, without chance: 60 of the 120, since the two that tell the success are
// the same event.
func TestEveryPermutationOfAllEvents(t *testing.T) {
	t.Parallel()
	b := setup(t)
	n := 0
	permute(told, func(events []string) {
		if slices.Index(events, duplicate) < slices.Index(events, succeeded) {
			return
		}
		n++
		s := begin(t, b)
		for _, what := range events {
			s.tell(t, what)
		}
		if end := s.finish(t, n%2 == 0); end != theEnd {
			t.Errorf("%q ended as\n%s", events, end)
		}
	})
	if quarantined := b.count(t, "SELECT count(*) FROM provider_events WHERE state <> 'applied'"); n != 60 ||
		quarantined != 0 {
		t.Errorf("%d permutations, %d events quarantined", n, quarantined)
	}
	// Success, late decline and refund of each order, once.
	if events := b.count(t, "SELECT count(*) FROM provider_events"); events != 3*n {
		t.Errorf("%d events are kept, want %d", events, 3*n)
	}
}

func permute(rest []string, visit func([]string)) {
	var walk func(done, rest []string)
	walk = func(done, rest []string) {
		if len(rest) == 0 {
			visit(done)
		}
		for i, next := range rest {
			walk(append(slices.Clone(done), next), slices.Delete(slices.Clone(rest), i, i+1))
		}
	}
	walk(nil, rest)
}

// The same event a hundred times at once, before our own answer: one effect.
func TestOneEventManyTimes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := begin(t, b)
	node := b.node(t, b.line.again())
	for _, err := range shoptest.Race(100, func(i int) error {
		return []*payments.Service{b.shop, node}[i%2].Receive(t.Context(), captureEvent(s.capture))
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	b.expectTrail(t, s.order, "paid | succeeded 0 | reserved sold | placed paying paid")
	s.answer(nil)
	b.expectTrail(t, s.order, "paid | succeeded 0 | reserved sold | placed paying paid")
	if n := b.count(t, "SELECT count(*) FROM provider_events"); n != 1 {
		t.Errorf("%d events are kept", n)
	}
}

// An event that contradicts what we know is kept for an operator and changes nothing.
func TestContradictionsAreQuarantined(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.line.onCapture(loseAnswer)
	order := b.place(t)
	charge := b.charge(t, order, "c", 202)
	capture := b.line.captures(t, charge.ID)[0]
	paid := b.place(t)
	b.line.heal()
	done := b.charge(t, paid, "p", 201)
	before, beforePaid := b.trail(t, order), b.trail(t, paid)

	kept := b.line.captures(t, done.ID)[0]
	changed := func(change func(*payments.Capture)) payments.Event {
		c := capture
		change(&c)
		return captureEvent(c)
	}
	for what, event := range map[string]payments.Event{
		"another amount":           changed(func(c *payments.Capture) { c.Amount++ }),
		"another currency":         changed(func(c *payments.Capture) { c.Currency = "USD" }),
		"an unknown charge":        changed(func(c *payments.Capture) { c.Reference = uuid.NewString() }),
		"a reference of no sort":   changed(func(c *payments.Capture) { c.Reference = "basket 7" }),
		"no id":                    changed(func(c *payments.Capture) { c.ID = "" }),
		"no status":                changed(func(c *payments.Capture) { c.Status = "" }),
		"a status of no sort":      changed(func(c *payments.Capture) { c.Status = "perhaps" }),
		"a second capture":         changed(func(c *payments.Capture) { c.Reference = done.ID.String() }),
		"another charge's capture": changed(func(c *payments.Capture) { c.ID = kept.ID }),
		"a decline of what succeeded": changed(func(c *payments.Capture) {
			*c = kept
			c.Status = payments.CaptureDeclined
		}),
		"a refund of more than there is": refundEvent(payments.ProviderRefund{ID: "ref_x", CaptureID: kept.ID,
			Status: payments.RefundSucceeded, Amount: 500, Currency: "EUR"}),
		"a refund in another currency": refundEvent(payments.ProviderRefund{ID: "ref_y", CaptureID: kept.ID,
			Status: payments.RefundSucceeded, Amount: 5, Currency: "USD"}),
		"what no table can hold":  changed(func(c *payments.Capture) { c.DeclineCode = "a\x00b" }),
		"what nobody understands": {Type: "capture.succeeded", Payload: []byte("\xff\x00"), Unreadable: "no JSON"},
		"news of another kind":    {Type: "payout.paid", Payload: []byte("{}")},
	} {
		event.ID = "evt " + what
		for range 2 {
			if err := b.shop.Receive(t.Context(), event); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		if reason := b.text(t, "SELECT state || ': ' || reason FROM provider_events WHERE id = $1",
			event.ID); len(reason) < len("quarantined: why") || reason[:11] != "quarantined" {
			t.Errorf("%s: %s", what, reason)
		}
	}
	b.expectTrail(t, order, before)
	b.expectTrail(t, paid, beforePaid)
	b.settleAll(t)
	b.expectTrail(t, order, "paid | succeeded 0 | reserved sold | placed paying paid")
}

// The event of a refund whose answer is lost names our refund, and settles it.
func TestEventSettlesARefund(t *testing.T) {
	t.Parallel()
	b := setup(t)
	order := b.place(t)
	charge := b.charge(t, order, "c", 201)
	made := make(chan payments.ProviderRefund, 1)
	b.line.onRefund(func(_ context.Context, ask func() (payments.ProviderRefund, error)) (payments.ProviderRefund,
		error) {
		refund, err := ask()
		made <- refund
		return payments.ProviderRefund{}, errors.Join(err, errCut)
	})
	if answer, err := b.shop.Refund(t.Context(), b.refund(charge, "r", nil)); err != nil || answer.Status != 202 {
		t.Fatalf("%d %s %v", answer.Status, answer.Body, err)
	}
	b.line.heal()
	event := refundEvent(<-made)
	wrong := event
	wrong.ID = "evt_wrong"
	wrong.Refund = new(payments.ProviderRefund)
	*wrong.Refund = *event.Refund
	wrong.Refund.Amount = 99
	for _, event := range []payments.Event{wrong, event, event} {
		if err := b.shop.Receive(t.Context(), event); err != nil {
			t.Error(err)
		}
	}
	states := b.text(t, "SELECT string_agg(state, ' ' ORDER BY id) FROM provider_events")
	if states != "applied quarantined" {
		t.Errorf("the events are %s", states)
	}
	b.expectTrail(t, order, theEnd)
}

// An event about a capture that no charge has waits, and ends with an operator. If the provider's
// account is shared, it is another user's.
func TestEventThatNeverBecomesApplicable(t *testing.T) {
	t.Parallel()
	b := setup(t)
	opened := payments.Dispute{ID: "dp_1", CaptureID: "cap_none", Status: payments.DisputeOpen, Amount: 1,
		Currency: "EUR"}
	given := payments.ProviderRefund{ID: "ref_1", CaptureID: "cap_none", Status: payments.RefundSucceeded, Amount: 1,
		Currency: "EUR"}
	for _, event := range []payments.Event{
		{ID: "quarantined dispute", Dispute: &opened}, {ID: "dismissed dispute", Dispute: &opened, Shared: true},
		{ID: "quarantined refund", Refund: &given}, {ID: "dismissed refund", Refund: &given, Shared: true},
	} {
		event.Payload = []byte("{}")
		if err := b.shop.Receive(t.Context(), event); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.count(t, "SELECT count(*) FROM provider_events WHERE state = 'received' AND due_at > now()"); n != 4 {
		t.Errorf("%d events wait", n)
	}
	if !b.log.Has(`level=INFO msg="an event is applied later"`) || b.log.Has("level=WARN") {
		t.Errorf("an early event is not logged as normal:\n%s", b.log.String())
	}
	b.exec(t, "UPDATE provider_events SET tries = 59, due_at = now()")
	if n, err := b.shop.ApplyOnce(t.Context()); n != 4 || err != nil {
		t.Fatalf("%d events, %v", n, err)
	}
	if n := b.count(t, "SELECT count(*) FROM provider_events WHERE id LIKE state || ' %'"); n != 4 {
		t.Errorf("%d of 4 events ended as they must", n)
	}
}

// A refund made at the provider can leave too little for ours, which is reserved already. Ours
// fails, and then the other one is booked.
func TestRefundOutsideWhileOursIsUnderWay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	order := b.place(t)
	charge := b.charge(t, order, "c", 201)
	asked, goOn := make(chan struct{}), make(chan struct{})
	b.line.onRefund(func(ctx context.Context,
		ask func() (payments.ProviderRefund, error)) (payments.ProviderRefund, error) {
		close(asked)
		<-goOn
		return ask()
	})
	failed := make(chan int)
	go func() {
		answer, err := b.shop.Refund(t.Context(), b.refund(charge, "r", &charge.Amount))
		if err != nil {
			t.Error(err)
		}
		failed <- answer.Status
	}()
	<-asked
	outside, err := b.line.provider.Refund(t.Context(), payments.RefundRequest{Key: "dashboard",
		CaptureID: b.line.captures(t, charge.ID)[0].ID, Amount: 30})
	if err != nil {
		t.Fatal(err)
	}
	event := payments.Event{ID: "evt_outside", Type: "refund.succeeded", Refund: &outside, Payload: []byte("{}")}
	if err := b.shop.Receive(t.Context(), event); err != nil {
		t.Fatal(err)
	}
	if state := b.text(t, "SELECT state FROM provider_events"); state != "received" {
		t.Errorf("the event is %s while our refund is under way", state)
	}
	close(goOn)
	if status := <-failed; status != 402 {
		t.Errorf("our refund of more than is left: %d", status)
	}
	if n, err := b.shop.ApplyOnce(t.Context()); n != 1 || err != nil {
		t.Fatalf("%d events were due when ours had failed, want 1: %v", n, err)
	}
	b.expectTrail(t, order, "paid | succeeded 30 | requested failed 100, outside succeeded 30 | reserved sold | "+
		"placed paying paid")
}
