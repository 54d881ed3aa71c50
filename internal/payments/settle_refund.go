package payments

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/problem"
	"github.com/onceshop/onceshop/internal/timeline"
)

// Refund as the API shows it. Amount is in minor units of Currency.
type Refund struct {
	ID          uuid.UUID `json:"id"`
	ChargeID    uuid.UUID `json:"charge_id"`
	Status      Status    `json:"status"`
	Amount      int64     `json:"amount"`
	Currency    string    `json:"currency"`
	FailureCode string    `json:"failure_code,omitempty"`
	CreatedAt   time.Time `json:"created_at"`
}

// failedAsNotFound is the failure code of a refund that the provider does not hold.
const failedAsNotFound = "not_refunded"

// settleRefund stores what the provider holds, and returns the refund as it stands.
func (s *Service) settleRefund(ctx context.Context, charge paymentsdb.Charge, refund paymentsdb.Refund,
	given ProviderRefund) (paymentsdb.Refund, error) {
	ctx, cancel := detach(ctx, settleTimeout)
	defer cancel()
	settled := refund
	err := pg.InPipe(ctx, s.pool, func(tx *pg.Pipe) (err error) {
		settled, err = s.settleRefundTx(ctx, tx, charge, refund.ID, refund.Attempt, given)
		return err
	})
	if wrong, ok := errors.AsType[contradictionError](err); ok {
		contradictions.Inc()
		s.log.ErrorContext(ctx, "the provider contradicts itself", "refund_id", refund.ID, "charge_id", charge.ID,
			"reason", wrong.reason)
		return settled, nil
	}
	if errors.Is(err, errStale) {
		s.log.WarnContext(ctx, "a stale worker was refused",
			"refund_id", refund.ID, "charge_id", refund.ChargeID, "attempt", refund.Attempt)
		staleWrites.WithLabelValues("refund").Inc()
		s.recorder.Stopped(refund.ID, timeline.Stop{Kind: timeline.StaleWorker, Attempt: refund.Attempt})
	}
	if errors.Is(err, errStale) || errors.Is(err, pg.ErrCommitUnknown) {
		ctx, cancel := detach(ctx, settleTimeout)
		defer cancel()
		if stands, rereadErr := s.db.GetRefund(ctx, refund.ID); rereadErr == nil {
			return stands, nil
		}
	}
	return settled, err
}

// settleRefundTx stores what the provider holds of a refund, and what follows for its charge and
// order. A success is written down whatever was believed before.
func (s *Service) settleRefundTx(ctx context.Context, tx *pg.Pipe, charge paymentsdb.Charge, id uuid.UUID,
	attempt int32, given ProviderRefund) (paymentsdb.Refund, error) {
	db := paymentsdb.New(tx)
	locked := s.orders.LockTx(tx, charge.OrderID)
	charge, err := db.LockCharge(ctx, charge.ID)
	if err != nil {
		return paymentsdb.Refund{}, fmt.Errorf("lock the order and the charge: %w", err)
	}
	refund, err := db.LockRefund(ctx, id)
	if err != nil {
		return refund, fmt.Errorf("lock the refund: %w", err)
	}
	before := refund.Status
	settled := before == RefundSucceeded || before == RefundFailed
	switch {
	case settled && (given.Status == before || given.Status == RefundPending):
		return refund, nil
	case given.Status != RefundSucceeded && attempt != unfenced && attempt != refund.Attempt:
		return refund, errStale
	}
	refund.Status = given.Status
	if given.ID != "" {
		refund.ProviderID = &given.ID
	}
	refund.FailureCode = optional(given.FailureCode)
	switch {
	case !settled:
		charge.RefundReserved -= refund.Amount
	case before == RefundSucceeded:
		charge.AmountRefunded -= refund.Amount
	}
	if given.Status != RefundFailed {
		if err := leaves(charge, refund.Amount); err != nil {
			return refund, err
		}
	}
	switch given.Status {
	case RefundPending:
		charge.RefundReserved += refund.Amount
	case RefundSucceeded:
		charge.AmountRefunded += refund.Amount
	}
	if given.Status != RefundPending && refund.Answer == nil {
		if err := answerRefund(&refund); err != nil {
			return refund, err
		}
	}
	if err := db.SettleRefund(ctx, paymentsdb.SettleRefundParams{ID: refund.ID, Status: refund.Status,
		ProviderID: refund.ProviderID, FailureCode: refund.FailureCode, Answer: refund.Answer,
		AnswerStatus: refund.AnswerStatus, Pause: pendingPause(refund.Attempt)}); err != nil {
		return refund, fmt.Errorf("settle the refund: %w", err)
	}
	if given.Status == RefundFailed { // another refund may have waited for what this one had reserved
		if err := db.HurryEvents(ctx, charge.ID); err != nil {
			return refund, fmt.Errorf("hurry the events: %w", err)
		}
	}
	outcomes.WithLabelValues("refund", refund.Status).Inc()
	return refund, s.afterRefundTx(ctx, tx, locked, charge)
}

