package payments

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/coalesce"
	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/problem"
	"github.com/onceshop/onceshop/internal/timeline"
)

// A charge has three phases:
//
//	tx A   lock the order, insert the charge under its key | move the order to paying, COMMIT
//	no tx  ask the provider, under a key derived from the stored charge
//	tx B   lock the order and its charges | store the outcome and what follows from it, COMMIT
//
// Each transaction takes two round trips. Charges that start or settle at the same time share them:
// every statement takes a set.

// ChargeOrder is a request to pay for an order. Its JSON is what the idempotency key stands for.
type ChargeOrder struct {
	CustomerID uuid.UUID `json:"-"`
	Key        dedup.Key `json:"-"`

	OrderID       uuid.UUID `json:"order_id"`
	PaymentMethod string    `json:"payment_method"`
}

// Fingerprint identifies what the request asks for.
func (c ChargeOrder) Fingerprint() dedup.Fingerprint { return dedup.FingerprintOf(c) }

// Charge pays for an order, once per customer and key, and at most once per order. It returns 201
// or 402, which are final and replayed to the key, or 202 while the outcome is open: unknown, or
// waiting for the buyer, or too late for its order and on its way back. These errors leave the key
// unused: problem.InvalidError, orders.ErrNotFound, InProgressError, AlreadyPaidError,
// ErrOrderNotPayable and ErrTooManyAttempts. dedup.ErrKeyReused reports a key that belongs to a
// different request, and dedup.ErrInProgress that the first request with the key is still running.
// If pg.IsUnavailable holds for an error, the charge may exist: retry.
func (s *Service) Charge(ctx context.Context, c ChargeOrder) (dedup.Answer, error) {
	charge, answer, err := s.begin(ctx, c)
	if charge == nil {
		return answer, err
	}
	return s.finish(ctx, *charge)
}

// begin stores the charge. It returns nil and the answer if there is nothing to ask the provider.
func (s *Service) begin(ctx context.Context, c ChargeOrder) (*paymentsdb.Charge, dedup.Answer, error) {
	if err := c.validate(); err != nil {
		return nil, dedup.Answer{}, err
	}
	var charge paymentsdb.Charge
	inserted := false
	answer, err := dedup.Once(ctx, dedup.Request{
		Fingerprint: c.Fingerprint(),
		Find: func(ctx context.Context) (dedup.Row, error) {
			if !inserted { // the INSERT finds a used key, too: a first request saves the look-up
				return dedup.Row{}, dedup.ErrNoRow
			}
			return s.findCharge(ctx, c)
		},
		Do: func(ctx context.Context) (_ dedup.Answer, err error) {
			inserted = true
			charge, err = s.starting.Do(ctx, c) // tx A
			return dedup.Answer{ID: charge.ID}, err
		},
	})
	if err != nil || answer.Replayed {
		s.recordRefusal(err)
		return nil, answer, err
	}
	crash.At(crash.ChargeStarted)
	return &charge, answer, nil
}

// finish asks the provider and stores the outcome. It runs to its end even if the client has gone.
func (s *Service) finish(ctx context.Context, charge paymentsdb.Charge) (dedup.Answer, error) {
	ctx, cancel := detach(ctx, s.policy.ProviderTimeout+settleTimeout)
	defer cancel()
	capture, err := s.captureUnlessSettled(ctx, charge) // no tx
	crash.At(crash.ChargeCaptured)
	switch {
	case errors.Is(err, errSettled):
		s.recorder.Stopped(charge.ID, timeline.Stop{Kind: timeline.SettledMeanwhile})
		charge, err = s.reread(ctx, charge.ID)
	case errors.Is(err, ErrRefused): // the first and only request of this charge
		s.log.WarnContext(ctx, "the provider refused a charge",
			"order_id", charge.OrderID, "charge_id", charge.ID, "error", err)
		charge, err = s.settle(ctx, charge, Capture{Status: CaptureDeclined, DeclineCode: declinedAsRefused})
	case err != nil:
		s.log.WarnContext(ctx, "the outcome of a charge is unknown",
			"order_id", charge.OrderID, "charge_id", charge.ID, "error", err)
		charge, err = s.markUnknown(ctx, charge, capture.ID, firstLook)
	default:
		charge, err = s.settle(ctx, charge, capture) // tx B
	}
	if err != nil {
		return dedup.Answer{}, err
	}
	if charge.Answer != nil {
		crash.At(crash.ChargeSettled)
	}
	return answerOf(charge)
}

