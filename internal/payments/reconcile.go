package payments

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
)

const (
	reconcileWorkers = 8
	reconcileIdle    = time.Second
	// firstLook is when to ask about an outcome that did not arrive.
	firstLook = 2 * time.Second
	// longestPause lets a charge heal well within a minute of the provider.
	longestPause = 15 * time.Second
	// actionPause is how often to ask whether the buyer has acted. An event is usually faster.
	actionPause = 5 * time.Second
	// longestPendingPause is how often to ask for a refund that the provider works on for days.
	longestPendingPause = time.Hour
)

// RunReconciler settles open outcomes until ctx ends. It logs failures and tries again.
func (s *Service) RunReconciler(ctx context.Context) error {
	for ctx.Err() == nil {
		taken, err := s.ReconcileOnce(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "reconciling failed; trying again", "error", err)
		}
		if err == nil && taken >= reconcileWorkers {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(reconcileIdle):
		}
	}
	return nil
}

// ReconcileOnce takes over charges and refunds whose lease has run out, and charges that owe money,
// and works on all of them at the same time, so that no lease runs out in a queue. It returns how
// many it took.
func (s *Service) ReconcileOnce(ctx context.Context) (int, error) {
	charges, refunds, owing, err := s.claim(ctx)
	if err != nil {
		return 0, err
	}
	taken := len(charges) + len(refunds) + len(owing)
	if taken > 0 {
		crash.At(crash.ReconcileBegun)
	}
	// A claimed row is worked on to its end, also when the service stops. Its calls end before the
	// lease, by the time that the last transaction takes.
	ctx, cancel := detach(ctx, s.policy.Lease-settleTimeout)
	defer cancel()
	var group errgroup.Group
	for _, charge := range charges {
		group.Go(func() error { return s.reconcileCharge(ctx, charge) })
	}
	for _, refund := range refunds {
		group.Go(func() error { return s.reconcileRefund(ctx, refund) })
	}
	for _, charge := range owing {
		group.Go(func() error { return s.returnOwed(ctx, charge) })
	}
	return taken, group.Wait()
}

// claim takes over what is due. What it took before an error comes due again when the lease ends.
func (s *Service) claim(ctx context.Context) (charges []paymentsdb.Charge, refunds []paymentsdb.Refund,
	owing []paymentsdb.Charge, err error) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	charges, err = s.db.ClaimUnsettledCharges(ctx,
		paymentsdb.ClaimUnsettledChargesParams{Lease: s.policy.Lease, Most: reconcileWorkers})
	if err != nil {
		return nil, nil, nil, fmt.Errorf("claim unsettled charges: %w", err)
	}
	refunds, err = s.db.ClaimUnsettledRefunds(ctx,
		paymentsdb.ClaimUnsettledRefundsParams{Lease: s.policy.Lease, Most: reconcileWorkers})
	if err != nil {
		return nil, nil, nil, fmt.Errorf("claim unsettled refunds: %w", err)
	}
	owing, err = s.db.ClaimOwing(ctx, paymentsdb.ClaimOwingParams{Lease: s.policy.Lease, Most: reconcileWorkers})
	if err != nil {
		return nil, nil, nil, fmt.Errorf("claim charges that owe money: %w", err)
	}
	return charges, refunds, owing, nil
}

// reconcileCharge asks the provider what it holds. If that is nothing, it asks for the money again,
// under the same key, while the order waits for the charge and the provider remembers the key. It
// gives up by canceling at the provider: after that, no money can move. See docs/decisions.md, D25.
func (s *Service) reconcileCharge(ctx context.Context, charge paymentsdb.Charge) error {
	if charge.Provider != s.provider.Name() {
		return s.postpone(ctx, charge, "", fmt.Errorf("it belongs to the provider %s", charge.Provider))
	}
	found, err := s.findCapture(ctx, charge)
	if err != nil {
		return s.postpone(ctx, charge, found.ID, err)
	}
	order, err := s.orders.Get(ctx, charge.OrderID)
	if err != nil {
		return s.postpone(ctx, charge, "", err)
	}
	age, err := s.db.ChargeAgeSeconds(ctx, charge.ID)
	if err != nil {
		return s.postpone(ctx, charge, "", err)
	}
	if charge.ProviderID == nil {
		charge.ProviderID = optional(found.ID)
	}
	waits := order.Status == orders.Paying
	switch {
	case found.Status != CaptureNone && found.Status != CaptureRequiresAction,
		found.Status == CaptureRequiresAction && waits:
		return s.settled(ctx, charge, found)
	case found.Status == CaptureNone && waits && seconds(age) < s.policy.Horizon:
		return s.askAgain(ctx, charge)
	default:
		return s.giveUp(ctx, charge)
	}
}

// askAgain asks for the money once more, if the charge is still held. A refusal is no evidence
// about the requests before this one: only a cancellation ends them.
func (s *Service) askAgain(ctx context.Context, charge paymentsdb.Charge) error {
	held, err := s.db.MarkAsked(ctx, paymentsdb.MarkAskedParams{ID: charge.ID, Attempt: charge.Attempt})
	if err != nil || held == 0 {
		return err
	}
	capture, err := s.capture(ctx, charge)
	switch {
	case errors.Is(err, ErrRefused):
		return s.giveUp(ctx, charge)
	case err != nil:
		return s.postpone(ctx, charge, capture.ID, err)
	}
	return s.settled(ctx, charge, capture)
}

