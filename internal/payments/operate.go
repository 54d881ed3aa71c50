package payments

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/problem"
)

// An operator ends by hand what the program cannot: an outcome that no provider makes known, a debt
// that nothing returns, an event that contradicts what is stored. The effect, and what follows from
// it, is written by the same functions as an answer of the provider.

// Action is a decision of an operator. Each has one kind of subject.
type Action string

// The actions.
const (
	SettleCaptured    Action = "charge captured"
	SettleNotCaptured Action = "charge not captured"
	SettleRefunded    Action = "refund succeeded"
	SettleNotRefunded Action = "refund failed"
	CloseWon          Action = "dispute won"
	CloseLost         Action = "dispute lost"
	// RetryReturn tries anew to return what a charge owes, EndDebt ends the debt without a refund.
	RetryReturn Action = "return retried"
	EndDebt     Action = "debt ended"
	// RedoEvent applies an event that waits, DismissEvent ends its wait without an effect.
	RedoEvent    Action = "event applied"
	DismissEvent Action = "event dismissed"
)

// actions hold the steps of each action: find returns the charge that the subject belongs to, or
// nil for an event of none, and run writes the effect.
var actions = map[Action]struct {
	find func(ctx context.Context, db *paymentsdb.Queries, subject string) (*paymentsdb.Charge, error)
	run  func(s *Service, ctx context.Context, tx *pg.Pipe, o Operation, charge *paymentsdb.Charge) error
}{
	SettleCaptured:    {findSubjectCharge, (*Service).settleChargeByHandTx},
	SettleNotCaptured: {findSubjectCharge, (*Service).settleChargeByHandTx},
	SettleRefunded:    {chargeOfRefund, (*Service).settleRefundByHandTx},
	SettleNotRefunded: {chargeOfRefund, (*Service).settleRefundByHandTx},
	CloseWon:          {chargeOfDispute, (*Service).closeDisputeByHandTx},
	CloseLost:         {chargeOfDispute, (*Service).closeDisputeByHandTx},
	RetryReturn:       {findSubjectCharge, (*Service).decideDebtTx},
	EndDebt:           {findSubjectCharge, (*Service).decideDebtTx},
	RedoEvent:         {chargeOfEvent, (*Service).decideEventTx},
	DismissEvent:      {chargeOfEvent, (*Service).decideEventTx},
}

// Operation is a request of an operator. Its JSON is what the idempotency key stands for.
type Operation struct {
	// CustomerID is the operator's account, Operator its name for the record.
	CustomerID uuid.UUID `json:"-"`
	Operator   string    `json:"-"`
	Key        dedup.Key `json:"-"`

	Action Action `json:"action"`
	// Subject is the id of the charge, refund, dispute or event.
	Subject string `json:"subject"`
	// ProviderID is the provider's id of a capture or refund that happened.
	ProviderID string `json:"provider_id"`
	// Reason is why, or the evidence.
	Reason string `json:"reason"`
}

// Fingerprint identifies what the request asks for.
func (o Operation) Fingerprint() dedup.Fingerprint { return dedup.FingerprintOf(o) }

// OperatorAction is an operation that was carried out: the answer to its key.
type OperatorAction struct {
	ID        uuid.UUID  `json:"id"`
	Action    Action     `json:"action"`
	Subject   string     `json:"subject"`
	OrderID   *uuid.UUID `json:"order_id,omitempty"`
	Operator  string     `json:"operator"`
	Reason    string     `json:"reason"`
	CreatedAt time.Time  `json:"created_at"`
}

// RefusedError reports an operation that does not fit what is stored. It changed nothing.
type RefusedError struct{ Reason string }

func (e RefusedError) Error() string { return "payments: the operation is refused: " + e.Reason }

