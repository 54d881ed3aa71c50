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

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/money"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/problem"
	"github.com/onceshop/onceshop/internal/timeline"
)

// Causes of a refund: a client asked for it, the order was canceled, or the money was captured
// after the order had ended.
const (
	causeRequested = "requested"
	causeCanceled  = "canceled"
	causeLate      = "late"
)

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

// Refund as the API shows it. Amount is in minor units of Currency.
type Refund struct {
	ID        uuid.UUID `json:"id"`
	ChargeID  uuid.UUID `json:"charge_id"`
	Status    Status    `json:"status"`
	Amount    int64     `json:"amount"`
	Currency  string    `json:"currency"`
	CreatedAt time.Time `json:"created_at"`
}

// Refund gives money back, once per customer and key, in the three phases of Charge. It returns
// 201, which is final and replayed to the key, or 202 while the outcome is unknown.
// problem.InvalidError, ErrNotFound and RefundExceedsError leave the key unused; the other errors
// are those of Charge. The first phase takes the amount off what the charge can still refund, so
// that concurrent refunds stay within the capture. See docs/decisions.md, D22.
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
			err := pg.InPipe(ctx, s.pool, func(tx *pg.Pipe) (err error) { // tx A
				refund, err = s.startRefundTx(ctx, tx, c)
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
	ctx, cancel := detach(ctx, s.timing.ProviderTimeout+2*settleTimeout)
	defer cancel()
	refund, err = s.attemptRefund(ctx, refund, firstLook) // no tx, then tx B
	crash.At(crash.RefundSettled)
	if err == nil && refund.Status == string(Failed) {
		err = RefundExceedsError{Asked: money.Money{Minor: refund.Amount, Currency: refund.Currency},
			Refundable: money.Money{Currency: refund.Currency}}
	}
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
	if refund.Status != string(Pending) {
		row.Answer, err = refundAnswerOf(refund)
	}
	return row, err
}

// startRefundTx inserts the refund under its key. It looks for the key again under the lock: a
// charge with nothing left to refund may owe that to this request's own twin.
func (s *Service) startRefundTx(ctx context.Context, tx *pg.Pipe, c RefundCharge) (paymentsdb.Refund, error) {
	db := paymentsdb.New(tx)
	charge, err := db.GetCharge(ctx, c.ChargeID)
	if errors.Is(err, pgx.ErrNoRows) {
		return paymentsdb.Refund{}, ErrNotFound
	}
	if err != nil {
		return paymentsdb.Refund{}, fmt.Errorf("read the charge: %w", err)
	}
	s.orders.LockTx(tx, charge.OrderID)
	if charge, err = db.LockCharge(ctx, c.ChargeID); err != nil {
		return paymentsdb.Refund{}, fmt.Errorf("lock the charge: %w", err)
	}
	if _, err := findRefund(ctx, db, c); !errors.Is(err, dedup.ErrNoRow) {
		return paymentsdb.Refund{}, taken(err)
	}
	refundable := charge.Amount - charge.AmountRefunded
	if charge.Status != string(Succeeded) {
		refundable = 0
	}
	amount := refundable
	if c.Amount != nil {
		amount = *c.Amount
	}
	if refundable == 0 {
		return paymentsdb.Refund{}, exceeds(charge, amount, 0)
	}
	fingerprint := c.Fingerprint()
	key := string(c.Key)
	inserted, err := s.insertRefundTx(tx, charge, paymentsdb.InsertRefundParams{CustomerID: &c.CustomerID,
		IdempotencyKey: &key, Fingerprint: fingerprint[:], Cause: causeRequested, Reason: c.Reason, Amount: amount})
	if err == nil {
		err = tx.Flush(ctx)
	}
	switch {
	case pg.Violates(err, "charges_refunds_within_capture"):
		return paymentsdb.Refund{}, exceeds(charge, amount, refundable)
	case err != nil:
		return paymentsdb.Refund{}, fmt.Errorf("insert the refund: %w", err)
	case len(*inserted) == 0: // another charge's refund has taken the key
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

// insertOwnRefundTx queues a refund of the rest of a charge that the shop owes. The reconciler
// carries it out if the caller does not.
func (s *Service) insertOwnRefundTx(tx *pg.Pipe, charge paymentsdb.Charge,
	cause string) (*[]paymentsdb.InsertRefundRow, error) {
	return s.insertRefundTx(tx, charge,
		paymentsdb.InsertRefundParams{Cause: cause, Amount: charge.Amount - charge.AmountRefunded})
}

// insertRefundTx queues a refund, which is known after the next Flush. It is missing if its key is
// taken.
func (s *Service) insertRefundTx(tx *pg.Pipe, charge paymentsdb.Charge,
	r paymentsdb.InsertRefundParams) (*[]paymentsdb.InsertRefundRow, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("make a refund id: %w", err)
	}
	r.ID, r.ChargeID, r.Currency, r.CreatedAt = id, charge.ID, charge.Currency, s.timestamp()
	if r.Cause != causeLate { // a late refund has no caller that carries it out: the reconciler may take it at once
		r.Lease = s.timing.Lease
	}
	return pg.Later(tx, paymentsdb.New(tx).InsertRefund, r), nil
}

func exceeds(charge paymentsdb.Charge, asked, refundable int64) error {
	return RefundExceedsError{Asked: money.Money{Minor: asked, Currency: charge.Currency},
		Refundable: money.Money{Minor: refundable, Currency: charge.Currency}}
}

// attemptRefund asks the provider, stores its answer, and returns the refund as it stands. If the
// outcome is unknown, the reconciler asks again after the pause.
func (s *Service) attemptRefund(ctx context.Context, refund paymentsdb.Refund,
	pause time.Duration) (paymentsdb.Refund, error) {
	charge, err := s.db.GetCharge(ctx, refund.ChargeID)
	if err != nil {
		return refund, fmt.Errorf("read the charge: %w", err)
	}
	if charge.ProviderID == nil {
		return refund, fmt.Errorf("charge %s has no capture to refund", charge.ID)
	}
	given, err := s.giveBack(ctx, refund, *charge.ProviderID)
	crash.At(crash.RefundGiven)
	switch {
	case errors.Is(err, ErrRefused):
		s.log.ErrorContext(ctx, "the provider refused a refund",
			"charge_id", charge.ID, "refund_id", refund.ID, "error", err)
		return s.settleRefund(ctx, charge, refund, nil)
	case err != nil:
		s.log.WarnContext(ctx, "the outcome of a refund is unknown",
			"charge_id", charge.ID, "refund_id", refund.ID, "error", err)
		return s.markRefundUnknown(ctx, refund, pause)
	default:
		return s.settleRefund(ctx, charge, refund, &given)
	}
}

// giveBack asks the provider for the refund. Every try has the same key, derived from the stored
// refund.
func (s *Service) giveBack(ctx context.Context, refund paymentsdb.Refund, captureID string) (ProviderRefund, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timing.ProviderTimeout)
	defer cancel()
	return s.provider.Refund(ctx, "refund_"+refund.ID.String(),
		RefundRequest{CaptureID: captureID, Amount: refund.Amount})
}

// settleRefund stores the provider's answer, or with nil its refusal, and returns the refund as it
// stands.
func (s *Service) settleRefund(ctx context.Context, charge paymentsdb.Charge, refund paymentsdb.Refund,
	given *ProviderRefund) (paymentsdb.Refund, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	settled := refund
	err := pg.InPipe(ctx, s.pool, func(tx *pg.Pipe) (err error) {
		settled, err = s.settleRefundTx(ctx, tx, charge, refund, given)
		return err
	})
	if errors.Is(err, errStale) {
		s.log.WarnContext(ctx, "a stale worker was refused",
			"refund_id", refund.ID, "charge_id", refund.ChargeID, "attempt", refund.Attempt)
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

func (s *Service) settleRefundTx(ctx context.Context, tx *pg.Pipe, charge paymentsdb.Charge,
	refund paymentsdb.Refund, given *ProviderRefund) (paymentsdb.Refund, error) {
	db := paymentsdb.New(tx)
	locked := s.orders.LockTx(tx, charge.OrderID)
	charge, err := db.LockCharge(ctx, charge.ID)
	if err != nil {
		return refund, fmt.Errorf("lock the order and the charge: %w", err)
	}
	attempt := refund.Attempt
	if refund, err = db.LockRefund(ctx, refund.ID); err != nil {
		return refund, fmt.Errorf("lock the refund: %w", err)
	}
	switch {
	case refund.Status == string(Succeeded), refund.Status == string(Failed):
		return refund, nil
	case refund.Attempt != attempt:
		return refund, errStale
	case given == nil:
		refund.Status = string(Failed)
		return refund, db.FailRefund(ctx, refund.ID)
	}
	refund.Status, refund.ProviderID = string(Succeeded), &given.ID
	if refund.Answer, err = json.Marshal(viewRefund(refund)); err != nil {
		return refund, fmt.Errorf("encode the refund: %w", err)
	}
	if err := db.SettleRefund(ctx, paymentsdb.SettleRefundParams{ID: refund.ID, ProviderID: refund.ProviderID,
		Answer: refund.Answer}); err != nil {
		return refund, fmt.Errorf("settle the refund: %w", err)
	}
	order, err := locked.Order(charge.OrderID)
	if err == nil && order.Status == orders.Paid && charge.AmountRefunded == charge.Amount {
		err = s.closeTx(ctx, tx, locked, charge)
	}
	return refund, err
}

// closeTx ends a paid order when all its money is back.
func (s *Service) closeTx(ctx context.Context, tx *pg.Pipe, locked *orders.Locked, charge paymentsdb.Charge) error {
	live, err := paymentsdb.New(tx).HasLiveRefund(ctx, charge.ID)
	if err != nil {
		return fmt.Errorf("look for live refunds of the charge: %w", err)
	}
	if live {
		return nil
	}
	return s.orders.ChangeStatusTx(ctx, tx, locked, orders.Change{OrderID: charge.OrderID, To: orders.Refunded})
}

// markRefundUnknown leaves the refund to the reconciler, which asks again after the pause.
func (s *Service) markRefundUnknown(ctx context.Context, refund paymentsdb.Refund,
	pause time.Duration) (paymentsdb.Refund, error) {
	marked, err := s.db.MarkRefundUnknown(ctx,
		paymentsdb.MarkRefundUnknownParams{ID: refund.ID, Attempt: refund.Attempt, Pause: pause})
	if errors.Is(err, pgx.ErrNoRows) { // it is settled, or another worker has taken over
		marked, err = s.db.GetRefund(ctx, refund.ID)
	}
	if err != nil {
		return refund, fmt.Errorf("mark the refund as unknown: %w", err)
	}
	return marked, nil
}

// refundAnswerOf returns the final answer of a settled refund, or 202 with the refund as it stands.
func refundAnswerOf(refund paymentsdb.Refund) (dedup.Answer, error) {
	if refund.Answer != nil {
		return dedup.Answer{ID: refund.ID, Status: http.StatusCreated, Body: refund.Answer, Final: true}, nil
	}
	body, err := json.Marshal(viewRefund(refund))
	if err != nil {
		return dedup.Answer{}, fmt.Errorf("encode the refund: %w", err)
	}
	return dedup.Answer{ID: refund.ID, Status: http.StatusAccepted, Body: body}, nil
}

func viewRefund(row paymentsdb.Refund) Refund {
	return Refund{ID: row.ID, ChargeID: row.ChargeID, Status: Status(row.Status), Amount: row.Amount,
		Currency: row.Currency, CreatedAt: row.CreatedAt.UTC()}
}
