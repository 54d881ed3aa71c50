package payments_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func refuseCapture(context.Context, func() (payments.Capture, error)) (payments.Capture, error) {
	return payments.Capture{}, payments.ErrRefused
}

// The provider refuses the second request for a charge while the first is on its way: the charge is
// canceled there, so that the first takes nothing when it arrives.
func TestRefusedRetryOfACharge(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]bool{"and the first never arrives": false, "and the first arrives": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			order := b.place(t)
			charge := b.crash(t, order, false)
			b.line.onCapture(refuseCapture)
			if first { // between the refusal and the cancellation
				b.line.onCancel(func(_ context.Context,
					ask func() (payments.Capture, error)) (payments.Capture, error) {
					b.arrive(t, order, charge) //nolint:contextcheck // the test's context
					return ask()
				})
			}
			b.timePasses(t)
			b.reconcile(t)
			if first {
				b.expectTrail(t, order, paidOnce)
				return
			}
			b.expectTrail(t, order, "placed | declined not_captured 0 | reserved | placed paying payment_declined")
			if capture := b.arrive(t, order, charge); capture.Status != payments.CaptureCanceled {
				t.Errorf("a request that arrives after the cancellation is %s", capture.Status)
			}
		})
	}
}

// The provider refuses the second request for a refund while the first is on its way: the refund
// stays open until no request can arrive any more.
func TestRefusedRetryOfARefund(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]bool{"and the first never arrives": false, "and the first arrives": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			order := b.place(t)
			charge := b.charge(t, order, "c", 201)
			var late func() (payments.ProviderRefund, error)
			b.line.onRefund(func(_ context.Context,
				ask func() (payments.ProviderRefund, error)) (payments.ProviderRefund, error) {
				late = ask
				return payments.ProviderRefund{}, errCut
			})
			command := b.refund(charge, "r", nil)
			if answer, err := b.shop.Refund(t.Context(), command); err != nil || answer.Status != 202 {
				t.Fatalf("%d %s %v", answer.Status, answer.Body, err)
			}
			b.line.onRefund(refuseRefund)
			for range 3 {
				b.timePasses(t)
				b.reconcile(t)
			}
			b.expectTrail(t, order, "paid | succeeded 0 | requested unknown 100 | reserved sold | placed paying paid")
			b.line.heal()
			want := 402
			if first {
				want = 201
				given, err := b.line.provider.Refund(t.Context(), payments.RefundRequest{Key: "late",
					CaptureID: b.line.captures(t, charge.ID)[0].ID, Reference: refundOf(t, b), Amount: 100})
				if err != nil || given.Status != payments.RefundSucceeded || late == nil {
					t.Fatalf("%+v %v", given, err)
				}
			}
			b.exec(t, "UPDATE refunds SET asked_at = now() - interval '1 minute'")
			b.settleAll(t)
			answer, err := b.shop.Refund(t.Context(), command)
			if err != nil || answer.Status != want || !answer.Replayed {
				t.Errorf("the key: %d %s %v, want %d", answer.Status, answer.Body, err, want)
			}
		})
	}
}

// refundOf is the id of the only refund.
func refundOf(t *testing.T, b *bundle) string { return b.text(t, "SELECT id::text FROM refunds") }

// A refund of 30 is under way when the buyer cancels, and is refused: all 100 go back.
func TestCancelBesideARefundThatIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	order := b.place(t)
	charge := b.charge(t, order, "c", 201)
	asked, goOn := make(chan struct{}), make(chan struct{})
	b.line.onRefund(func(ctx context.Context,
		ask func() (payments.ProviderRefund, error)) (payments.ProviderRefund, error) {
		b.line.onRefund(nil)
		close(asked)
		<-goOn
		return refuseRefund(ctx, ask)
	})
	thirty := int64(30)
	failed := make(chan dedup.Answer)
	go func() {
		answer, err := b.shop.Refund(t.Context(), b.refund(charge, "r", &thirty))
		if err != nil {
			t.Error(err)
		}
		failed <- answer
	}()
	<-asked
	b.canceled(t, order, "k", orders.Refunded)
	close(goOn)
	if answer := <-failed; answer.Status != 402 {
		t.Errorf("the refund of 30: %d %s", answer.Status, answer.Body)
	}
	b.settleAll(t)
	if _, gave := b.provider(t, charge.ID); gave != 100 {
		t.Errorf("the provider gave back %d", gave)
	}
	b.expectTrail(t, order, "refunded | succeeded 100 | requested failed 30, canceled succeeded 70, "+
		"canceled succeeded 30 | reserved sold returned | placed paying paid refunded")
	// The failed refund's key stands for a refund of 30 for good.
	ninety := int64(90)
	if _, err := b.shop.Refund(t.Context(), b.refund(charge, "r", &ninety)); !errors.Is(err, dedup.ErrKeyReused) {
		t.Errorf("the key with another amount: %v", err)
	}
}

