package payments

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/onceshop/onceshop/internal/dedup"
)

// ChargeSoon is Charge with a bound on the wait for the provider. It always waits until the charge
// is stored: from then on the outcome no longer depends on the caller or on this process, because
// the reconciler settles a charge that has lost its worker. If the provider has not answered within
// that time, ChargeSoon returns 202 with the pending charge and the charge goes on.
func (s *Service) ChargeSoon(ctx context.Context, c ChargeOrder, within time.Duration) (dedup.Answer, error) {
	charge, answer, err := s.begin(ctx, c)
	if charge == nil {
		return answer, err
	}
	finished := make(chan struct{})
	s.unattended.Go(func() {
		defer close(finished)
		defer func() { // on this goroutine, the HTTP server cannot recover a panic
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
				s.log.ErrorContext(ctx, "a charge was left to the reconciler", "charge_id", charge.ID, "error", err)
			}
		}()
		answer, err = s.finish(ctx, *charge)
	})
	select {
	case <-finished:
		return answer, err
	case <-time.After(within):
		return answerOf(*charge)
	}
}

// Wait waits for the charges whose callers did not wait, or until ctx ends. Call it when there are
// no more callers. The reconciler settles the charges that it leaves behind.
func (s *Service) Wait(ctx context.Context) {
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		s.unattended.Wait()
	}()
	select {
	case <-finished:
	case <-ctx.Done():
	}
}
