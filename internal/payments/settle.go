package payments

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/coalesce"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/problem"
	"github.com/onceshop/onceshop/internal/timeline"
)

// outcome is the provider's answer about a charge.
type outcome struct {
	chargeID, orderID uuid.UUID
	capture           Capture
	// attempt is the fencing token of the worker that asked. A webhook has none: it is unfenced.
	attempt int32
}

// unfenced is the attempt of an outcome that the provider sent without being asked.
const unfenced = 0

// errStale refuses a worker whose lease ran out and whose charge or refund another has taken over.
var errStale = errors.New("payments: another worker has taken over")

// settle is tx B: it stores the provider's answer to the holder of the charge, with everything that
// follows from it, and returns the charge as it stands. The answer to a request, the reconciler and
// the webhooks all meet in settleTx: the first one decides, and later ones change nothing. See
// docs/decisions.md, D20.
func (s *Service) settle(ctx context.Context, charge paymentsdb.Charge, capture Capture) (paymentsdb.Charge, error) {
	v, err := s.settling.Do(ctx, outcome{charge.ID, charge.OrderID, capture, charge.Attempt})
	switch {
	case errors.Is(err, errStale):
		s.log.WarnContext(ctx, "a stale worker was refused",
			"charge_id", charge.ID, "order_id", charge.OrderID, "attempt", charge.Attempt)
		staleWrites.WithLabelValues("charge").Inc()
		s.recorder.Stopped(charge.ID, timeline.Stop{Kind: timeline.StaleWorker, Attempt: charge.Attempt})
		return s.reread(ctx, charge.ID)
	case errors.Is(err, pg.ErrCommitUnknown):
		if stands, rereadErr := s.reread(ctx, charge.ID); rereadErr == nil && stands.SettledAt != nil {
			return stands, nil
		}
	case pg.Violates(err, "charges_one_per_capture"):
		contradictions.Inc()
		s.log.ErrorContext(ctx, "the provider named a capture that belongs to another charge",
			"charge_id", charge.ID, "order_id", charge.OrderID, "capture", capture.ID)
		return s.markUnknown(ctx, charge, "", longestPause)
	case v.late:
		s.recorder.Stopped(charge.ID, timeline.Stop{Kind: timeline.SettledAlready})
	}
	if wrong, ok := errors.AsType[contradictionError](err); ok {
		contradictions.Inc()
		s.log.ErrorContext(ctx, "the provider contradicts itself", "charge_id", charge.ID, "order_id", charge.OrderID,
			"reason", wrong.reason)
		return v.charge, nil
	}
	return v.charge, err
}

// reread returns the charge as it stands after a transaction that failed or whose outcome is
// unknown.
func (s *Service) reread(ctx context.Context, id uuid.UUID) (paymentsdb.Charge, error) {
	ctx, cancel := detach(ctx, settleTimeout)
	defer cancel()
	charge, err := s.db.GetCharge(ctx, id)
	if err != nil {
		return charge, fmt.Errorf("read the charge: %w", err)
	}
	return charge, nil
}

// settleAll settles outcomes that arrived at the same time, in one transaction. An error means that
// nothing was stored, or that the outcome of the COMMIT is unknown.
func (s *Service) settleAll(ctx context.Context, outcomes []outcome) (settled []coalesce.Outcome[verdict], err error) {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	err = pg.InPipe(ctx, s.pool, func(tx *pg.Pipe) (err error) {
		tx.LimitLockWait(coalesce.LockWait)
		settled, err = s.settleTx(ctx, tx, outcomes...)
		return err
	})
	return settled, err
}

func (s *Service) settleBatch() coalesce.Batch[outcome, verdict] {
	return coalesce.Batch[outcome, verdict]{Most: maxBatch, Waiting: maxWaiting, Run: s.settleAll,
		Name: "payments.settle", About: func(o outcome) uuid.UUID { return o.orderID },
		Rows: &coalesce.Rows[outcome]{
			Of:   func(o outcome) []string { return []string{o.orderID.String()} },
			Held: s.orders.ListHeld,
		}}
}