// What an ended order owes survives refusals, with growing pauses, until it is returned or until
// only an operator can start the next try.
func TestOwedMoneySurvivesRefusals(t *testing.T) {
	t.Parallel()
	for name, refusals := range map[string]int{"then it is returned": 3, "then an operator decides": 99} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			order := b.place(t)
			charge := b.charge(t, order, "c", 201)
			var asked atomic.Int32
			b.line.onRefund(func(ctx context.Context,
				ask func() (payments.ProviderRefund, error)) (payments.ProviderRefund, error) {
				if int(asked.Add(1)) <= refusals {
					return refuseRefund(ctx, ask)
				}
				return ask()
			})
			b.canceled(t, order, "k", orders.Refunded)
			for range payments.MaxReturnTries + 3 {
				b.timePasses(t)
				b.reconcile(t)
			}
			_, gave := b.provider(t, charge.ID)
			due := b.count(t, "SELECT count(*) FROM charges WHERE return_due IS NOT NULL")
			tries := int(asked.Load())
			switch {
			case due != 0:
				t.Error("a try is still due")
			case refusals == 3 && (gave != 100 || tries != 4):
				t.Errorf("%d came back in %d tries", gave, tries)
			case refusals > 3 && (gave != 0 || tries != 1+payments.MaxReturnTries):
				t.Errorf("%d came back in %d tries", gave, tries)
			}
		})
	}
}

// A refund that was made at the provider without the shop is booked before a cancellation, or a
// refund of the rest, asks for what is left.
func TestRefundOutsideThenTheRest(t *testing.T) {
	t.Parallel()
	for name, cancel := range map[string]bool{"by a cancellation": true, "by a refund": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			order := b.place(t)
			charge := b.charge(t, order, "c", 201)
			outside, err := b.line.provider.Refund(t.Context(), payments.RefundRequest{Key: "dashboard",
				CaptureID: b.line.captures(t, charge.ID)[0].ID, Amount: 36})
			if err != nil || outside.Status != payments.RefundSucceeded {
				t.Fatalf("%+v %v", outside, err)
			}
			if cancel {
				b.canceled(t, order, "k", orders.Refunded)
				b.settleAll(t)
			} else if answer, err := b.shop.Refund(t.Context(), b.refund(charge, "r", nil)); err != nil ||
				answer.Status != 201 {
				t.Errorf("the rest: %d %s %v", answer.Status, answer.Body, err)
			}
			if _, gave := b.provider(t, charge.ID); gave != 100 {
				t.Errorf("the provider gave back %d", gave)
			}
			if n := b.count(t, "SELECT amount_refunded FROM charges"); n != 100 ||
				b.order(t, order.ID).Status != orders.Refunded {
				t.Errorf("%d are booked, the order is %s", n, b.order(t, order.ID).Status)
			}
			if n := b.count(t, "SELECT count(*) FROM refunds WHERE cause = 'outside' AND amount = 36"); n != 1 {
				t.Errorf("%d refunds are booked as made outside", n)
			}
		})
	}
}

// Eight keys meet at each of a thousand orders, and the provider answers at once: no refusal is
// untrue of its order.
func TestEightKeysOfOneOrder(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	const many, keys = 500, 8
	for _, method := range []string{"pm_ok", "pm_declined"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.line.onCapture(func(_ context.Context, ask func() (payments.Capture, error)) (payments.Capture, error) {
				return ask()
			})
			other := b.node(t, b.line.again())
			placed := make([]orders.Order, many)
			for i := range placed {
				placed[i] = b.place(t)
			}
			for lane := range slices.Chunk(placed, 25) {
				refused := shoptest.Race(len(lane)*keys, func(i int) error {
					command := b.chargeOf(lane[i/keys], dedup.Key(fmt.Sprint(lane[i/keys].ID, i%keys)))
					command.PaymentMethod = method
					_, err := []*payments.Service{b.shop, other}[i%2].Charge(t.Context(), command)
					return err
				})
				for i, err := range refused {
					expectTrue(t, b, lane[i/keys].ID, method, err)
				}
			}
		})
	}
}

