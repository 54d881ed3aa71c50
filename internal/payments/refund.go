package payments

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/money"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/problem"
)

// causeRequested is the cause of a refund that a client asked for. A refund of what a charge owes
// has the reason of the debt.
const causeRequested = "requested"

// RefundCharge is a request to give money back: Amount minor units, or the rest if Amount is nil.
// Its JSON is what the idempotency key stands for.
type RefundCharge struct {
	CustomerID uuid.UUID `json:"-"`
	Key        dedup.Key `json:"-"`

	ChargeID uuid.UUID `json:"charge_id"`
	Amount   *int64    `json:"amount"`
	Reason   string    `json:"reason"`
}

// Fingerprint identifies what the request asks for.
func (c RefundCharge) Fingerprint() dedup.Fingerprint { return dedup.FingerprintOf(c) }

// Refund gives money back, once per customer and key, in the three phases of Charge. It returns
// 201, or 402 if the provider refused for good, which are final and replayed to the key, or 202
// while the outcome is open. problem.InvalidError, ErrNotFound, ErrDisputed and RefundExceedsError
// leave the key unused; the other errors are those of Charge. The first phase reserves the amount,
// so that concurrent refunds stay within the capture. Without an amount it first asks the provider
// what is left. See docs/decisions.md, D22.
func (s *Service) Refund(ctx context.Context, c RefundCharge) (dedup.Answer, error) {
	if err := c.validate(); err != nil {
		return dedup.Answer{}, err
	}
	var refund paymentsdb.Refund
	answer, err := dedup.Once(ctx, dedup.Request{
		Fingerprint: c.Fingerprint(),
		Find: func(ctx context.Context) (dedup.Row, error) {
			return findRefund(ctx, s.db, c)
		},
		Do: func(ctx context.Context) (dedup.Answer, error) {
			if adopted, err := s.adoptRefund(ctx, c); err != nil || adopted {
				return dedup.Answer{}, cmp.Or(err, dedup.ErrKeyTaken)
			}
			charge, err := s.db.GetCharge(ctx, c.ChargeID)
			switch {
			case errors.Is(err, pgx.ErrNoRows):
				return dedup.Answer{}, ErrNotFound
			case err != nil:
				return dedup.Answer{}, fmt.Errorf("read the charge: %w", err)
			case c.Amount == nil && charge.ProviderID != nil:
				if err := s.bookRefunds(ctx, charge); err != nil { // then the provider refuses what it has given
					s.log.WarnContext(ctx, "the provider's refunds are unknown", "charge_id", charge.ID, "error", err)
				}
			}
			err = pg.InPipe(ctx, s.pool, func(tx *pg.Pipe) (err error) { // tx A
				refund, err = s.startRefundTx(ctx, tx, charge.OrderID, c)
				return err
			})
			return dedup.Answer{ID: refund.ID}, err
		},
	})
	if err != nil || answer.Replayed {
		return answer, err
	}
	crash.At(crash.RefundStarted)

	// The refund runs to its end even if the client has gone.
	ctx, cancel := detach(ctx, s.policy.ProviderTimeout+2*settleTimeout)
	defer cancel()
	refund, err = s.attemptRefund(ctx, refund, firstLook) // no tx, then tx B
	crash.At(crash.RefundSettled)
	if err != nil {
		return dedup.Answer{}, err
	}
	return refundAnswerOf(refund)
}

const maxReason = 500

func (c RefundCharge) validate() error {
	if c.Amount != nil && *c.Amount < 1 {
		return problem.InvalidError{Field: "amount",
			Reason: "must be a whole number from 1, in minor units; leave it out to refund the rest"}
	}
	if len(c.Reason) > maxReason {
		return problem.InvalidError{Field: "reason", Reason: fmt.Sprintf("must be at most %d bytes long", maxReason)}
	}
	return nil
}

// id is the same each time that the request is made, as that of a ChargeOrder.
func (c RefundCharge) id() uuid.UUID {
	return pg.DerivedID(c.ChargeID, "refund", c.CustomerID.String(), string(c.Key))
}

// adoptRefund gives the request's key to its refund if that was rebuilt without it, from the
// provider's records. It reports whether it did.
func (s *Service) adoptRefund(ctx context.Context, c RefundCharge) (bool, error) {
	refund, err := s.db.GetRefund(ctx, c.id())
	if errors.Is(err, pgx.ErrNoRows) || err == nil && refund.IdempotencyKey != nil {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the refund without its key: %w", err)
	}
	if c.Amount != nil && *c.Amount != refund.Amount {
		return false, dedup.KeyReusedError{ID: refund.ID}
	}
	if refund.SettledAt != nil {
		if err := answerRefund(&refund); err != nil {
			return false, err
		}
	}
	fingerprint := c.Fingerprint()
	adopted, err := s.db.AdoptRefund(ctx, paymentsdb.AdoptRefundParams{ID: refund.ID, Status: refund.Status,
		CustomerID: c.CustomerID, IdempotencyKey: string(c.Key), Fingerprint: fingerprint[:], Reason: c.Reason,
		Answer: refund.Answer, AnswerStatus: refund.AnswerStatus})
	if err != nil {
		return false, fmt.Errorf("give the refund its key: %w", err)
	}
	return adopted > 0, nil
}

