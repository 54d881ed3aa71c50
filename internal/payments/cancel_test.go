package payments_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// canceled calls the order off and expects this status of it.
func (b *bundle) canceled(t testing.TB, order orders.Order, key dedup.Key, status orders.Status) dedup.Answer {
	t.Helper()
	answer, err := b.cancel(t, order, key)
	if err != nil || answer.Status != 200 {
		t.Fatalf("cancel: %d %s %v", answer.Status, answer.Body, err)
	}
	if got := decode[orders.Order](t, answer.Body); got.ID != order.ID || got.Status != status || len(got.Lines) != 1 {
		t.Errorf("cancel answers %s, want the order as %s", answer.Body, status)
	}
	return answer
}

// expire lets the order's time run out.
func (b *bundle) expire(t testing.TB, order orders.Order) {
	t.Helper()
	b.exec(t, "UPDATE orders SET expires_at = now() - interval '1 day' WHERE id = $1", order.ID)
	if n, err := b.orders.ExpireOnce(t.Context()); n != 1 || err != nil {
		t.Fatalf("%d orders expired, %v", n, err)
	}
}

func TestCancelCommitWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	b := setup(t)
	order := b.place(t)
	armed, through := shoptest.CutCommits(t, b.url, shoptest.LoseAnswer)
	pool := shoptest.Pool(t, through)
	cut := orders.New(pool, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
	shop := payments.New(pool, cut, b.line, policy, time.Now, nil, slog.New(slog.DiscardHandler))
	command := payments.CancelOrder{CustomerID: b.alice, Key: "k", OrderID: order.ID}
	armed.Store(true)
	first, err := shop.Cancel(t.Context(), command)
	if err != nil || first.Replayed || armed.Load() {
		t.Fatalf("%+v, %v, still armed: %v; want a first answer after a cut commit", first, err, armed.Load())
	}
	if again, err := shop.Cancel(t.Context(), command); err != nil || !again.Replayed ||
		!bytes.Equal(again.Body, first.Body) {
		t.Errorf("the same again: %+v, %v; want a replay of %s", again, err, first.Body)
	}
}

func TestCancelInEveryState(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, is := range map[string]struct {
		reach func(orders.Order)
		err   error
		end   string
	}{
		"placed": {func(orders.Order) {}, nil, "canceled | reserved released | placed canceled"},
		"declined": {func(o orders.Order) {
			b.line.onCapture(refuse)
			b.charge(t, o, dedup.Key(o.ID.String()), 402)
		}, nil, "canceled | declined refused_by_provider 0 | reserved released | " +
			"placed paying payment_declined canceled"},
		"unknown, not captured": {func(o orders.Order) {
			b.line.cut()
			b.charge(t, o, dedup.Key(o.ID.String()), 202)
			b.started(t, "charges", "1 minute")
		}, nil, "canceled | declined not_captured 0 | reserved released | " +
			"placed paying canceled payment.declined_late"},
		"unknown, captured": {func(o orders.Order) {
			b.line.onCapture(loseAnswer)
			b.charge(t, o, dedup.Key(o.ID.String()), 202)
		}, nil, "canceled | succeeded 100 | late succeeded 100 | reserved released | placed paying canceled"},
		"paid": {func(o orders.Order) {
			b.charge(t, o, dedup.Key(o.ID.String()), 201)
		}, nil, "refunded | succeeded 100 | canceled succeeded 100 | reserved sold returned | " +
			"placed paying paid refunded"},
		"refunded in part": {func(o orders.Order) {
			b.give(t, b.charge(t, o, dedup.Key(o.ID.String()), 201), 30)
		}, nil, "refunded | succeeded 100 | requested succeeded 30, canceled succeeded 70 | " +
			"reserved sold returned | placed paying paid refunded"},
		"refunded": {func(o orders.Order) {
			b.give(t, b.charge(t, o, dedup.Key(o.ID.String()), 201), 100)
		}, payments.ErrOrderNotCancelable, theEnd},
		"expired": {func(o orders.Order) { b.expire(t, o) }, payments.ErrOrderNotCancelable,
			"expired | reserved released | placed expired"},
		"canceled": {func(o orders.Order) {
			b.canceled(t, o, dedup.Key(o.ID.String()), orders.Canceled)
		}, payments.ErrOrderNotCancelable,
			"canceled | reserved released | placed canceled"},
	} {
		order := b.place(t)
		is.reach(order)
		b.line.heal()
		key := dedup.Key(name)
		first, err := b.cancel(t, order, key)
		if !errors.Is(err, is.err) {
			t.Errorf("%s: %d %s %v, want %v", name, first.Status, first.Body, err, is.err)
			continue
		}
		b.settleAll(t)
		again, err := b.cancel(t, order, key)
		if !errors.Is(err, is.err) || is.err == nil &&
			(!again.Replayed || again.Status != 200 || !bytes.Equal(again.Body, first.Body)) {
			t.Errorf("%s, the same key again: %d %s %v, first %s", name, again.Status, again.Body, err, first.Body)
		}
		if _, err := b.cancel(t, order, "another "+key); !errors.Is(err, payments.ErrOrderNotCancelable) {
			t.Errorf("%s, another key: %v", name, err)
		}
		if end := b.trail(t, order); end != is.end {
			t.Errorf("%s ends as\n%s\nwant\n%s", name, end, is.end)
		}
		b.exec(t, "UPDATE charges SET started_at = now(), asked_at = now()")
	}
}