// expectTrue holds a refusal against the order's end.
func expectTrue(t *testing.T, b *bundle, id uuid.UUID, method string, err error) {
	t.Helper()
	order := b.order(t, id)
	paid, isPaid := errors.AsType[payments.AlreadyPaidError](err)
	busy, isBusy := errors.AsType[payments.InProgressError](err)
	switch {
	case err == nil, errors.Is(err, dedup.ErrInProgress):
		return
	case isPaid && (method == "pm_declined" || order.Status != orders.Paid):
		t.Errorf("%v, and the order is %s", err, order.Status)
	case isPaid || isBusy:
		charge := paid.ChargeID
		if isBusy {
			charge = busy.ChargeID
		}
		if n := b.count(t, "SELECT count(*) FROM charges WHERE id = $1 AND order_id = $2", charge, id); n != 1 {
			t.Errorf("%v, and that is no charge of order %s", err, id)
		}
	default:
		t.Errorf("%v, and the order is %s", err, order.Status)
	}
}

// Postgres swallows its answers in the midst of a reconcile round: the round ends by its deadline,
// and another node goes on.
func TestReconcileRoundEndsByItsDeadline(t *testing.T) {
	t.Parallel()
	for name, inTheMidst := range map[string]bool{"from the beginning": false, "after the claim": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			order := b.place(t)
			b.crash(t, order, true)
			b.timePasses(t)
			address, err := url.Parse(b.url)
			if err != nil {
				t.Fatal(err)
			}
			proxy := shoptest.StartProxy(t, address.Host)
			address.Host = proxy.Addr()
			pool := shoptest.Pool(t, address.String())
			hasty := policy
			hasty.ProviderTimeout, hasty.Lease = time.Second, 7*time.Second
			deaf := payments.New(pool, orders.New(pool, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler)),
				b.line, hasty, time.Now, nil, b.log.Logger())
			if err := pool.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			proxy.Deafen(!inTheMidst)
			b.line.onFind(func(_ context.Context, ask func() (payments.Capture, error)) (payments.Capture, error) {
				proxy.Deafen(true)
				return ask()
			})
			begun := time.Now()
			_, err = deaf.ReconcileOnce(t.Context())
			if took := time.Since(begun); err == nil && !inTheMidst || took > 2*within {
				t.Errorf("the round ended after %s with %v", took, err)
			}
			if inTheMidst && !b.log.Has("what is open cannot be settled") {
				t.Error("the failure is not in the log")
			}
			b.line.heal()
			b.settleAll(t)
			b.expectTrail(t, order, paidOnce)
		})
	}
}

// While a dispute is open nothing goes back, because the bank may take the money. When it is lost
// the debt has ended, and when it is won the money goes back. Then the charge's key has its last
// answer.
func TestDisputeOfOwedMoney(t *testing.T) {
	t.Parallel()
	for outcome, back := range map[string]int64{payments.DisputeLost: 0, payments.DisputeWon: 100} {
		t.Run(outcome, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			order := b.place(t)
			charge := b.crash(t, order, true)
			b.expire(t, order)
			b.line.onRefund(refuseRefund)
			b.timePasses(t)
			b.reconcile(t) // the money came too late, and its return is refused
			s := &scene{bundle: b, order: order, charge: charge, capture: b.line.captures(t, charge.ID)[0]}
			s.dispute(t, payments.DisputeOpen)
			b.line.heal()
			for range 3 {
				b.timePasses(t)
				b.reconcile(t)
			}
			if _, err := b.shop.Refund(t.Context(), b.refund(charge, "r", nil)); !errors.Is(err, payments.ErrDisputed) {
				t.Errorf("a refund while the dispute is open: %v", err)
			}
			command := b.chargeOf(order, dedup.Key(order.ID.String()))
			if answer := b.answer(t, command); answer.Status != 202 {
				t.Errorf("the key while the dispute is open: %d %s", answer.Status, answer.Body)
			}
			s.dispute(t, outcome)
			b.settleAll(t)
			if _, gave := b.provider(t, charge.ID); gave != back {
				t.Errorf("%d went back, want %d", gave, back)
			}
			answer := b.answer(t, command)
			ended := decode[payments.Charge](t, answer.Body)
			if answer.Status != 201 || !answer.Final || ended.AmountRefunded != back || ended.Dispute != outcome {
				t.Errorf("the key at last: %d %s", answer.Status, answer.Body)
			}
		})
	}
}
