package payments

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/problem"
	"github.com/onceshop/onceshop/internal/timeline"
)

// notCaptured is the decline code of a charge that we gave up because the provider did not know it.
const notCaptured = "not_captured"

// unfenced is the attempt of a writer that holds no lease: the provider's own word.
const unfenced = 0

// errStale refuses a worker whose lease ran out and whose charge or refund another has taken over.
var errStale = errors.New("payments: another worker has taken over")

// settle stores what the provider said of a charge, with everything that follows from it, and returns the charge as it
// stands. Answer, reconciler and webhook all meet here: whoever comes first decides, later ones find nothing to do, and a
// worker with an old attempt number changes nothing.
func (s *Service) settle(ctx context.Context, row paymentsdb.Charge, capture Capture, attempt int32) (paymentsdb.Charge, error) {
	settled, err := s.settling.Do(ctx, outcome{row, capture, attempt})
	if errors.Is(err, errAlone) {
		err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) (err error) {
			settled, err = s.settleTx(ctx, tx, row, capture, attempt)
			return err
		})
	}
	if err == nil {
		return settled, nil
	}
	if errors.Is(err, errStale) {
		s.log.WarnContext(ctx, "a stale worker was refused", "charge_id", row.ID, "order_id", row.OrderID, "attempt", attempt)
		s.Stopped.Stopped(row.ID, timeline.Stop{Kind: timeline.StaleWorker, Attempt: attempt})
	}
	if errors.Is(err, errStale) || errors.Is(err, pg.ErrCommitUnknown) {
		if reread, rereadErr := s.reread(ctx, row.ID); rereadErr == nil && (reread.Answer != nil || errors.Is(err, errStale)) {
			return reread, nil
		}
	}
	return row, err
}

// settleTx takes the order's lock before the charge's, as lookTx does.
func (s *Service) settleTx(ctx context.Context, tx pgx.Tx, row paymentsdb.Charge, capture Capture, attempt int32) (paymentsdb.Charge, error) {
	order, err := s.orders.LegacyLockTx(ctx, tx, row.OrderID)
	if err != nil {
		return row, err
	}
	db := paymentsdb.New(tx)
	if row, err = db.LockCharge(ctx, row.ID); err != nil {
		return row, fmt.Errorf("lock the charge: %w", err)
	}
	if row.Answer != nil {
		if attempt != unfenced {
			s.Stopped.Stopped(row.ID, timeline.Stop{Kind: timeline.SettledAlready})
		}
		return s.afterTheEndTx(ctx, tx, row, capture)
	}
	if attempt != unfenced && row.Attempt != attempt {
		return row, errStale
	}
	if err := decide(&row, capture); err != nil {
		return row, err
	}
	if err := writeOutcome(ctx, db, row); err != nil {
		return row, err
	}
	return row, s.followTx(ctx, tx, order, row)
}

// decide makes what the provider said the end of the charge.
func decide(row *paymentsdb.Charge, capture Capture) error {
	row.Status, row.ProviderID, row.DeclineCode = capture.Status, optional(capture.ID), optional(capture.DeclineCode)
	status, body, err := finalAnswer(view(*row))
	row.AnswerStatus, row.Answer = &status, body
	return err
}

// followTx does what the outcome of a charge means for its order.
func (s *Service) followTx(ctx context.Context, tx pgx.Tx, order orders.Order, row paymentsdb.Charge) error {
	switch {
	case order.Status == orders.Paying:
		return s.orders.LegacyChangeStatusTx(ctx, tx, order, statusAfter(row))
	case row.Status == string(Succeeded):
		// The order was canceled or has expired meanwhile.
		_, err := s.startOwnRefundTx(ctx, tx, row, causeLate)
		return err
	}
	return nil
}

// afterTheEndTx handles what the provider says of a settled charge: the same again, or, if we gave the charge up because
// the provider did not know it, that the money moved after all. Then it goes back.
func (s *Service) afterTheEndTx(ctx context.Context, tx pgx.Tx, row paymentsdb.Charge, capture Capture) (paymentsdb.Charge, error) {
	givenUp := row.Status == string(Declined) && row.DeclineCode != nil && *row.DeclineCode == notCaptured
	if !givenUp || capture.Status != CaptureSucceeded {
		return row, nil
	}
	db := paymentsdb.New(tx)
	live, err := db.FindLiveCharge(ctx, row.OrderID)
	if err == nil {
		return row, contradictionError{fmt.Sprintf("charge %s was given up and captured after all, while charge %s is live", row.ID, live.ID)}
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return row, fmt.Errorf("find the order's live charge: %w", err)
	}
	row.Status, row.ProviderID, row.DeclineCode = string(Succeeded), optional(capture.ID), nil
	if err := writeOutcome(ctx, db, row); err != nil {
		return row, err
	}
	_, err = s.startOwnRefundTx(ctx, tx, row, causeLate)
	return row, err
}

func writeOutcome(ctx context.Context, db *paymentsdb.Queries, row paymentsdb.Charge) error {
	err := db.SettleCharge(ctx, paymentsdb.SettleChargeParams{ID: row.ID, Status: row.Status, ProviderID: row.ProviderID,
		DeclineCode: row.DeclineCode, AnswerStatus: row.AnswerStatus, Answer: row.Answer})
	if err != nil {
		return fmt.Errorf("settle the charge: %w", err)
	}
	return nil
}

// finalAnswer is what the charge's key is answered with from now on.
func finalAnswer(charge Charge) (status int32, body []byte, err error) {
	if charge.Status == Succeeded {
		body, err = json.Marshal(charge)
		if err != nil {
			return 0, nil, fmt.Errorf("encode the charge: %w", err)
		}
		return http.StatusCreated, body, nil
	}
	declined := problem.New(http.StatusPaymentRequired, "declined", "The payment was declined",
		fmt.Sprintf("The provider declined the payment (%s). Nothing was charged: try another payment method with a new idempotency key.", charge.DeclineCode), true)
	declined.Charge = charge
	return http.StatusPaymentRequired, declined.Body(), nil
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
