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

const maxReason = 500

// Why money goes back: a client asked, the order was canceled, or the money came when the order had ended.
const (
	causeRequested = "requested"
	causeCanceled  = "canceled"
	causeLate      = "late"
)

// RefundCharge is the wish to give money back: Amount minor units, or with nil the rest. The exported JSON fields are what it
// means; customer and key are its scope.
type RefundCharge struct {
	CustomerID uuid.UUID `json:"-"`
	Key        dedup.Key `json:"-"`

	ChargeID uuid.UUID `json:"charge_id"`
	Amount   *int64    `json:"amount"`
	Reason   string    `json:"reason"`
}

// Fingerprint is what the command means.
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

// Refund gives money back in the three phases of Charge. The answer is 201, final and kept for the key, or 202 while nobody knows
// the outcome. Errors: problem.InvalidError, ErrNotFound and RefundExceedsError leave the key unused; the others are as for Charge.
// The first phase takes the amount off what the charge can still refund, so refunds at the same time stay within the capture.
func (s *Service) Refund(ctx context.Context, c RefundCharge) (dedup.Answer, error) {
	if c.Amount != nil && *c.Amount < 1 {
		return dedup.Answer{}, problem.InvalidError{Field: "amount", Reason: "must be a whole number from 1, in minor units; leave it out to refund the rest"}
	}
	if len(c.Reason) > maxReason {
		return dedup.Answer{}, problem.InvalidError{Field: "reason", Reason: fmt.Sprintf("must be at most %d bytes long", maxReason)}
	}
	row, err := findRefundByKey(ctx, s.db, c)
	if err == nil {
		return s.refundAnswer(row, c)
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return dedup.Answer{}, err
	}
	started := false
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) (err error) {
		row, started, err = s.startRefundTx(ctx, tx, c)
		return err
	})
	if errors.Is(err, pg.ErrCommitUnknown) && started {
		// The refund with our id stands only if our transaction did.
		if reread, rereadErr := s.db.GetRefund(context.WithoutCancel(ctx), row.ID); rereadErr == nil {
			row, err = reread, nil
		}
	}
	if err != nil {
		return dedup.Answer{}, err
	}
	if !started {
		return s.refundAnswer(row, c)
	}
	crash.At(crash.RefundStarted)
	row, err = s.attemptRefund(context.WithoutCancel(ctx), row, firstLook)
	crash.At(crash.RefundSettled)
	switch {
	case err != nil:
		return dedup.Answer{}, err
	case row.Status == string(Failed):
		return dedup.Answer{}, RefundExceedsError{Asked: money.Money{Minor: row.Amount, Currency: row.Currency}, Refundable: money.Money{Currency: row.Currency}}
	default:
		return describe(row)
	}
}

// startRefundTx stores the refund, or returns the one that already stands under the key.
func (s *Service) startRefundTx(ctx context.Context, tx pgx.Tx, c RefundCharge) (row paymentsdb.Refund, started bool, err error) {
	db := paymentsdb.New(tx)
	charge, err := db.GetCharge(ctx, c.ChargeID)
	if errors.Is(err, pgx.ErrNoRows) {
		return row, false, ErrNotFound
	}
	if err != nil {
		return row, false, fmt.Errorf("read the charge: %w", err)
	}
	if _, err := s.orders.LegacyLockTx(ctx, tx, charge.OrderID); err != nil {
		return row, false, err
	}
	if row, err = findRefundByKey(ctx, db, c); err == nil || !errors.Is(err, pgx.ErrNoRows) {
		return row, false, err
	}
	if charge, err = db.LockCharge(ctx, c.ChargeID); err != nil {
		return row, false, fmt.Errorf("lock the charge: %w", err)
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
		return row, false, exceeds(charge, amount, 0)
	}
	fingerprint := c.Fingerprint()
	key := string(c.Key)
	row, err = s.insertRefundTx(ctx, tx, charge, paymentsdb.InsertRefundParams{CustomerID: &c.CustomerID, IdempotencyKey: &key,
		Fingerprint: fingerprint[:], Cause: causeRequested, Reason: c.Reason, Amount: amount})
	if errors.Is(err, pgx.ErrNoRows) {
		row, err = findRefundByKey(ctx, db, c)
		return row, false, err
	}
	return row, true, err
}

// startOwnRefundTx gives back the rest of a charge because the shop has to. The reconciler carries it out if the caller does not.
func (s *Service) startOwnRefundTx(ctx context.Context, tx pgx.Tx, charge paymentsdb.Charge, cause string) (paymentsdb.Refund, error) {
	return s.insertRefundTx(ctx, tx, charge, paymentsdb.InsertRefundParams{Cause: cause, Amount: charge.Amount - charge.AmountRefunded})
}