var paymentMethod = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,63}$`)

func (c ChargeOrder) validate() error {
	if !paymentMethod.MatchString(c.PaymentMethod) {
		return problem.InvalidError{Field: "payment_method", Reason: "must be 1 to 64 letters, digits or underscores " +
			"and begin with a letter, such as pm_ok; never send a card number"}
	}
	return nil
}

// findCharge reads the charge under the request's key.
func (s *Service) findCharge(ctx context.Context, c ChargeOrder) (dedup.Row, error) {
	charge, err := s.db.FindChargeByKey(ctx,
		paymentsdb.FindChargeByKeyParams{CustomerID: c.CustomerID, IdempotencyKey: string(c.Key)})
	if errors.Is(err, pgx.ErrNoRows) {
		return dedup.Row{}, dedup.ErrNoRow
	}
	if err != nil {
		return dedup.Row{}, fmt.Errorf("find the charge by its key: %w", err)
	}
	row := dedup.Row{ID: charge.ID, Fingerprint: charge.Fingerprint}
	if charge.Status != string(Pending) {
		row.Answer, err = answerOf(charge)
	}
	return row, err
}

// started is what starting one charge came to.
type started = coalesce.Outcome[paymentsdb.Charge]

// start is tx A. An error means that it is unknown what became of any charge.
func (s *Service) start(ctx context.Context, requests []ChargeOrder) (outcomes []started, err error) {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	err = pg.InPipe(ctx, s.pool, func(tx *pg.Pipe) (err error) {
		outcomes, err = s.startTx(ctx, tx, requests)
		return err
	})
	if errors.Is(err, pg.ErrCommitUnknown) {
		for i := range outcomes {
			outcomes[i].Err = err // the ids stay: dedup.Once looks which charges stand
		}
		return outcomes, nil
	}
	return outcomes, err
}

// startTx locks the orders before it inserts their charges. Requests for one order, of this batch
// or of another node, meet at the UNIQUE keys: one charge per key, one live charge per order.
func (s *Service) startTx(ctx context.Context, tx *pg.Pipe, requests []ChargeOrder) ([]started, error) {
	params := s.insertParams(requests)
	tx.LimitLockWait(coalesce.LockWait)
	locked := s.orders.LockTx(tx, params.OrderIds...)
	inserted := pg.Later(tx, paymentsdb.New(tx).InsertCharges, params) // ON CONFLICT DO NOTHING
	if err := tx.Flush(ctx); err != nil {
		return nil, fmt.Errorf("lock the orders and insert the charges: %w", err)
	}
	charges := make(map[uuid.UUID]paymentsdb.Charge, len(*inserted))
	for _, charge := range *inserted {
		charges[charge.ID] = charge
	}
	outcomes := make([]started, len(requests))
	var changes []orders.Change
	var refused []int
	for i := range requests {
		charge, ok := charges[params.Ids[i]]
		if !ok {
			refused = append(refused, i)
			continue
		}
		delete(charges, charge.ID) // a twin in the batch has the same id, and has lost its key
		outcomes[i].Answer = charge
		changes = append(changes, orders.Change{OrderID: charge.OrderID, To: orders.Paying, Origin: startedOf(charge)})
	}
	if len(refused) > 0 {
		if err := s.refuseTx(ctx, tx, locked, requests, refused, outcomes); err != nil {
			return nil, err
		}
	}
	if len(changes) == 0 {
		return outcomes, nil
	}
	return outcomes, s.orders.ChangeStatusTx(ctx, tx, locked, changes...)
}

// id is the same each time that the request is made, also after a restore that lost the charge: the
// provider then answers with what it did the first time. See docs/decisions.md, D107.
func (c ChargeOrder) id() uuid.UUID {
	return pg.DerivedID(c.OrderID, "charge", c.CustomerID.String(), string(c.Key))
}

func (s *Service) insertParams(requests []ChargeOrder) paymentsdb.InsertChargesParams {
	p := paymentsdb.InsertChargesParams{Lease: s.policy.Lease, CreatedAt: s.timestamp(), Provider: s.provider.Name(),
		MostDeclined: int32(cmp.Or(s.policy.PayAttempts, math.MaxInt32))} //nolint:gosec // a handful
	for _, c := range requests {
		fingerprint := c.Fingerprint()
		p.Ids = append(p.Ids, c.id())
		p.OrderIds = append(p.OrderIds, c.OrderID)
		p.CustomerIds = append(p.CustomerIds, c.CustomerID)
		p.IdempotencyKeys = append(p.IdempotencyKeys, string(c.Key))
		p.Fingerprints = append(p.Fingerprints, fingerprint[:])
		p.PaymentMethods = append(p.PaymentMethods, c.PaymentMethod)
	}
	return p
}

// refuseTx sets why charges were not inserted. It reads under the locks under which they were
// refused, so that the reason is true of the order. See docs/decisions.md, D83.
func (s *Service) refuseTx(ctx context.Context, tx *pg.Pipe, locked *orders.Locked, requests []ChargeOrder,
	refused []int, outcomes []started) error {
	db := paymentsdb.New(tx)
	var keys paymentsdb.FindUsedKeysParams
	var orderIDs []uuid.UUID
	for _, i := range refused {
		keys.CustomerIds = append(keys.CustomerIds, requests[i].CustomerID)
		keys.IdempotencyKeys = append(keys.IdempotencyKeys, string(requests[i].Key))
		orderIDs = append(orderIDs, requests[i].OrderID)
	}
	used := pg.Later(tx, db.FindUsedKeys, keys)
	rows := pg.Later(tx, db.ListChargesOfOrders, orderIDs)
	if err := tx.Flush(ctx); err != nil {
		return fmt.Errorf("find the keys and the charges of the orders: %w", err)
	}
	taken := make(map[paymentsdb.FindUsedKeysRow]bool, len(*used))
	for _, key := range *used {
		taken[key] = true
	}
	charges := make(map[uuid.UUID][]paymentsdb.Charge, len(refused))
	for _, charge := range *rows {
		charges[charge.OrderID] = append(charges[charge.OrderID], charge)
	}
	for _, i := range refused {
		c := requests[i]
		if taken[paymentsdb.FindUsedKeysRow{CustomerID: c.CustomerID, IdempotencyKey: string(c.Key)}] {
			outcomes[i].Err = dedup.ErrKeyTaken
			continue
		}
		order, err := locked.Order(c.OrderID)
		if err == nil {
			err = refusal(c, order, charges[order.ID])
		}
		outcomes[i].Err = err
	}
	return nil
}

// refusal returns why no charge can start for the order, which has these charges.
func refusal(c ChargeOrder, order orders.Order, charges []paymentsdb.Charge) error {
	if order.CustomerID != c.CustomerID {
		return orders.ErrNotFound
	}
	for _, charge := range charges {
		switch {
		case !live(charge):
		case charge.Status != string(Succeeded):
			return InProgressError{ChargeID: charge.ID}
		case order.Status == orders.Paid:
			return AlreadyPaidError{ChargeID: charge.ID}
		}
	}
	switch order.Status {
	case orders.Canceled, orders.Expired, orders.Refunded:
		return ErrOrderNotPayable
	case orders.Placed:
		return ErrTooManyAttempts
	default:
		return fmt.Errorf("payments: order %s is %s and has no live charge", order.ID, order.Status)
	}
}

// recordRefusal records a request that the order's live charge has stopped.
func (s *Service) recordRefusal(err error) {
	if live, ok := errors.AsType[InProgressError](err); ok {
		s.recorder.Stopped(live.ChargeID, timeline.Stop{Kind: timeline.OtherChargeLive})
	}
	if paid, ok := errors.AsType[AlreadyPaidError](err); ok {
		s.recorder.Stopped(paid.ChargeID, timeline.Stop{Kind: timeline.OrderPaid})
	}
}

// errSettled ends a call to the provider whose outcome is stored already.
var errSettled = errors.New("payments: a webhook or another worker has settled the charge")

const (
	// lookAfter is when a buyer who waits for the provider begins to look for news from elsewhere.
	lookAfter = 500 * time.Millisecond
	lookEvery = 250 * time.Millisecond
)

// captureUnlessSettled is capture, but it returns errSettled as soon as a webhook or another node
// has settled the charge. A provider that answers in time costs no look. See docs/decisions.md,
// D85.
func (s *Service) captureUnlessSettled(ctx context.Context, charge paymentsdb.Charge) (Capture, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(lookAfter, func() {
		for ctx.Err() == nil {
			if now, err := s.db.GetCharge(ctx, charge.ID); err == nil && now.SettledAt != nil {
				cancel(errSettled)
			}
			select {
			case <-ctx.Done():
			case <-time.After(lookEvery):
			}
		}
	})
	defer timer.Stop()
	capture, err := s.capture(ctx, charge)
	if err != nil && errors.Is(context.Cause(ctx), errSettled) {
		err = errSettled
	}
	return capture, err
}

// capture asks the provider for the money of a charge.
func (s *Service) capture(ctx context.Context, charge paymentsdb.Charge) (_ Capture, err error) {
	ctx, ended := s.call(ctx, "capture")
	defer ended(&err)
	return s.provider.Capture(ctx, s.captureRequest(charge))
}

// captureRequest is the same each time: its key is derived from the stored charge.
func (s *Service) captureRequest(charge paymentsdb.Charge) CaptureRequest {
	r := CaptureRequest{Key: "charge_" + charge.ID.String(), ID: value(charge.ProviderID),
		Reference: charge.ID.String(), OrderID: charge.OrderID.String(), Amount: charge.Amount,
		Currency: charge.Currency, PaymentMethod: charge.PaymentMethod}
	if s.policy.ReturnURL != "" {
		r.ReturnURL = s.policy.ReturnURL + charge.OrderID.String()
	}
	return r
}

// answerOf returns the final answer of a settled charge, or 202 with the charge as it stands.
func answerOf(charge paymentsdb.Charge) (dedup.Answer, error) {
	if charge.Answer != nil {
		return dedup.Answer{ID: charge.ID, Status: int(*charge.AnswerStatus), Body: charge.Answer, Final: true}, nil
	}
	body, err := json.Marshal(view(charge))
	if err != nil {
		return dedup.Answer{}, fmt.Errorf("encode the charge: %w", err)
	}
	return dedup.Answer{ID: charge.ID, Status: http.StatusAccepted, Body: body}, nil
}

// startBatch keeps requests for one order apart: a flood of them makes no batch longer.
func (s *Service) startBatch() coalesce.Batch[ChargeOrder, paymentsdb.Charge] {
	return coalesce.Batch[ChargeOrder, paymentsdb.Charge]{Most: maxBatch, Waiting: maxWaiting, Run: s.start,
		Name: "payments.start", About: func(c ChargeOrder) uuid.UUID { return c.OrderID },
		Rivals: func(c ChargeOrder) (over, as any) { return c.OrderID, c },
		Rows: &coalesce.Rows[ChargeOrder]{
			Of:   func(c ChargeOrder) []string { return []string{c.OrderID.String()} },
			Held: s.orders.ListHeld,
		}}
}

// startedCharge is what an order that is being paid came from.
type startedCharge struct {
	Key           dedup.Key `json:"idempotency_key"`
	PaymentMethod string    `json:"payment_method"`
	CreatedAt     time.Time `json:"created_at"`
}

func startedOf(charge paymentsdb.Charge) startedCharge {
	return startedCharge{dedup.Key(charge.IdempotencyKey), charge.PaymentMethod, charge.CreatedAt}
}