// Operate carries out an operator's decision, once per operator and key, and returns 200 with an
// OperatorAction. The caller checks that the request comes from an operator.
// problem.InvalidError, ErrNotFound and RefusedError leave the key unused; the other errors are
// those of orders.Place. See docs/decisions.md, D89.
func (s *Service) Operate(ctx context.Context, o Operation) (dedup.Answer, error) {
	if err := o.validate(); err != nil {
		return dedup.Answer{}, err
	}
	answer, err := dedup.Once(ctx, dedup.Request{
		Fingerprint: o.Fingerprint(),
		Find: func(ctx context.Context) (dedup.Row, error) {
			return findAction(ctx, s.db, o)
		},
		Do: func(ctx context.Context) (answer dedup.Answer, err error) {
			ctx, cancel := context.WithTimeout(ctx, settleTimeout)
			defer cancel()
			err = pg.InPipe(ctx, s.pool, func(tx *pg.Pipe) (err error) {
				answer, err = s.operateTx(ctx, tx, o)
				return err
			})
			return answer, refusedByHand(err)
		},
	})
	if err != nil || answer.Replayed {
		return answer, err
	}
	s.log.InfoContext(ctx, "an operator acted", "action", o.Action, "subject", o.Subject, "customer_id", o.CustomerID)
	if o.Action == RedoEvent {
		ctx, cancel := detach(ctx, applyTimeout)
		defer cancel()
		if err := s.apply(ctx, o.Subject); err != nil {
			s.log.Log(ctx, laterLevel(err), "an event is applied later", "event_id", o.Subject, "error", err)
		}
	}
	return answer, nil
}

// providerID is visible ASCII, as both providers' ids are.
var providerID = regexp.MustCompile(`^[!-~]{0,255}$`)

func (o Operation) validate() error {
	_, known := actions[o.Action]
	switch {
	case !known:
		return problem.InvalidError{Field: "action", Reason: "must be an action of operators"}
	case strings.TrimSpace(o.Reason) == "" || len(o.Reason) > maxReason:
		return problem.InvalidError{Field: "reason", Reason: fmt.Sprintf("must be 1 to %d bytes of text", maxReason)}
	case !providerID.MatchString(o.ProviderID):
		return problem.InvalidError{Field: "provider_id", Reason: "must be an id of the provider"}
	}
	return nil
}

// refusedByHand returns the error of an operation that contradicts what is stored as one for the
// operator.
func refusedByHand(err error) error {
	if wrong, ok := errors.AsType[contradictionError](err); ok {
		return RefusedError{wrong.reason}
	}
	if pg.Violates(err, "charges_one_per_capture") || pg.Violates(err, "refunds_one_per_provider_id") {
		return RefusedError{"the provider's id belongs to another charge or refund"}
	}
	if errors.Is(err, errEarly) {
		return RefusedError{"refunds that are under way hold the amount; settle them first"}
	}
	return err
}

// findAction reads the action under the request's key.
func findAction(ctx context.Context, db *paymentsdb.Queries, o Operation) (dedup.Row, error) {
	row, err := db.FindActionByKey(ctx,
		paymentsdb.FindActionByKeyParams{CustomerID: o.CustomerID, IdempotencyKey: string(o.Key)})
	if errors.Is(err, pgx.ErrNoRows) {
		return dedup.Row{}, dedup.ErrNoRow
	}
	if err != nil {
		return dedup.Row{}, fmt.Errorf("find the action by its key: %w", err)
	}
	return dedup.Row{ID: row.ID, Fingerprint: row.Fingerprint, Answer: operatedAnswer(row.ID, row.Answer)}, nil
}

