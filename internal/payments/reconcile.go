package payments

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
)

const (
	reconcileBatch   = 32
	reconcileWorkers = 8
	reconcileIdle    = time.Second
	// firstLook is when to ask about an outcome that did not arrive.
	firstLook = 2 * time.Second
	// longestPause lets a charge heal well within a minute of the provider.
	longestPause = 15 * time.Second
	// inFlight is how long the last request may still be on its way to the provider. Until then,
	// "not found" proves nothing.
	inFlight = 30 * time.Second
)

// RunReconciler settles unknown outcomes until ctx ends. Failures are logged and tried again.
func (s *Service) RunReconciler(ctx context.Context) error {
	for ctx.Err() == nil {
		taken, err := s.ReconcileOnce(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "reconciling failed; trying again", "error", err)
		}
		if err == nil && taken >= reconcileBatch {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(reconcileIdle):
		}
	}
	return nil
}

// ReconcileOnce takes over charges and refunds whose lease has run out, asks the provider about
// each, and returns how many it took.
func (s *Service) ReconcileOnce(ctx context.Context) (int, error) {
	charges, err := s.db.ClaimUnsettledCharges(ctx,
		paymentsdb.ClaimUnsettledChargesParams{Lease: s.timing.Lease, Most: reconcileBatch})
	if err != nil {
		return 0, fmt.Errorf("claim unsettled charges: %w", err)
	}
	refunds, err := s.db.ClaimUnsettledRefunds(ctx,
		paymentsdb.ClaimUnsettledRefundsParams{Lease: s.timing.Lease, Most: reconcileBatch})
	if err != nil {
		return len(charges), fmt.Errorf("claim unsettled refunds: %w", err)
	}
	if len(charges)+len(refunds) > 0 {
		crash.At(crash.ReconcileBegun)
	}
	var group errgroup.Group
	group.SetLimit(reconcileWorkers)
	for _, charge := range charges {
		group.Go(func() error {
			ctx, cancel := s.detachClaimed(ctx)
			defer cancel()
			return s.reconcileCharge(ctx, charge)
		})
	}
	for _, refund := range refunds {
		group.Go(func() error {
			ctx, cancel := s.detachClaimed(ctx)
			defer cancel()
			return s.reconcileRefund(ctx, refund)
		})
	}
	return len(charges) + len(refunds), group.Wait()
}

// detachClaimed returns a context for work on one claimed charge or refund: a look at the provider,
// a call, and the transactions around them. It goes on when the service stops.
func (s *Service) detachClaimed(ctx context.Context) (context.Context, context.CancelFunc) {
	return detach(ctx, 2*s.timing.ProviderTimeout+3*settleTimeout)
}

// reconcileCharge asks by reference first. It asks for the money again, under the same key, only if
// the provider does not know the charge, the order waits for it, and the provider still remembers
// the key: otherwise the money could move twice. See docs/decisions.md, D25.
func (s *Service) reconcileCharge(ctx context.Context, charge paymentsdb.Charge) error {
	captures, err := s.findCaptures(ctx, charge)
	if err != nil {
		return s.postpone(ctx, charge, err)
	}
	if len(captures) > 0 {
		found := pick(captures)
		if err := fits(charge, found); err != nil {
			return s.postpone(ctx, charge, err)
		}
		return s.settled(ctx, charge, found)
	}
	order, err := s.orders.Get(ctx, charge.OrderID)
	if err != nil {
		return s.postpone(ctx, charge, err)
	}
	ages, err := s.db.ChargeAges(ctx, charge.ID)
	if err != nil {
		return s.postpone(ctx, charge, err)
	}
	if order.Status == orders.Paying && seconds(ages.Started) < s.timing.Horizon {
		return s.askAgain(ctx, charge)
	}
	if seconds(ages.Asked) < inFlight {
		return s.postpone(ctx, charge, errors.New("the provider does not know the charge yet"))
	}
	return s.settled(ctx, charge, Capture{Status: CaptureDeclined, DeclineCode: notCaptured})
}