// leaves checks that the amount can be given back in addition to what was. If it only exceeds what
// is reserved for refunds under way, one of these will fail: then the amount is early.
func leaves(charge paymentsdb.Charge, amount int64) error {
	switch left := charge.Amount - charge.AmountRefunded; {
	case amount > left:
		return contradictionError{fmt.Sprintf("a refund of %d is more than the %d that capture %s has left", amount,
			left, value(charge.ProviderID))}
	case amount > left-charge.RefundReserved:
		return errEarly
	default:
		return nil
	}
}

// afterRefundTx writes what the charge has given back, and what follows: a debt that is paid
// answers the charge's key, one that is not comes due again, and a paid order ends when all its
// money is back.
func (s *Service) afterRefundTx(ctx context.Context, tx *pg.Pipe, locked *orders.Locked,
	charge paymentsdb.Charge) error {
	p := paymentsdb.UpdateRefundedParams{ID: charge.ID, AmountRefunded: charge.AmountRefunded,
		RefundReserved: charge.RefundReserved, Answer: charge.Answer, AnswerStatus: charge.AnswerStatus}
	if owes(charge) {
		p.DueIn = returnPause(charge.ReturnTries)
	}
	if charge.Answer == nil && owesNothing(charge) {
		status, body, err := finalAnswer(view(charge))
		if err != nil {
			return err
		}
		p.Answer, p.AnswerStatus = body, &status
	}
	if err := paymentsdb.New(tx).UpdateRefunded(ctx, p); err != nil {
		return fmt.Errorf("update the charge: %w", err)
	}
	order, err := locked.Order(charge.OrderID)
	if err != nil || order.Status != orders.Paid || !charge.Pays || charge.AmountRefunded < charge.Amount {
		return err
	}
	return s.orders.ChangeStatusTx(ctx, tx, locked, orders.Change{OrderID: charge.OrderID, To: orders.Refunded})
}

// refundable is what the charge can still give back: not what it has given back, nor what is on its
// way, nor what the buyer's bank took back.
func refundable(charge paymentsdb.Charge) int64 {
	if charge.Status != string(Succeeded) || value(charge.Dispute) == DisputeLost {
		return 0
	}
	return charge.Amount - charge.AmountRefunded - charge.RefundReserved
}

// owes reports whether money of the charge has to go back and is not on its way.
func owes(charge paymentsdb.Charge) bool {
	return charge.Owes != nil && charge.OwedEndedAt == nil && refundable(charge) > 0
}

// owesNothing reports whether no money of a captured charge can go back any more.
func owesNothing(charge paymentsdb.Charge) bool {
	return charge.Status == string(Succeeded) && charge.RefundReserved == 0 &&
		(refundable(charge) == 0 || charge.OwedEndedAt != nil)
}

// markRefundUnknown leaves the refund to the reconciler, which asks again after the pause.
func (s *Service) markRefundUnknown(ctx context.Context, refund paymentsdb.Refund,
	pause time.Duration, refused bool) (paymentsdb.Refund, error) {
	marked, err := s.db.MarkRefundUnknown(ctx, paymentsdb.MarkRefundUnknownParams{ID: refund.ID,
		Attempt: refund.Attempt, Pause: pause, Refused: refused})
	if errors.Is(err, pgx.ErrNoRows) { // it is settled, or another worker has taken over
		marked, err = s.db.GetRefund(ctx, refund.ID)
	}
	if err != nil {
		return refund, fmt.Errorf("mark the refund as unknown: %w", err)
	}
	outcomes.WithLabelValues("refund", marked.Status).Inc()
	return marked, nil
}

// answerRefund sets what the refund's key is answered with from now on.
func answerRefund(refund *paymentsdb.Refund) (err error) {
	status := int32(http.StatusCreated)
	if refund.Status == string(Failed) {
		status = http.StatusPaymentRequired
		failed := problem.New("refund_failed", fmt.Sprintf("The provider did not give the money back (%s). Nothing "+
			"was refunded: try again with a new idempotency key, or another way.", value(refund.FailureCode)))
		failed.Refund = viewRefund(*refund)
		refund.Answer = failed.Body()
	} else if refund.Answer, err = json.Marshal(viewRefund(*refund)); err != nil {
		return fmt.Errorf("encode the refund: %w", err)
	}
	refund.AnswerStatus = &status
	return nil
}

// refundAnswerOf returns the final answer of a settled refund, or 202 with the refund as it stands.
func refundAnswerOf(refund paymentsdb.Refund) (dedup.Answer, error) {
	if refund.Answer != nil {
		return dedup.Answer{ID: refund.ID, Status: int(*refund.AnswerStatus), Body: refund.Answer, Final: true}, nil
	}
	body, err := json.Marshal(viewRefund(refund))
	if err != nil {
		return dedup.Answer{}, fmt.Errorf("encode the refund: %w", err)
	}
	return dedup.Answer{ID: refund.ID, Status: http.StatusAccepted, Body: body}, nil
}

func viewRefund(row paymentsdb.Refund) Refund {
	return Refund{ID: row.ID, ChargeID: row.ChargeID, Status: Status(row.Status), Amount: row.Amount,
		Currency: row.Currency, FailureCode: value(row.FailureCode), CreatedAt: row.CreatedAt.UTC()}
}
