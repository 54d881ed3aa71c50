package payments

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/tracing"
)

const (
	// reconcileWorkers work on each kind of row.
	reconcileWorkers = 8
	reconcileIdle    = time.Second
)

// job is the work on a row that was claimed.
type job func(context.Context) error

// claim takes over up to most rows of a kind that are due.
type claim func(ctx context.Context, most int32) ([]job, error)

func (s *Service) claims() []claim {
	return []claim{s.claimCharges, s.claimRefunds, s.claimOwing}
}

// within bounds a claim. What it took before an error comes due again when the lease ends.
func (c claim) within(ctx context.Context, most int32) ([]job, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	return c(ctx, most)
}

// RunReconciler settles open outcomes until ctx ends. It logs failures and tries again. A row that
// takes long, or fails, keeps one worker of its kind and no other row.
func (s *Service) RunReconciler(ctx context.Context) error {
	var kinds sync.WaitGroup
	for _, claim := range s.claims() {
		kinds.Go(func() { s.runClaims(ctx, claim) })
	}
	kinds.Wait()
	return nil
}

func (s *Service) runClaims(ctx context.Context, claim claim) {
	working := make(chan struct{}, reconcileWorkers)
	var workers sync.WaitGroup
	defer workers.Wait()
	for ctx.Err() == nil {
		free := reconcileWorkers - len(working)
		due, err := claim.within(ctx, int32(free)) //nolint:gosec // a handful
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "reconciling failed; trying again", "error", err)
		}
		for _, work := range due {
			working <- struct{}{}
			workers.Go(func() {
				defer func() { <-working }()
				s.do(ctx, work)
			})
		}
		if err == nil && len(due) == free { // more may be due: go on when a worker is free
			select {
			case <-ctx.Done():
			case working <- struct{}{}:
				<-working
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(reconcileIdle):
		}
	}
}

// ReconcileOnce takes over charges and refunds whose lease has run out, and charges that owe money,
// and works on all of them at the same time, so that no lease runs out in a queue. It returns how
// many it took. What fails is logged and comes due again.
func (s *Service) ReconcileOnce(ctx context.Context) (int, error) {
	var due []job
	for _, claim := range s.claims() {
		more, err := claim.within(ctx, reconcileWorkers)
		if err != nil {
			return 0, err
		}
		due = append(due, more...)
	}
	var workers sync.WaitGroup
	for _, work := range due {
		workers.Go(func() { s.do(ctx, work) })
	}
	workers.Wait()
	return len(due), nil
}

// do works on a claimed row to its end, also when the service stops. Its calls end before the
// lease, by the time that the last transaction takes.
func (s *Service) do(ctx context.Context, work job) {
	crash.At(crash.ReconcileBegun)
	ctx, cancel := detach(ctx, s.policy.Lease-settleTimeout)
	defer cancel()
	ctx, span := tracing.Work(ctx, "reconcile")
	err := work(ctx)
	tracing.End(span, err)
	if err == nil {
		reconciled.WithLabelValues("done").Inc()
	} else {
		reconciled.WithLabelValues("failed").Inc()
		s.log.ErrorContext(ctx, "what is open cannot be settled; trying again when the lease ends", "error", err)
	}
}

func (s *Service) claimCharges(ctx context.Context, most int32) ([]job, error) {
	rows, err := s.db.ClaimUnsettledCharges(ctx,
		paymentsdb.ClaimUnsettledChargesParams{Lease: s.policy.Lease, Most: most})
	return jobs(rows, err, func(ctx context.Context, charge paymentsdb.Charge) error {
		return about("charge", charge.ID, s.reconcileCharge(ctx, charge))
	})
}

func (s *Service) claimRefunds(ctx context.Context, most int32) ([]job, error) {
	rows, err := s.db.ClaimUnsettledRefunds(ctx,
		paymentsdb.ClaimUnsettledRefundsParams{Lease: s.policy.Lease, Most: most})
	return jobs(rows, err, func(ctx context.Context, refund paymentsdb.Refund) error {
		return about("refund", refund.ID, s.reconcileRefund(ctx, refund))
	})
}

func (s *Service) claimOwing(ctx context.Context, most int32) ([]job, error) {
	rows, err := s.db.ClaimOwing(ctx, paymentsdb.ClaimOwingParams{Lease: s.policy.Lease, Most: most})
	return jobs(rows, err, func(ctx context.Context, charge paymentsdb.Charge) error {
		return about("charge", charge.ID, s.returnOwed(ctx, charge))
	})
}

// jobs returns the work on each claimed row.
func jobs[R any](rows []R, err error, work func(context.Context, R) error) ([]job, error) {
	if err != nil {
		return nil, fmt.Errorf("claim what is due: %w", err)
	}
	due := make([]job, len(rows))
	for i, row := range rows {
		due[i] = func(ctx context.Context) error { return work(ctx, row) }
	}
	return due, nil
}

func about(what string, id uuid.UUID, err error) error {
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	return nil
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
	ctx, ended := s.call(ctx, "cancel capture")
	defer ended(&err)
	return s.provider.CancelCapture(ctx, s.captureRequest(charge))
}

func (s *Service) findCapture(ctx context.Context, charge paymentsdb.Charge) (_ Capture, err error) {
	ctx, ended := s.call(ctx, "find capture")
	defer ended(&err)
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