func refuse(context.Context, func() (payments.Capture, error)) (payments.Capture, error) {
	return payments.Capture{}, payments.ErrRefused
}

// give gives money of a charge back.
func (b *bundle) give(t testing.TB, charge payments.Charge, amount int64) {
	t.Helper()
	answer, err := b.shop.Refund(t.Context(), b.refund(charge, dedup.Key(uuid.NewString()), &amount))
	if err != nil || answer.Status != 201 {
		t.Fatalf("refund: %d %s %v", answer.Status, answer.Body, err)
	}
}

func TestCancelIsTheOwners(t *testing.T) {
	t.Parallel()
	b := setup(t)
	order := b.place(t)
	bob := uuid.New()
	b.exec(t, "INSERT INTO customers (id) VALUES ($1)", bob)
	for _, id := range []uuid.UUID{order.ID, uuid.New()} {
		_, err := b.shop.Cancel(t.Context(), payments.CancelOrder{CustomerID: bob, Key: "k", OrderID: id})
		if !errors.Is(err, orders.ErrNotFound) {
			t.Errorf("Bob cancels: %v", err)
		}
	}
	b.canceled(t, order, "k", orders.Canceled)
	if _, err := b.cancel(t, b.place(t), "k"); !errors.Is(err, dedup.ErrKeyReused) {
		t.Errorf("the key for another order: %v", err)
	}
	if n := b.count(t, "SELECT count(*) FROM orders WHERE status = 'placed'"); n != 1 {
		t.Errorf("%d orders are placed", n)
	}
}

// Canceled while the outcome is unknown: the money is not asked for any more.
func TestCanceledWhileUnknownIsNeverCapturedAnew(t *testing.T) {
	t.Parallel()
	b := setup(t)
	order := b.place(t)
	charge := b.crash(t, order, false)
	b.canceled(t, order, "k", orders.Canceled)
	b.timePasses(t)
	b.reconcile(t)
	b.expectTrail(t, order, "canceled | declined not_captured 0 | reserved released | "+
		"placed paying canceled payment.declined_late")
	if asked, captures := b.line.asked.captures.Load(), b.line.captures(t, charge.ID); asked != 0 ||
		len(captures) != 0 {
		t.Errorf("asked %d times, captures %+v", asked, captures)
	}
}

// The money comes when the order has ended: it goes back, the stock came back once, and the order
// stays as it is.
func TestLateSuccessIsRefunded(t *testing.T) {
	t.Parallel()
	ends := map[string]func(*testing.T, *bundle, orders.Order){
		"canceled": func(t *testing.T, b *bundle, o orders.Order) {
			b.canceled(t, o, dedup.Key(o.ID.String()), orders.Canceled)
		},
		"expired": func(t *testing.T, b *bundle, o orders.Order) { b.expire(t, o) },
	}
	tells := map[string]func(*testing.T, *tale){
		"by our own answer":    func(_ *testing.T, s *tale) { s.answer(nil) },
		"by a webhook":         func(t *testing.T, s *tale) { s.receive(t, captureEvent(s.capture)); s.answer(nil) },
		"by the reconciler":    func(t *testing.T, s *tale) { s.answer(errCut); s.b.settleAll(t) },
		"by a webhook, late":   func(t *testing.T, s *tale) { s.answer(errCut); s.receive(t, captureEvent(s.capture)) },
		"by all, and by twins": func(t *testing.T, s *tale) { s.tellAll(t) },
	}
	b := setup(t)
	for end, finish := range ends {
		for how, tell := range tells {
			s := begin(t, b)
			finish(t, b, s.order)
			tell(t, s)
			b.settleAll(t)
			if got, want := b.trail(t, s.order),
				end+" | succeeded 100 | late succeeded 100 | reserved released | placed paying "+end; got != want {
				t.Errorf("%s, told %s, ends as\n%s\nwant\n%s", end, how, got, want)
			}
			if left := b.available(t); left != stock {
				t.Errorf("%s, told %s: %d coins are left", end, how, left)
			}
		}
	}
}

func (s *tale) tellAll(t *testing.T) {
	t.Helper()
	for range 2 {
		s.receive(t, captureEvent(s.capture))
	}
	s.answer(nil)
	s.b.timePasses(t)
	s.b.reconcile(t)
	s.receive(t, captureEvent(s.capture))
}

