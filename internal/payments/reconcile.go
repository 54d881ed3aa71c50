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
	// firstLook is when to ask about an outcome that was not told.
	firstLook = 2 * time.Second
	// longestPause keeps a charge's healing well inside a minute of the provider's.
	longestPause = 15 * time.Second
	// inFlight is how long the last request may still be on its way into the provider's books. Before, "not found" proves nothing.
	inFlight = 30 * time.Second
)

// RunReconciler settles what nobody knows until ctx ends. Failures are logged and tried again.
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

// ReconcileOnce takes over charges and refunds whose lease has run out, asks the provider about each, and returns how many it took.
func (s *Service) ReconcileOnce(ctx context.Context) (int, error) {
	charges, err := s.db.ClaimUnsettledCharges(ctx, paymentsdb.ClaimUnsettledChargesParams{Lease: s.timing.Lease, Most: reconcileBatch})
	if err != nil {
		return 0, fmt.Errorf("claim unsettled charges: %w", err)
	}
	refunds, err := s.db.ClaimUnsettledRefunds(ctx, paymentsdb.ClaimUnsettledRefundsParams{Lease: s.timing.Lease, Most: reconcileBatch})
	if err != nil {
		return len(charges), fmt.Errorf("claim unsettled refunds: %w", err)
	}
	if len(charges)+len(refunds) > 0 {
		crash.At(crash.ReconcileBegun)
	}
	// What was claimed is worked on even when the service is stopping: the calls are short and bounded.
	ctx = context.WithoutCancel(ctx)
	var group errgroup.Group
	group.SetLimit(reconcileWorkers)
	for _, row := range charges {
		group.Go(func() error { return s.reconcileCharge(ctx, row) })
	}
	for _, row := range refunds {
		group.Go(func() error { return s.reconcileRefund(ctx, row) })
	}
	return len(charges) + len(refunds), group.Wait()
}

// reconcileCharge asks by reference first. Only what the provider does not know is asked for again, under the same key, and only
// while the order waits for it and the provider remembers the key: otherwise the money could move a second time.
func (s *Service) reconcileCharge(ctx context.Context, row paymentsdb.Charge) error {
	captures, err := s.findCaptures(ctx, row)
	if err != nil {
		return s.postpone(ctx, row, err)
	}
	if len(captures) > 0 {
		found := pick(captures)
		if err := fits(row, found); err != nil {
			return s.postpone(ctx, row, err)
		}
		return s.settled(ctx, row, found)
	}
	order, err := s.orders.Get(ctx, row.OrderID)
	if err != nil {
		return s.postpone(ctx, row, err)
	}
	ages, err := s.db.ChargeAges(ctx, row.ID)
	if err != nil {
		return s.postpone(ctx, row, err)
	}
	if order.Status == orders.Paying && seconds(ages.Started) < s.timing.Horizon {
		return s.askAgain(ctx, row)
	}
	if seconds(ages.Asked) < inFlight {
		return s.postpone(ctx, row, errors.New("the provider does not know the charge yet"))
	}
	return s.settled(ctx, row, Capture{Status: CaptureDeclined, DeclineCode: notCaptured})
}

func (s *Service) askAgain(ctx context.Context, row paymentsdb.Charge) error {
	held, err := s.db.MarkAsked(ctx, paymentsdb.MarkAskedParams{ID: row.ID, Attempt: row.Attempt})
	if err != nil || held == 0 {
		return err
	}
	capture, err := s.capture(ctx, row)
	if err != nil {
		return s.postpone(ctx, row, err)
	}
	return s.settled(ctx, row, capture)
}

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

func (s *Service) findCaptures(ctx context.Context, row paymentsdb.Charge) ([]Capture, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timing.ProviderTimeout)
	defer cancel()
	return s.provider.FindCaptures(ctx, row.ID.String())
}

// pick prefers the capture that took money.
func pick(captures []Capture) Capture {
	if i := slices.IndexFunc(captures, func(c Capture) bool { return c.Status == CaptureSucceeded }); i >= 0 {
		return captures[i]
	}
	return captures[0]
}

func (s *Service) settled(ctx context.Context, row paymentsdb.Charge, capture Capture) error {
	after, err := s.settle(ctx, row, capture)
	if err == nil {
		s.log.InfoContext(ctx, "reconciled a charge", "charge_id", row.ID, "order_id", row.OrderID, "attempt", row.Attempt, "status", after.Status)
	}
	return err
}

// postpone gives the charge back for a while; the error is only logged, since it is what the next try is for.
func (s *Service) postpone(ctx context.Context, row paymentsdb.Charge, cause error) error {
	s.log.WarnContext(ctx, "a charge stays unknown", "charge_id", row.ID, "order_id", row.OrderID, "attempt", row.Attempt, "error", cause)
	_, err := s.markUnknown(ctx, row, pauseAfter(row.Attempt))
	return err
}

// reconcileRefund asks again under the same key while the provider remembers it. Later it only looks whether a refund that none of
// ours has claimed fits; if not, an operator has to decide, and the row says so by staying unknown.
func (s *Service) reconcileRefund(ctx context.Context, row paymentsdb.Refund) error {
	age, err := s.db.RefundAgeSeconds(ctx, row.ID)
	if err != nil {
		return fmt.Errorf("read the refund's age: %w", err)
	}
	if seconds(age) < s.timing.Horizon {
		_, err := s.attemptRefund(ctx, row, pauseAfter(row.Attempt))
		return err
	}
	given, err := s.findRefund(ctx, row)
	if err != nil || given == nil {
		s.log.ErrorContext(ctx, "a refund stays unknown past the provider's key lifetime", "refund_id", row.ID, "charge_id", row.ChargeID, "error", err)
		_, err = s.markRefundUnknown(ctx, row, longestPause)
		return err
	}
	charge, err := s.db.GetCharge(ctx, row.ChargeID)
	if err != nil {
		return fmt.Errorf("read the charge: %w", err)
	}
	_, err = s.settleRefund(ctx, charge, row, given)
	return err
}

// findRefund returns a refund of the same amount at the provider that belongs to no row of ours, or nil.
func (s *Service) findRefund(ctx context.Context, row paymentsdb.Refund) (*ProviderRefund, error) {
	charge, err := s.db.GetCharge(ctx, row.ChargeID)
	if err != nil {
		return nil, fmt.Errorf("read the charge: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.timing.ProviderTimeout)
	defer cancel()
	all, err := s.provider.FindRefunds(ctx, *charge.ProviderID)
	if err != nil {
		return nil, err
	}
	for _, given := range all {
		if given.Amount != row.Amount {
			continue
		}
		if _, err := s.db.FindRefundByProviderID(ctx, given.ID); errors.Is(err, pgx.ErrNoRows) {
			return &given, nil
		}
	}
	return nil, nil
}

// pauseAfter doubles with every attempt; the jitter keeps nodes from asking together.
func pauseAfter(attempt int32) time.Duration {
	pause := min(firstLook<<min(attempt, 8), longestPause)
	return pause/2 + rand.N(pause/2) //nolint:gosec // jitter needs no secrecy
}