// findRefund reads the refund under the request's key.
func findRefund(ctx context.Context, db *paymentsdb.Queries, c RefundCharge) (dedup.Row, error) {
	refund, err := db.FindRefundByKey(ctx,
		paymentsdb.FindRefundByKeyParams{CustomerID: c.CustomerID, IdempotencyKey: string(c.Key)})
	if errors.Is(err, pgx.ErrNoRows) {
		return dedup.Row{}, dedup.ErrNoRow
	}
	if err != nil {
		return dedup.Row{}, fmt.Errorf("find the refund by its key: %w", err)
	}
	row := dedup.Row{ID: refund.ID, Fingerprint: refund.Fingerprint}
	if refund.Status != string(Pending) || refund.ProviderID != nil {
		row.Answer, err = refundAnswerOf(refund)
	}
	return row, err
}

// startRefundTx inserts the refund under its key. It looks for the key again under the lock: a
// charge with nothing left to refund may owe that to this request's own twin.
func (s *Service) startRefundTx(ctx context.Context, tx *pg.Pipe, orderID uuid.UUID,
	c RefundCharge) (paymentsdb.Refund, error) {
	db := paymentsdb.New(tx)
	s.orders.LockTx(tx, orderID)
	charge, err := db.LockCharge(ctx, c.ChargeID)
	if err != nil {
		return paymentsdb.Refund{}, fmt.Errorf("lock the charge: %w", err)
	}
	if _, err := findRefund(ctx, db, c); !errors.Is(err, dedup.ErrNoRow) {
		return paymentsdb.Refund{}, taken(err)
	}
	if value(charge.Dispute) == DisputeOpen {
		return paymentsdb.Refund{}, ErrDisputed
	}
	left := refundable(charge)
	amount := left
	if c.Amount != nil {
		amount = *c.Amount
	}
	if amount > left || left == 0 {
		return paymentsdb.Refund{}, RefundExceedsError{
			Asked:      money.Money{Minor: amount, Currency: charge.Currency},
			Refundable: money.Money{Minor: left, Currency: charge.Currency}}
	}
	fingerprint := c.Fingerprint()
	key := string(c.Key)
	inserted := s.insertRefundTx(tx, charge, paymentsdb.InsertRefundParams{ID: c.id(), CustomerID: &c.CustomerID,
		IdempotencyKey: &key, Fingerprint: fingerprint[:], Cause: causeRequested, Reason: c.Reason, Amount: amount})
	if err := tx.Flush(ctx); err != nil {
		return paymentsdb.Refund{}, fmt.Errorf("insert the refund: %w", err)
	}
	if len(*inserted) == 0 { // another charge's refund has taken the key
		return paymentsdb.Refund{}, dedup.ErrKeyTaken
	}
	return paymentsdb.Refund((*inserted)[0]), nil
}

// taken is the result of a second look for a key, under a lock, that did not return dedup.ErrNoRow.
func taken(err error) error {
	if err == nil {
		return dedup.ErrKeyTaken
	}
	return err
}

// insertRefundTx queues a refund, which is known after the next Flush. It is missing if its key is
// taken.
func (s *Service) insertRefundTx(tx *pg.Pipe, charge paymentsdb.Charge,
	r paymentsdb.InsertRefundParams) *[]paymentsdb.InsertRefundRow {
	r.ChargeID, r.Currency, r.CreatedAt, r.Lease = charge.ID, charge.Currency, s.timestamp(), s.policy.Lease
	return pg.Later(tx, paymentsdb.New(tx).InsertRefund, r)
}

// attemptRefund asks the provider, stores its answer, and returns the refund as it stands. If the
// outcome is open, the reconciler asks again after the pause. A refusal is believed only of the
// first request: an earlier one may still be on its way. See docs/decisions.md, D81.
func (s *Service) attemptRefund(ctx context.Context, refund paymentsdb.Refund,
	pause time.Duration) (paymentsdb.Refund, error) {
	charge, err := s.db.GetCharge(ctx, refund.ChargeID)
	if err != nil {
		return refund, fmt.Errorf("read the charge: %w", err)
	}
	if charge.Provider != s.provider.Name() || charge.ProviderID == nil {
		return s.markRefundUnknown(ctx, refund, longestPause, false)
	}
	given, err := s.giveBack(ctx, refund, *charge.ProviderID)
	crash.At(crash.RefundGiven)
	refused := errors.Is(err, ErrRefused)
	switch {
	case refused && refund.Attempt == 1:
		s.log.WarnContext(ctx, "the provider refused a refund",
			"charge_id", charge.ID, "refund_id", refund.ID, "error", err)
		return s.settleRefund(ctx, charge, refund, ProviderRefund{Status: RefundFailed, FailureCode: declinedAsRefused})
	case err != nil:
		s.log.WarnContext(ctx, "the outcome of a refund is unknown",
			"charge_id", charge.ID, "refund_id", refund.ID, "error", err)
		return s.markRefundUnknown(ctx, refund, pause, refused)
	default:
		return s.settleRefund(ctx, charge, refund, given)
	}
}

// giveBack asks the provider for the refund. Every try has the same key, derived from the stored
// refund.
func (s *Service) giveBack(ctx context.Context, refund paymentsdb.Refund,
	captureID string) (_ ProviderRefund, err error) {
	ctx, ended := s.call(ctx, "refund")
	defer ended(&err)
	return s.provider.Refund(ctx, RefundRequest{Key: "refund_" + refund.ID.String(), CaptureID: captureID,
		Reference: refund.ID.String(), Amount: refund.Amount})
}
