package payments

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/problem"
	"github.com/onceshop/onceshop/internal/timeline"
)

var paymentMethod = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,63}$`)

// ChargeOrder is the wish to pay. The exported JSON fields are what it means; customer and key are its scope.
type ChargeOrder struct {
	CustomerID uuid.UUID `json:"-"`
	Key        dedup.Key `json:"-"`

	OrderID       uuid.UUID `json:"order_id"`
	PaymentMethod string    `json:"payment_method"`
}

// Fingerprint is what the command means.
func (c ChargeOrder) Fingerprint() dedup.Fingerprint { return dedup.FingerprintOf(c) }

// Charge pays for an order in three phases: a transaction stores the attempt, the provider is asked while no transaction is
// open, and a second transaction stores what it said. Each of the two is shared with whoever else starts or settles at that moment. The answer is 201 or 402, final and kept for the key,
// or 202 while nobody knows the outcome. Errors: problem.InvalidError, orders.ErrNotFound, InProgressError, AlreadyPaidError and
// ErrOrderNotPayable leave the key unused; dedup.ErrKeyReused; dedup.ErrInProgress while another request works on the same key;
// anything for which pg.IsUnavailable holds may have happened.
func (s *Service) Charge(ctx context.Context, c ChargeOrder) (dedup.Answer, error) {
	if !paymentMethod.MatchString(c.PaymentMethod) {
		return dedup.Answer{}, problem.InvalidError{Field: "payment_method", Reason: "must be 1 to 64 letters, digits or underscores and begin with a letter, such as pm_ok; never send a card number"}
	}
	begun, err := s.starting.Do(ctx, c)
	if errors.Is(err, pg.ErrCommitUnknown) {
		// The attempt with our id stands only if our transaction did.
		reread, rereadErr := s.reread(ctx, begun.row.ID)
		if rereadErr == nil {
			begun.row, err = reread, nil
		}
	}
	switch {
	case err != nil:
		return dedup.Answer{}, err
	case !begun.started && begun.row.ID != uuid.Nil:
		return s.answer(begun.row, c)
	case !begun.started:
		return s.refuse(ctx, c, begun.order)
	}
	crash.At(crash.ChargeStarted)
	// From here on the attempt runs to its end, whether its client still waits or not.
	return s.attempt(context.WithoutCancel(ctx), begun.row)
}

// refusal says why no new charge can be started for the order.
func (s *Service) refusal(ctx context.Context, db *paymentsdb.Queries, order orders.Order) error {
	live, err := db.FindLiveCharge(ctx, order.ID)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return ErrOrderNotPayable
	case err != nil:
		return fmt.Errorf("find the order's live charge: %w", err)
	case live.Status != string(Succeeded):
		return InProgressError{ChargeID: live.ID}
	case order.Status == orders.Paid:
		return AlreadyPaidError{ChargeID: live.ID}
	default:
		return ErrOrderNotPayable
	}
}

// noteRefusal records another key's try to pay that the order's one live charge has stopped.
func (s *Service) noteRefusal(err error) {
	if live, ok := errors.AsType[InProgressError](err); ok {
		s.Stopped.Stopped(live.ChargeID, timeline.Stop{Kind: timeline.OtherChargeLive})
	}
	if paid, ok := errors.AsType[AlreadyPaidError](err); ok {
		s.Stopped.Stopped(paid.ChargeID, timeline.Stop{Kind: timeline.OrderPaid})
	}
}

// attempt asks the provider and settles what it says.
func (s *Service) attempt(ctx context.Context, row paymentsdb.Charge) (dedup.Answer, error) {
	capture, err := s.capture(ctx, row)
	crash.At(crash.ChargeCaptured)
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if err != nil {
		s.log.WarnContext(ctx, "the outcome of a charge is unknown", "order_id", row.OrderID, "charge_id", row.ID, "error", err)
		row, err = s.markUnknown(ctx, row, firstLook)
	} else {
		row, err = s.settle(ctx, row, capture, row.Attempt)
	}
	if err != nil {
		return dedup.Answer{}, err
	}
	if row.Answer != nil {
		crash.At(crash.ChargeSettled)
		return stored(row), nil
	}
	return current(row)
}

// capture asks for the money of a charge, under a key derived from the stored row: whoever asks again, asks for the same. An
// error means that nobody knows what came of it.
func (s *Service) capture(ctx context.Context, row paymentsdb.Charge) (Capture, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timing.ProviderTimeout)
	defer cancel()
	capture, err := s.provider.Capture(ctx, "charge_"+row.ID.String(), CaptureRequest{Reference: row.ID.String(), OrderID: row.OrderID.String(),
		Amount: row.Amount, Currency: row.Currency, PaymentMethod: row.PaymentMethod})
	if errors.Is(err, ErrRefused) {
		s.log.WarnContext(ctx, "the provider refused a charge", "order_id", row.OrderID, "charge_id", row.ID, "error", err)
		return Capture{Status: CaptureDeclined, DeclineCode: "refused_by_provider"}, nil
	}
	return capture, err
}

// markUnknown leaves the charge to the reconciler, which looks again after the pause, and returns the charge as it stands.
func (s *Service) markUnknown(ctx context.Context, row paymentsdb.Charge, pause time.Duration) (paymentsdb.Charge, error) {
	marked, err := s.db.MarkUnknown(ctx, paymentsdb.MarkUnknownParams{ID: row.ID, Attempt: row.Attempt, Pause: pause})
	if errors.Is(err, pgx.ErrNoRows) {
		// Somebody else took over or knew more meanwhile.
		marked, err = s.db.GetCharge(ctx, row.ID)
	}
	if err != nil {
		return row, fmt.Errorf("mark the charge as unknown: %w", err)
	}
	return marked, nil
}

// answer decides what a request means that found its key in use.
func (s *Service) answer(row paymentsdb.Charge, c ChargeOrder) (dedup.Answer, error) {
	var now dedup.Answer
	var err error
	switch {
	case row.Answer != nil:
		now = stored(row)
	case row.Status == string(Unknown):
		now, err = current(row)
	default:
		_, err = dedup.Replay(row.Fingerprint, c.Fingerprint(), dedup.Answer{ID: row.ID})
		return dedup.Answer{}, errors.Join(err, dedup.InProgressError{ID: row.ID})
	}
	if err != nil {
		return dedup.Answer{}, err
	}
	return dedup.Replay(row.Fingerprint, c.Fingerprint(), now)
}

// stored is the final answer of a settled charge.
func stored(row paymentsdb.Charge) dedup.Answer {
	return dedup.Answer{ID: row.ID, Status: int(*row.AnswerStatus), Body: row.Answer, Final: true}
}

// current is the answer of a charge whose outcome is not known yet.
func current(row paymentsdb.Charge) (dedup.Answer, error) {
	body, err := json.Marshal(view(row))
	if err != nil {
		return dedup.Answer{}, fmt.Errorf("encode the charge: %w", err)
	}
	return dedup.Answer{ID: row.ID, Status: http.StatusAccepted, Body: body}, nil
}

func findByKey(ctx context.Context, db *paymentsdb.Queries, c ChargeOrder) (paymentsdb.Charge, error) {
	row, err := db.FindChargeByKey(ctx, paymentsdb.FindChargeByKeyParams{CustomerID: c.CustomerID, IdempotencyKey: string(c.Key)})
	if err != nil {
		return row, fmt.Errorf("find the charge by its key: %w", err)
	}
	return row, nil
}

// reread looks for a row after a commit whose answer was lost.
func (s *Service) reread(ctx context.Context, id uuid.UUID) (paymentsdb.Charge, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	return s.db.GetCharge(ctx, id)
}
