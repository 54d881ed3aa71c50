package payments_test

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/check"
	"github.com/onceshop/onceshop/internal/payments"
)

// consistent expects that nothing is open and that `shop check` finds nothing. It runs after the
// test, when the test's context is over. A shop without a mailbox sends no events.
func consistent(t testing.TB, sources check.Sources) {
	t.Helper()
	if t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if n := count(ctx, t, sources.DB, "SELECT "+open); n != 0 {
		t.Errorf("%d charges, refunds, debts and events are open", n)
	}
	report, err := check.Run(ctx, sources)
	if err != nil {
		t.Error(err)
	}
	for _, result := range report.Violated() {
		if result.Invariant == "I10" && sources.MailboxURL == "" {
			continue // this shop has no relay that carries its events away
		}
		t.Errorf("%s, %s: %+v", result.Invariant, result.Says, result.Violations)
	}
}

// open is an expression for how many charges and refunds are not settled, debts not returned and
// events not applied.
const open = `(SELECT count(*) FROM charges WHERE settled_at IS NULL OR return_due IS NOT NULL) +
	(SELECT count(*) FROM refunds WHERE settled_at IS NULL) +
	(SELECT count(*) FROM provider_events WHERE state = 'received')`

// provider is what the provider took for a charge and gave back of it, in minor units.
func (b *bundle) provider(t testing.TB, charge uuid.UUID) (took, gave int64) {
	t.Helper()
	for _, capture := range b.line.captures(t, charge) {
		if capture.Status != payments.CaptureSucceeded {
			continue
		}
		took += capture.Amount
		refunds, err := b.line.provider.FindRefunds(t.Context(), capture.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, refund := range refunds {
			if refund.Status == payments.RefundSucceeded {
				gave += refund.Amount
			}
		}
	}
	return took, gave
}