func TestCancelWhileTheProviderIsDown(t *testing.T) {
	t.Parallel()
	b := setup(t)
	order := b.place(t)
	b.charge(t, order, "c", 201)
	b.line.cut()
	b.canceled(t, order, "k", orders.Refunded)
	b.timePasses(t)
	b.reconcile(t)
	b.expectTrail(t, order, "refunded | succeeded 0 | reserved sold returned | placed paying paid refunded")
	b.line.heal()
	b.settleAll(t)
	b.expectTrail(t, order, "refunded | succeeded 100 | canceled succeeded 100 | reserved sold returned | placed "+
		"paying paid refunded")
}

// Paying and canceling at the same moment: the order ends once, no money is kept, and no unit is
// put back twice.
func TestChargeAgainstCancel(t *testing.T) {
	t.Parallel()
	b := setup(t)
	node := b.node(t, b.line.again())
	const pairs = 50
	all := make([]orders.Order, pairs)
	for i := range all {
		all[i] = b.place(t)
	}
	for i, err := range shoptest.Race(2*pairs, func(i int) (err error) {
		order := all[i/2]
		if i%2 == 0 {
			_, err = b.shop.Charge(t.Context(), b.chargeOf(order, dedup.Key(order.ID.String())))
		} else {
			// a look or two first, so that some come before the payment, some within, some after it
			for range i / 2 % 4 {
				b.order(t, order.ID)
			}
			_, err = node.Cancel(t.Context(),
				payments.CancelOrder{CustomerID: b.alice, Key: dedup.Key(order.ID.String()), OrderID: order.ID})
		}
		return err
	}) {
		if i%2 == 0 && errors.Is(err, payments.ErrOrderNotPayable) {
			continue
		}
		if err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
	b.settleAll(t)
	ends := map[orders.Status]int{}
	for _, order := range all {
		ends[b.order(t, order.ID).Status]++
		switch end := b.trail(t, order); end {
		case "canceled | reserved released | placed canceled",
			"canceled | succeeded 100 | late succeeded 100 | reserved released | placed paying canceled",
			"refunded | succeeded 100 | canceled succeeded 100 | reserved sold returned | placed paying paid refunded":
		default:
			t.Errorf("an order ended as %s", end)
		}
	}
	t.Logf("%v", ends)
	if left := b.available(t); left != stock {
		t.Errorf("%d coins are left", left)
	}
}

// Refunding and canceling at the same moment: the money goes back once.
func TestRefundAgainstCancel(t *testing.T) {
	t.Parallel()
	for name, amount := range map[string]*int64{"a part": new(int64(30)), "the rest": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			const pairs = 25
			paid, charges := make([]orders.Order, pairs), make([]payments.Charge, pairs)
			for i := range pairs {
				paid[i] = b.place(t)
				charges[i] = b.charge(t, paid[i], dedup.Key(paid[i].ID.String()), 201)
			}
			errs := shoptest.Race(2*pairs, func(i int) (err error) {
				key := dedup.Key(paid[i/2].ID.String())
				if i%2 == 0 {
					_, err = b.shop.Refund(t.Context(), b.refund(charges[i/2], key, amount))
				} else {
					_, err = b.cancel(t, paid[i/2], key)
				}
				return err
			})
			b.settleAll(t)
			for i := range pairs {
				refund, cancel := errs[2*i], errs[2*i+1]
				var exceeds payments.RefundExceedsError
				if refund != nil && !errors.As(refund, &exceeds) || cancel != nil &&
					!errors.Is(cancel, payments.ErrOrderNotCancelable) || refund != nil && cancel != nil {
					t.Errorf("refund: %v, cancel: %v", refund, cancel)
				}
				if _, gave := b.provider(t, charges[i].ID); gave != 100 ||
					b.order(t, paid[i].ID).Status != orders.Refunded {
					t.Errorf("the provider gave back %d: %s", gave, b.trail(t, paid[i]))
				}
			}
		})
	}
}

func TestExpiredOrderCannotBePaid(t *testing.T) {
	t.Parallel()
	b := setup(t)
	order := b.place(t)
	b.expire(t, order)
	if _, err := b.shop.Charge(t.Context(), b.chargeOf(order, "c")); !errors.Is(err, payments.ErrOrderNotPayable) {
		t.Errorf("charge: %v", err)
	}
	paid := b.place(t)
	b.charge(t, paid, "p", 201)
	b.exec(t, "UPDATE orders SET expires_at = now() - interval '1 day' WHERE id = $1", paid.ID)
	if n, err := b.orders.ExpireOnce(t.Context()); n != 0 || err != nil {
		t.Errorf("%d paid orders expired, %v", n, err)
	}
	b.expectTrail(t, paid, paidOnce)
}