// giveUp cancels the charge at the provider, or learns that the money has moved.
func (s *Service) giveUp(ctx context.Context, charge paymentsdb.Charge) error {
	ended, err := s.cancelCapture(ctx, charge)
	if err != nil {
		return s.postpone(ctx, charge, ended.ID, err)
	}
	return s.settled(ctx, charge, ended)
}

func (s *Service) cancelCapture(ctx context.Context, charge paymentsdb.Charge) (_ Capture, err error) {
	defer measure("cancel capture", time.Now(), &err)
	ctx, cancel := context.WithTimeout(ctx, s.policy.ProviderTimeout)
	defer cancel()
	return s.provider.CancelCapture(ctx, s.captureRequest(charge))
}

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

func (s *Service) findCapture(ctx context.Context, charge paymentsdb.Charge) (_ Capture, err error) {
	defer measure("find capture", time.Now(), &err)
	ctx, cancel := context.WithTimeout(ctx, s.policy.ProviderTimeout)
	defer cancel()
	return s.provider.FindCapture(ctx, s.captureRequest(charge))
}

func (s *Service) settled(ctx context.Context, charge paymentsdb.Charge, capture Capture) error {
	if err := fits(charge, capture); err != nil {
		return s.postpone(ctx, charge, "", err)
	}
	ctx, cancel := detach(ctx, settleTimeout)
	defer cancel()
	after, err := s.settle(ctx, charge, capture)
	if err == nil && after.SettledAt != nil {
		s.log.InfoContext(ctx, "reconciled a charge", "charge_id", charge.ID, "order_id", charge.OrderID,
			"attempt", charge.Attempt, "status", after.Status)
	}
	return err
}

// postpone gives the charge back for a while. The cause is only logged: the next try deals with it.
func (s *Service) postpone(ctx context.Context, charge paymentsdb.Charge, providerID string, cause error) error {
	s.log.WarnContext(ctx, "a charge stays open", "charge_id", charge.ID, "order_id", charge.OrderID,
		"attempt", charge.Attempt, "error", cause)
	ctx, cancel := detach(ctx, settleTimeout)
	defer cancel()
	_, err := s.markUnknown(ctx, charge, providerID, pauseAfter(charge.Attempt))
	return err
}

// reconcileRefund asks the provider what it holds. If that is nothing, it asks again under the same
// key while the provider remembers it. A refund fails if the provider does not hold it and no
// request can be on its way any more, after a refusal or when the key is too old.
func (s *Service) reconcileRefund(ctx context.Context, refund paymentsdb.Refund) error {
	charge, err := s.db.GetCharge(ctx, refund.ChargeID)
	if err != nil {
		return fmt.Errorf("read the charge: %w", err)
	}
	postpone := func(pause time.Duration, cause error) error {
		s.log.WarnContext(ctx, "a refund stays open", "refund_id", refund.ID, "charge_id", refund.ChargeID,
			"attempt", refund.Attempt, "error", cause)
		_, err := s.markRefundUnknown(ctx, refund, pause, false)
		return err
	}
	if charge.Provider != s.provider.Name() {
		return postpone(longestPause, fmt.Errorf("it belongs to the provider %s", charge.Provider))
	}
	all, err := s.findRefunds(ctx, charge)
	if err != nil {
		return postpone(pauseAfter(refund.Attempt), err)
	}
	for _, given := range all {
		if given.Reference == refund.ID.String() || given.ID != "" && given.ID == value(refund.ProviderID) {
			_, err := s.settleRefund(ctx, charge, refund, given)
			return err
		}
	}
	ages, err := s.db.RefundAges(ctx, refund.ID)
	if err != nil {
		return fmt.Errorf("read the refund's age: %w", err)
	}
	switch {
	case !refund.Refused && seconds(ages.Started) < s.policy.Horizon:
		if held, err := s.db.MarkRefundAsked(ctx,
			paymentsdb.MarkRefundAskedParams{ID: refund.ID, Attempt: refund.Attempt}); err != nil || held == 0 {
			return err
		}
		_, err := s.attemptRefund(ctx, refund, pauseAfter(refund.Attempt))
		return err
	case seconds(ages.Asked) < s.inFlight():
		return postpone(s.inFlight()-seconds(ages.Asked), errors.New("a request may still be on its way"))
	default:
		_, err := s.settleRefund(ctx, charge, refund,
			ProviderRefund{Status: RefundFailed, FailureCode: failedAsNotFound})
		return err
	}
}

// inFlight is how long a request for a refund, which cannot be canceled, may still be on its way to
// the provider after it was begun. Until then, "not found" proves nothing.
func (s *Service) inFlight() time.Duration { return 3 * s.policy.ProviderTimeout }

// pauseAfter doubles with every attempt. The jitter keeps nodes from asking together.
func pauseAfter(attempt int32) time.Duration {
	pause := min(firstLook<<min(attempt, 8), longestPause)
	return pause/2 + rand.N(pause/2) //nolint:gosec // jitter needs no secrecy
}

// pendingPause is how long to wait for a refund that the provider works on.
func pendingPause(attempt int32) time.Duration {
	return min(firstLook<<min(attempt, 16), longestPendingPause)
}