// insertRefundTx writes the refund and takes its amount off the charge. The constraint, not a read before, keeps it within the capture.
func (s *Service) insertRefundTx(ctx context.Context, tx pgx.Tx, charge paymentsdb.Charge, r paymentsdb.InsertRefundParams) (paymentsdb.Refund, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return paymentsdb.Refund{}, fmt.Errorf("make a refund id: %w", err)
	}
	r.ID, r.ChargeID, r.Currency, r.CreatedAt = id, charge.ID, charge.Currency, s.timestamp()
	if r.Cause != causeLate { // nobody waits for a late one: the reconciler may take it at once
		r.Lease = s.timing.Lease
	}
	db := paymentsdb.New(tx)
	row, err := db.InsertRefund(ctx, r)
	if err != nil {
		return row, fmt.Errorf("insert the refund: %w", err)
	}
	_, err = db.AddRefunded(ctx, paymentsdb.AddRefundedParams{ID: charge.ID, Amount: row.Amount})
	if pg.Violates(err, "charges_refunds_within_capture") {
		return row, exceeds(charge, row.Amount, charge.Amount-charge.AmountRefunded)
	}
	if err != nil {
		return row, fmt.Errorf("take the refund off the charge: %w", err)
	}
	return row, nil
}

func exceeds(charge paymentsdb.Charge, asked, refundable int64) error {
	return RefundExceedsError{Asked: money.Money{Minor: asked, Currency: charge.Currency}, Refundable: money.Money{Minor: refundable, Currency: charge.Currency}}
}

// attemptRefund asks the provider and settles what it says. It returns the refund as it stands then; one whose outcome nobody knows
// is looked at again after the pause.
func (s *Service) attemptRefund(ctx context.Context, row paymentsdb.Refund, pause time.Duration) (paymentsdb.Refund, error) {
	charge, err := s.db.GetCharge(ctx, row.ChargeID)
	if err != nil {
		return row, fmt.Errorf("read the charge: %w", err)
	}
	if charge.ProviderID == nil {
		return row, fmt.Errorf("charge %s has no capture to refund", charge.ID)
	}
	ask, cancel := context.WithTimeout(ctx, s.timing.ProviderTimeout)
	defer cancel()
	given, err := s.provider.Refund(ask, "refund_"+row.ID.String(), RefundRequest{CaptureID: *charge.ProviderID, Amount: row.Amount})
	crash.At(crash.RefundGiven)
	ctx, cancel = context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	switch {
	case errors.Is(err, ErrRefused):
		s.log.ErrorContext(ctx, "the provider refused a refund", "charge_id", charge.ID, "refund_id", row.ID, "error", err)
		return s.settleRefund(ctx, charge, row, nil)
	case err != nil:
		s.log.WarnContext(ctx, "the outcome of a refund is unknown", "charge_id", charge.ID, "refund_id", row.ID, "error", err)
		return s.markRefundUnknown(ctx, row, pause)
	default:
		return s.settleRefund(ctx, charge, row, &given)
	}
}

// settleRefund stores what the provider said of a refund: nil means that it refused for good.
func (s *Service) settleRefund(ctx context.Context, charge paymentsdb.Charge, row paymentsdb.Refund, given *ProviderRefund) (paymentsdb.Refund, error) {
	settled := row
	err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) (err error) {
		settled, err = s.settleRefundTx(ctx, tx, charge, row, given)
		return err
	})
	if errors.Is(err, errStale) {
		s.log.WarnContext(ctx, "a stale worker was refused", "refund_id", row.ID, "charge_id", row.ChargeID, "attempt", row.Attempt)
		s.Stopped.Stopped(row.ID, timeline.Stop{Kind: timeline.StaleWorker, Attempt: row.Attempt})
	}
	if errors.Is(err, errStale) || errors.Is(err, pg.ErrCommitUnknown) {
		if reread, rereadErr := s.db.GetRefund(context.WithoutCancel(ctx), row.ID); rereadErr == nil {
			return reread, nil
		}
	}
	return settled, err
}