// askAgain asks for the money once more, if the charge is still held.
func (s *Service) askAgain(ctx context.Context, charge paymentsdb.Charge) error {
	held, err := s.db.MarkAsked(ctx, paymentsdb.MarkAskedParams{ID: charge.ID, Attempt: charge.Attempt})
	if err != nil || held == 0 {
		return err
	}
	capture, err := s.capture(ctx, charge)
	if err != nil {
		return s.postpone(ctx, charge, err)
	}
	return s.settled(ctx, charge, capture)
}

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

func (s *Service) findCaptures(ctx context.Context, charge paymentsdb.Charge) ([]Capture, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timing.ProviderTimeout)
	defer cancel()
	return s.provider.FindCaptures(ctx, charge.ID.String())
}

// pick prefers the capture that took money.
func pick(captures []Capture) Capture {
	if i := slices.IndexFunc(captures, func(c Capture) bool { return c.Status == CaptureSucceeded }); i >= 0 {
		return captures[i]
	}
	return captures[0]
}

func (s *Service) settled(ctx context.Context, charge paymentsdb.Charge, capture Capture) error {
	after, err := s.settle(ctx, charge, capture)
	if err == nil {
		s.log.InfoContext(ctx, "reconciled a charge", "charge_id", charge.ID, "order_id", charge.OrderID,
			"attempt", charge.Attempt, "status", after.Status)
	}
	return err
}

// postpone gives the charge back for a while. The cause is only logged: the next try deals with it.
func (s *Service) postpone(ctx context.Context, charge paymentsdb.Charge, cause error) error {
	s.log.WarnContext(ctx, "a charge stays unknown", "charge_id", charge.ID, "order_id", charge.OrderID,
		"attempt", charge.Attempt, "error", cause)
	_, err := s.markUnknown(ctx, charge, pauseAfter(charge.Attempt))
	return err
}

// reconcileRefund asks again under the same key while the provider remembers it. After that it only
// looks for a refund at the provider that fits. Without one the refund stays unknown: an operator
// has to decide.
func (s *Service) reconcileRefund(ctx context.Context, refund paymentsdb.Refund) error {
	age, err := s.db.RefundAgeSeconds(ctx, refund.ID)
	if err != nil {
		return fmt.Errorf("read the refund's age: %w", err)
	}
	if seconds(age) < s.timing.Horizon {
		_, err := s.attemptRefund(ctx, refund, pauseAfter(refund.Attempt))
		return err
	}
	charge, err := s.db.GetCharge(ctx, refund.ChargeID)
	if err != nil {
		return fmt.Errorf("read the charge: %w", err)
	}
	given, err := s.findGiven(ctx, charge, refund)
	if err != nil || given == nil {
		s.log.ErrorContext(ctx, "a refund stays unknown past the provider's key lifetime",
			"refund_id", refund.ID, "charge_id", refund.ChargeID, "error", err)
		_, err = s.markRefundUnknown(ctx, refund, longestPause)
		return err
	}
	_, err = s.settleRefund(ctx, charge, refund, given)
	return err
}

// findGiven returns a refund of the same amount at the provider that belongs to no row of ours, or
// nil.
func (s *Service) findGiven(ctx context.Context, charge paymentsdb.Charge,
	refund paymentsdb.Refund) (*ProviderRefund, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timing.ProviderTimeout)
	defer cancel()
	all, err := s.provider.FindRefunds(ctx, value(charge.ProviderID))
	if err != nil {
		return nil, err
	}
	for _, given := range all {
		if given.Amount != refund.Amount {
			continue
		}
		if _, err := s.db.FindRefundByProviderID(ctx, given.ID); errors.Is(err, pgx.ErrNoRows) {
			return &given, nil
		}
	}
	return nil, nil
}

// pauseAfter doubles with every attempt. The jitter keeps nodes from asking together.
func pauseAfter(attempt int32) time.Duration {
	pause := min(firstLook<<min(attempt, 8), longestPause)
	return pause/2 + rand.N(pause/2) //nolint:gosec // jitter needs no secrecy
}