// settleTx decides what follows from each outcome, under the locks of the orders and their charges,
// and queues the writes.
func (s *Service) settleTx(ctx context.Context, tx *pg.Pipe, outcomes ...outcome) ([]coalesce.Outcome[verdict], error) {
	orderIDs := make([]uuid.UUID, len(outcomes))
	for i, o := range outcomes {
		orderIDs[i] = o.orderID
	}
	locked := s.orders.LockTx(tx, orderIDs...)
	rows := pg.Later(tx, paymentsdb.New(tx).LockCharges, orderIDs)
	if err := tx.Flush(ctx); err != nil {
		return nil, fmt.Errorf("lock the orders and their charges: %w", err)
	}
	all := make(map[uuid.UUID]*payment, len(outcomes))
	for _, id := range orderIDs {
		order, err := locked.Order(id)
		if err != nil {
			return nil, err
		}
		all[id] = &payment{order: order.Status, charges: map[uuid.UUID]paymentsdb.Charge{}}
	}
	for _, charge := range *rows {
		all[charge.OrderID].charges[charge.ID] = charge
	}
	settled := make([]coalesce.Outcome[verdict], len(outcomes))
	var writes effects
	for i, o := range outcomes {
		v, err := all[o.orderID].decide(o)
		settled[i] = coalesce.Outcome[verdict]{Answer: v, Err: err}
		if err == nil {
			all[o.orderID].apply(v) // a later outcome for the same order finds it settled
			writes.add(o.orderID, v)
		}
	}
	return settled, s.writeTx(ctx, tx, locked, writes)
}

// payment is how an order and all its charges stand.
type payment struct {
	order   orders.Status
	charges map[uuid.UUID]paymentsdb.Charge
}

// verdict is what follows from an outcome.
type verdict struct {
	charge paymentsdb.Charge // as it stands afterwards
	write  bool              // whether the outcome changes the charge
	order  orders.Status     // the order's new status, or ""
	late   bool              // whether the charge was settled before
}

// Decline codes of ours.
const (
	// declinedAsCanceled is the code of a charge that we ended because its outcome stayed open.
	declinedAsCanceled = "not_captured"
	declinedAsRefused  = "refused_by_provider"
)

// decide returns what follows from an outcome, or errStale, or a contradictionError. Money that has
// moved is always written down. It pays for the order if the order waits for this charge; otherwise
// it goes back. See docs/decisions.md, D82.
func (p *payment) decide(o outcome) (verdict, error) {
	charge := p.charges[o.chargeID]
	captured := o.capture.Status == CaptureSucceeded
	switch {
	case charge.Status == string(Succeeded):
		return verdict{charge: charge, late: true}, agree(charge, o.capture)
	case charge.Status == string(Declined) && !captured:
		return verdict{charge: charge, late: true}, nil
	case !captured && o.attempt != unfenced && o.attempt != charge.Attempt:
		return verdict{charge: charge}, errStale
	}
	v := verdict{charge: conclude(charge, o.capture), write: true}
	switch {
	case o.capture.Status == CaptureRequiresAction:
		return v, nil
	case captured && (p.order != orders.Paying || !live(charge)):
		// The order has ended, or the charge was given up. Its key is answered when the money is
		// back, unless it was answered before.
		v.charge.Pays, v.charge.Owes = false, optional(owedLate)
		return v, nil
	case captured:
		v.order = orders.Paid
	case p.order == orders.Paying:
		v.order = orders.Placed
	}
	status, body, err := finalAnswer(view(v.charge))
	v.charge.AnswerStatus, v.charge.Answer = &status, body
	return v, err
}

// agree checks that a succeeded charge does not contradict a capture. A decline under another id
// does not: it is old news of another try.
func agree(charge paymentsdb.Charge, capture Capture) error {
	same := capture.ID == value(charge.ProviderID)
	switch {
	case capture.Status == CaptureSucceeded && !same:
		return contradictionError{fmt.Sprintf("charge %s was captured twice: %s and %s", charge.ID,
			value(charge.ProviderID), capture.ID)}
	case capture.Status != CaptureSucceeded && same:
		return contradictionError{fmt.Sprintf("charge %s succeeded, and its capture %s is %s", charge.ID, capture.ID,
			capture.Status)}
	}
	return nil
}

func (p *payment) apply(v verdict) {
	p.charges[v.charge.ID] = v.charge
	if v.order != "" {
		p.order = v.order
	}
}