func (s *Service) settleRefundTx(ctx context.Context, tx pgx.Tx, charge paymentsdb.Charge, row paymentsdb.Refund, given *ProviderRefund) (paymentsdb.Refund, error) {
	order, err := s.orders.LegacyLockTx(ctx, tx, charge.OrderID)
	if err != nil {
		return row, err
	}
	db := paymentsdb.New(tx)
	if charge, err = db.LockCharge(ctx, charge.ID); err != nil {
		return row, fmt.Errorf("lock the charge: %w", err)
	}
	attempt := row.Attempt
	if row, err = db.LockRefund(ctx, row.ID); err != nil {
		return row, fmt.Errorf("lock the refund: %w", err)
	}
	if row.Status == string(Succeeded) || row.Status == string(Failed) {
		return row, nil
	}
	if row.Attempt != attempt {
		return row, errStale
	}
	if given == nil {
		return s.failRefundTx(ctx, db, row)
	}
	row.Status, row.ProviderID = string(Succeeded), &given.ID
	if row.Answer, err = json.Marshal(viewRefund(row)); err != nil {
		return row, fmt.Errorf("encode the refund: %w", err)
	}
	if err := db.SettleRefund(ctx, paymentsdb.SettleRefundParams{ID: row.ID, ProviderID: row.ProviderID, Answer: row.Answer}); err != nil {
		return row, fmt.Errorf("settle the refund: %w", err)
	}
	if order.Status == orders.Paid && charge.AmountRefunded == charge.Amount {
		return row, s.closeTx(ctx, tx, db, order, charge)
	}
	return row, nil
}

// closeTx ends an order all of whose money is back.
func (s *Service) closeTx(ctx context.Context, tx pgx.Tx, db *paymentsdb.Queries, order orders.Order, charge paymentsdb.Charge) error {
	refunds, err := db.ListRefunds(ctx, charge.ID)
	if err != nil {
		return fmt.Errorf("list the charge's refunds: %w", err)
	}
	for _, r := range refunds {
		if r.Status == string(Pending) || r.Status == string(Unknown) {
			return nil
		}
	}
	return s.orders.LegacyChangeStatusTx(ctx, tx, order, orders.Refunded)
}

func (s *Service) failRefundTx(ctx context.Context, db *paymentsdb.Queries, row paymentsdb.Refund) (paymentsdb.Refund, error) {
	if err := db.FailRefund(ctx, row.ID); err != nil {
		return row, fmt.Errorf("fail the refund: %w", err)
	}
	if _, err := db.AddRefunded(ctx, paymentsdb.AddRefundedParams{ID: row.ChargeID, Amount: -row.Amount}); err != nil {
		return row, fmt.Errorf("give the refund back to the charge: %w", err)
	}
	row.Status = string(Failed)
	return row, nil
}

func (s *Service) markRefundUnknown(ctx context.Context, row paymentsdb.Refund, pause time.Duration) (paymentsdb.Refund, error) {
	marked, err := s.db.MarkRefundUnknown(ctx, paymentsdb.MarkRefundUnknownParams{ID: row.ID, Attempt: row.Attempt, Pause: pause})
	if errors.Is(err, pgx.ErrNoRows) {
		marked, err = s.db.GetRefund(ctx, row.ID)
	}
	if err != nil {
		return row, fmt.Errorf("mark the refund as unknown: %w", err)
	}
	return marked, nil
}

// refundAnswer decides what a request means that found its key in use.
func (s *Service) refundAnswer(row paymentsdb.Refund, c RefundCharge) (dedup.Answer, error) {
	answer, err := describe(row)
	if err != nil {
		return dedup.Answer{}, err
	}
	answer, err = dedup.Replay(row.Fingerprint, c.Fingerprint(), answer)
	if err == nil && row.Status == string(Pending) {
		return dedup.Answer{}, dedup.InProgressError{ID: row.ID}
	}
	return answer, err
}

// describe is the answer of a refund as it stands.
func describe(row paymentsdb.Refund) (dedup.Answer, error) {
	if row.Answer != nil {
		return dedup.Answer{ID: row.ID, Status: http.StatusCreated, Body: row.Answer, Final: true}, nil
	}
	body, err := json.Marshal(viewRefund(row))
	if err != nil {
		return dedup.Answer{}, fmt.Errorf("encode the refund: %w", err)
	}
	return dedup.Answer{ID: row.ID, Status: http.StatusAccepted, Body: body}, nil
}

func viewRefund(row paymentsdb.Refund) Refund {
	return Refund{ID: row.ID, ChargeID: row.ChargeID, Status: Status(row.Status), Amount: row.Amount, Currency: row.Currency, CreatedAt: row.CreatedAt.UTC()}
}

func findRefundByKey(ctx context.Context, db *paymentsdb.Queries, c RefundCharge) (paymentsdb.Refund, error) {
	row, err := db.FindRefundByKey(ctx, paymentsdb.FindRefundByKeyParams{CustomerID: c.CustomerID, IdempotencyKey: string(c.Key)})
	if err != nil {
		return row, fmt.Errorf("find the refund by its key: %w", err)
	}
	return row, nil
}