// operateTx inserts the action before it looks at its subject: a twin waits for this transaction,
// and then reads its answer.
func (s *Service) operateTx(ctx context.Context, tx *pg.Pipe, o Operation) (dedup.Answer, error) {
	db := paymentsdb.New(tx)
	charge, err := actions[o.Action].find(ctx, db, o.Subject)
	if errors.Is(err, pgx.ErrNoRows) || errors.Is(err, ErrNotFound) {
		return dedup.Answer{}, ErrNotFound
	}
	if err != nil {
		return dedup.Answer{}, fmt.Errorf("find what the operator decides about: %w", err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return dedup.Answer{}, fmt.Errorf("make an action id: %w", err)
	}
	action := OperatorAction{ID: id, Action: o.Action, Subject: o.Subject, Operator: o.Operator, Reason: o.Reason,
		CreatedAt: s.timestamp()}
	if charge != nil {
		action.OrderID = &charge.OrderID
	}
	body, err := json.Marshal(action)
	if err != nil {
		return dedup.Answer{}, fmt.Errorf("encode the action: %w", err)
	}
	fingerprint := o.Fingerprint()
	_, err = db.InsertAction(ctx, paymentsdb.InsertActionParams{ID: id, CustomerID: o.CustomerID,
		Operator: o.Operator, IdempotencyKey: string(o.Key), Fingerprint: fingerprint[:], Action: string(o.Action),
		Subject: o.Subject, OrderID: action.OrderID, Reason: o.Reason, Answer: body}) // ON CONFLICT DO NOTHING
	if errors.Is(err, pgx.ErrNoRows) {
		return dedup.Answer{}, dedup.ErrKeyTaken
	}
	if err != nil {
		return dedup.Answer{}, fmt.Errorf("insert the action: %w", err)
	}
	return operatedAnswer(id, body), actions[o.Action].run(s, ctx, tx, o, charge)
}

func operatedAnswer(id uuid.UUID, body []byte) dedup.Answer {
	return dedup.Answer{ID: id, Status: http.StatusOK, Body: body, Final: true}
}

func findSubjectCharge(ctx context.Context, db *paymentsdb.Queries, subject string) (*paymentsdb.Charge, error) {
	id, err := uuid.Parse(subject)
	if err != nil {
		return nil, ErrNotFound
	}
	charge, err := db.GetCharge(ctx, id)
	return &charge, err
}

func chargeOfRefund(ctx context.Context, db *paymentsdb.Queries, subject string) (*paymentsdb.Charge, error) {
	id, err := uuid.Parse(subject)
	if err != nil {
		return nil, ErrNotFound
	}
	refund, err := db.GetRefund(ctx, id)
	if err != nil {
		return nil, err
	}
	charge, err := db.GetCharge(ctx, refund.ChargeID)
	return &charge, err
}

func chargeOfDispute(ctx context.Context, db *paymentsdb.Queries, subject string) (*paymentsdb.Charge, error) {
	dispute, err := db.GetDispute(ctx, subject)
	if err != nil {
		return nil, err
	}
	charge, err := db.GetCharge(ctx, dispute.ChargeID)
	return &charge, err
}

// chargeOfEvent returns nil for an event whose charge does not exist.
func chargeOfEvent(ctx context.Context, db *paymentsdb.Queries, subject string) (*paymentsdb.Charge, error) {
	id, err := db.ChargeOfEvent(ctx, subject)
	if err != nil || id == nil {
		return nil, err
	}
	charge, err := db.GetCharge(ctx, *id)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil //nolint:nilnil // no charge is an answer
	}
	return &charge, err
}

// settleChargeByHandTx settles a charge as the operator found it at the provider. A capture of a
// charge that was given up counts too: its money goes back.
func (s *Service) settleChargeByHandTx(ctx context.Context, tx *pg.Pipe, o Operation,
	charge *paymentsdb.Charge) error {
	capture := Capture{ID: value(charge.ProviderID), Reference: charge.ID.String(), OrderID: charge.OrderID.String(),
		Status: CaptureCanceled, Amount: charge.Amount, Currency: charge.Currency}
	if o.Action == SettleCaptured {
		capture.Status = CaptureSucceeded
		known := capture.ID
		if charge.SettledAt != nil { // a declined capture need not be the one that moved money
			known = ""
		}
		if err := namesOne(o.ProviderID, known); err != nil {
			return err
		}
		capture.ID = o.ProviderID
	}
	settled, err := s.settleTx(ctx, tx, outcome{charge.ID, charge.OrderID, capture, unfenced})
	switch {
	case err != nil:
		return err
	case settled[0].Err != nil:
		return settled[0].Err
	case settled[0].Answer.late:
		return RefusedError{"the charge has been settled"}
	}
	return nil
}

// namesOne checks the provider's id of money that moved: without one, the provider's event about
// the same money would be taken for another's. The known id is what the provider named before, or
// "".
func namesOne(id, known string) error {
	switch {
	case id == "":
		return problem.InvalidError{Field: "provider_id", Reason: "must be the provider's id of what moved the money"}
	case known != "" && known != id:
		return problem.InvalidError{Field: "provider_id", Reason: "must be " + known + ": the provider named it before"}
	}
	return nil
}