// conclude sets what the provider answered.
func conclude(charge paymentsdb.Charge, capture Capture) paymentsdb.Charge {
	if capture.ID != "" {
		charge.ProviderID = &capture.ID
	}
	charge.ActionUrl = nil
	switch capture.Status {
	case CaptureRequiresAction:
		charge.Status = string(RequiresAction)
		charge.ActionUrl = &capture.NextAction.URL
	case CaptureSucceeded:
		charge.Status = string(Succeeded)
		charge.DeclineCode = nil
	default:
		charge.Status = string(Declined)
		charge.DeclineCode = optional(cmp.Or(capture.DeclineCode, declinedAsCanceled))
	}
	return charge
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
	declined := problem.New("declined", fmt.Sprintf("The payment was declined (%s). Nothing was charged. While the "+
		"order is open, another payment method can pay for it, with a new idempotency key.", charge.DeclineCode))
	declined.Charge = charge
	return http.StatusPaymentRequired, declined.Body(), nil
}

// effects are what the verdicts of a batch write.
type effects struct {
	charges map[uuid.UUID]paymentsdb.Charge // one outcome can follow another for the same charge
	changes []orders.Change
	// declinedLate are charges that were declined when their order had ended. Their event is what a
	// restore answers their keys from.
	declinedLate []paymentsdb.Charge
}

func (e *effects) add(orderID uuid.UUID, v verdict) {
	if v.write {
		if e.charges == nil {
			e.charges = map[uuid.UUID]paymentsdb.Charge{}
		}
		e.charges[v.charge.ID] = v.charge
	}
	switch {
	case v.order != "":
		e.changes = append(e.changes, orders.Change{OrderID: orderID, To: v.order, Origin: settledOf(v.charge)})
	case v.write && v.charge.Status == string(Declined):
		e.declinedLate = append(e.declinedLate, v.charge)
	}
}

// writeTx queues the writes. What is owed is returned by the reconciler.
func (s *Service) writeTx(ctx context.Context, tx *pg.Pipe, locked *orders.Locked, e effects) error {
	if len(e.charges) == 0 {
		return nil
	}
	p := paymentsdb.SettleChargesParams{ActionPause: actionPause}
	for id, charge := range e.charges {
		p.Ids = append(p.Ids, id)
		p.Statuses = append(p.Statuses, charge.Status)
		p.Pays = append(p.Pays, charge.Pays)
		p.Owes = append(p.Owes, value(charge.Owes))
		p.ProviderIds = append(p.ProviderIds, value(charge.ProviderID))
		p.DeclineCodes = append(p.DeclineCodes, value(charge.DeclineCode))
		p.ActionUrls = append(p.ActionUrls, value(charge.ActionUrl))
		p.AnswerStatuses = append(p.AnswerStatuses, value(charge.AnswerStatus))
		p.Answers = append(p.Answers, charge.Answer)
		outcomes.WithLabelValues("charge", charge.Status).Inc()
	}
	if err := paymentsdb.New(tx).SettleCharges(ctx, p); err != nil {
		return fmt.Errorf("settle the charges: %w", err)
	}
	for _, charge := range e.declinedLate {
		if err := s.orders.TellDeclinedLateTx(ctx, tx, locked, charge.OrderID, settledOf(charge)); err != nil {
			return err
		}
	}
	if len(e.changes) == 0 {
		return nil
	}
	return s.orders.ChangeStatusTx(ctx, tx, locked, e.changes...)
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// settledCharge is what an order that is paid, or whose payment was declined, came from.
type settledCharge struct {
	ChargeID    uuid.UUID `json:"charge_id"`
	ProviderID  string    `json:"provider_id,omitempty"`
	DeclineCode string    `json:"decline_code,omitempty"`
}

func settledOf(charge paymentsdb.Charge) settledCharge {
	return settledCharge{charge.ID, value(charge.ProviderID), value(charge.DeclineCode)}
}

// live reports whether the charge pays for its order, or still can.
func live(charge paymentsdb.Charge) bool { return charge.Pays && charge.Status != string(Declined) }

// markUnknown leaves the charge to the reconciler, which asks again after the pause, and returns
// the charge as it stands. The provider's id is kept if it is known.
func (s *Service) markUnknown(ctx context.Context, charge paymentsdb.Charge, providerID string,
	pause time.Duration) (paymentsdb.Charge, error) {
	marked, err := s.db.MarkUnknown(ctx, paymentsdb.MarkUnknownParams{ID: charge.ID, Attempt: charge.Attempt,
		Pause: pause, ProviderID: providerID})
	if errors.Is(err, pgx.ErrNoRows) { // it is settled, or another worker has taken over
		marked, err = s.db.GetCharge(ctx, charge.ID)
	}
	if err != nil {
		return charge, fmt.Errorf("mark the charge as unknown: %w", err)
	}
	outcomes.WithLabelValues("charge", marked.Status).Inc()
	return marked, nil
}