// settleRefundByHandTx settles an open refund, or one that was believed to have failed and gave the
// money back after all.
func (s *Service) settleRefundByHandTx(ctx context.Context, tx *pg.Pipe, o Operation,
	charge *paymentsdb.Charge) error {
	s.orders.LockTx(tx, charge.OrderID)
	refund, err := paymentsdb.New(tx).LockRefund(ctx, uuid.MustParse(o.Subject))
	if err != nil {
		return fmt.Errorf("lock the refund: %w", err)
	}
	if refund.Status == string(Succeeded) || refund.Status == string(Failed) && o.Action == SettleNotRefunded {
		return RefusedError{"the refund has been settled"}
	}
	if o.Action == SettleRefunded {
		if err := namesOne(o.ProviderID, value(refund.ProviderID)); err != nil {
			return err
		}
	}
	given := ProviderRefund{ID: o.ProviderID, CaptureID: value(charge.ProviderID), Reference: refund.ID.String(),
		Status: RefundSucceeded, Amount: refund.Amount, Currency: refund.Currency}
	if o.Action == SettleNotRefunded {
		given.ID, given.Status, given.FailureCode = "", RefundFailed, failedAsNotFound
	}
	_, err = s.settleRefundTx(ctx, tx, *charge, refund.ID, unfenced, given)
	return err
}

// closeDisputeByHandTx ends a dispute whose event never came.
func (s *Service) closeDisputeByHandTx(ctx context.Context, tx *pg.Pipe, o Operation,
	charge *paymentsdb.Charge) error {
	s.orders.LockTx(tx, charge.OrderID)
	row, err := paymentsdb.New(tx).GetDispute(ctx, o.Subject)
	if err != nil {
		return fmt.Errorf("read the dispute: %w", err)
	}
	if row.Status != DisputeOpen {
		return RefusedError{"the dispute is over"}
	}
	closed := Dispute{ID: row.ID, Status: DisputeWon, Amount: row.Amount, Currency: row.Currency}
	if o.Action == CloseLost {
		closed.Status = DisputeLost
	}
	return s.noteDisputeTx(ctx, tx, *charge, closed)
}

// decideDebtTx makes what a charge owes due now, with all tries ahead, or ends the debt. With its
// end the charge's key has its final answer.
func (s *Service) decideDebtTx(ctx context.Context, tx *pg.Pipe, o Operation, charge *paymentsdb.Charge) error {
	db := paymentsdb.New(tx)
	locked := s.orders.LockTx(tx, charge.OrderID)
	owing, err := db.LockCharge(ctx, charge.ID)
	switch {
	case err != nil:
		return fmt.Errorf("lock the charge: %w", err)
	case !owes(owing):
		return RefusedError{"the charge owes nothing, or its money is on its way"}
	case o.Action == EndDebt:
		if err := db.EndDebt(ctx, owing.ID); err != nil {
			return fmt.Errorf("end the debt: %w", err)
		}
		now := s.timestamp()
		owing.OwedEndedAt = &now
		return s.afterRefundTx(ctx, tx, locked, owing)
	case value(owing.Dispute) == DisputeOpen:
		return RefusedError{"the charge is disputed, and nothing is returned meanwhile"}
	}
	return db.RetryReturn(ctx, owing.ID)
}

// decideEventTx makes an event that waits due now, with all tries ahead, or dismisses it.
func (s *Service) decideEventTx(ctx context.Context, tx *pg.Pipe, o Operation, _ *paymentsdb.Charge) error {
	decide := paymentsdb.New(tx).RedoEvent
	if o.Action == DismissEvent {
		decide = paymentsdb.New(tx).DismissEvent
	}
	_, err := decide(ctx, o.Subject)
	if errors.Is(err, pgx.ErrNoRows) {
		return RefusedError{"the event does not wait any more"}
	}
	if err != nil {
		return fmt.Errorf("decide about the event: %w", err)
	}
	return nil
}
