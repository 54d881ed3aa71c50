// Package payments charges an order at most once, across a network call that can fail in every way:
// the charge is stored before the provider is asked, the provider's key is derived from the stored
// row, and an unknown outcome is a state of its own.
package payments

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/coalesce"
	"github.com/onceshop/onceshop/internal/money"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/timeline"
)

var (
	// ErrNotFound reports a charge that does not exist or is another customer's.
	ErrNotFound = errors.New("payments: no such charge")
	// ErrOrderNotPayable reports an order that was canceled, expired or refunded.
	ErrOrderNotPayable = errors.New("payments: the order cannot be paid any more")
	// ErrOrderNotCancelable reports an order that has ended, or was paid too long ago.
	ErrOrderNotCancelable = errors.New("payments: the order cannot be canceled any more")
	// ErrNotSigned reports a webhook without a valid, recent signature of the provider.
	ErrNotSigned = errors.New("payments: the webhook has no valid, recent signature")
	// ErrDisputed reports a refund of a charge with an open dispute: the money may leave twice.
	ErrDisputed = errors.New("payments: the charge is disputed")
	// ErrTooManyAttempts reports an order with as many declined charges as it may have.
	ErrTooManyAttempts = errors.New("payments: too many declined charges")
)

// RefundExceedsError reports a refund of more than the charge can still give back.
type RefundExceedsError struct{ Asked, Refundable money.Money }

func (e RefundExceedsError) Error() string {
	return fmt.Sprintf("payments: refund of %s exceeds the refundable %s", e.Asked, e.Refundable)
}

// InProgressError reports that another key's charge for the order is live. The order can be charged
// again if that one is declined.
type InProgressError struct{ ChargeID uuid.UUID }

func (e InProgressError) Error() string {
	return fmt.Sprintf("payments: charge %s is in progress", e.ChargeID)
}

// AlreadyPaidError reports that another key's charge paid the order.
type AlreadyPaidError struct{ ChargeID uuid.UUID }

func (e AlreadyPaidError) Error() string {
	return fmt.Sprintf("payments: charge %s has paid the order", e.ChargeID)
}

// errEarly reports an event about something that is not stored or not settled yet.
var errEarly = errors.New("payments: the event is early")

// errNoCharge reports an event about a capture that no charge of ours has, or has not yet.
var errNoCharge = fmt.Errorf("%w: no charge has its capture", errEarly)

// contradictionError reports that an answer of the provider contradicts what is stored. An event
// with it is quarantined, and a charge with it stays as it is.
type contradictionError struct{ reason string }

func (e contradictionError) Error() string { return "payments: " + e.reason }

// Status of a charge or refund.
type Status string

const (
	// Pending means that the provider is being asked, or that it works on a refund.
	Pending Status = "pending"
	// Unknown means that the provider was asked and its answer did not arrive.
	Unknown Status = "unknown"
	// RequiresAction means that the buyer has to act at the provider before money can move.
	RequiresAction Status = "requires_action"
	// Succeeded means that the money moved.
	Succeeded Status = "succeeded"
	// Declined means that no money moved for a charge. If it moves after all, the charge becomes
	// Succeeded and the money goes back.
	Declined Status = "declined"
	// Failed means that a refund gave nothing back.
	Failed Status = "failed"
)

// Charge as the API shows it. Amounts are in minor units of Currency. AmountRefunded is what the
// provider has given back.
type Charge struct {
	ID             uuid.UUID   `json:"id"`
	CustomerID     uuid.UUID   `json:"-"`
	OrderID        uuid.UUID   `json:"order_id"`
	Status         Status      `json:"status"`
	Amount         int64       `json:"amount"`
	AmountRefunded int64       `json:"amount_refunded"`
	Currency       string      `json:"currency"`
	DeclineCode    string      `json:"decline_code,omitempty"`
	NextAction     *NextAction `json:"next_action,omitempty"`
	Dispute        string      `json:"dispute,omitempty"`
	CreatedAt      time.Time   `json:"created_at"`
	// Pays is false for money that came too late to pay for the order. Owes reports whether all
	// that is left of the money has to go back.
	Pays bool `json:"-"`
	Owes bool `json:"-"`
}

// Why a charge owes its money.
const (
	owedCanceled = "canceled"
	owedLate     = "late"
)

// Policy holds the limits of the shop. app checks that the times nest.
type Policy struct {
	// ProviderTimeout bounds one call to the provider.
	ProviderTimeout time.Duration
	// Lease is how long a worker that asks the provider holds a charge or refund: longer than a
	// call and the transaction after it.
	Lease time.Duration
	// Horizon is how long the provider may be asked again under the same key: shorter than the
	// provider remembers it.
	Horizon time.Duration
	// PayAttempts is how many declined charges an order may have, 0 for any number.
	PayAttempts int
	// CancelWindow is how long after the payment a customer may cancel, 0 for any time.
	CancelWindow time.Duration
	// ReturnURL is where a buyer comes back to after an action at the provider; the order's id is
	// appended.
	ReturnURL string
}

// settleTimeout bounds the transaction after a provider call.
const settleTimeout = 5 * time.Second

const (
	// maxBatch is how many charges share a transaction.
	maxBatch = 256
	// maxWaiting bounds the queue of each batcher.
	maxWaiting = 4096
	// batchTimeout bounds a batch, which no caller's context does.
	batchTimeout = 8 * time.Second
)

// Service charges orders through a provider.
type Service struct {
	pool     *pgxpool.Pool
	db       *paymentsdb.Queries
	orders   *orders.Service
	provider Provider
	policy   Policy
	now      func() time.Time
	recorder *timeline.Recorder
	log      *slog.Logger

	// unattended are the charges of ChargeSoon whose callers did not wait.
	unattended sync.WaitGroup

	starting *coalesce.Batcher[ChargeOrder, paymentsdb.Charge]
	settling *coalesce.Batcher[outcome, verdict]
}

// New returns a service on the pool's database. Leases use the database's clock; now dates what
// people see. The recorder of stopped twins may be nil.
func New(pool *pgxpool.Pool, orders *orders.Service, provider Provider, policy Policy, now func() time.Time,
	recorder *timeline.Recorder, log *slog.Logger) *Service {
	db := paymentsdb.New(pg.Patient{Pool: pool})
	s := &Service{pool: pool, db: db, orders: orders, provider: provider, policy: policy,
		now: now, recorder: recorder, log: log}
	s.starting = coalesce.New(s.startBatch())
	s.settling = coalesce.New(s.settleBatch())
	return s
}

// timestamp has the precision of Postgres: the answer and the row must show the same time.
func (s *Service) timestamp() time.Time {
	return s.now().UTC().Truncate(time.Microsecond)
}

// detach returns a context that the end of ctx does not end.
func detach(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), timeout)
}

func view(row paymentsdb.Charge) Charge {
	charge := Charge{ID: row.ID, CustomerID: row.CustomerID, OrderID: row.OrderID, Status: Status(row.Status),
		Amount: row.Amount, AmountRefunded: row.AmountRefunded, Currency: row.Currency,
		DeclineCode: shown(value(row.DeclineCode)), Dispute: value(row.Dispute), CreatedAt: row.CreatedAt.UTC(),
		Pays: row.Pays, Owes: row.Owes != nil && row.OwedEndedAt == nil && row.AmountRefunded < row.Amount}
	if charge.Status == RequiresAction {
		charge.NextAction = &NextAction{Type: "redirect", URL: value(row.ActionUrl)}
	}
	return charge
}

// hidden are decline codes that would help a thief: the buyer sees declined.
var hidden = []string{"fraudulent", "lost_card", "stolen_card", "pickup_card", "merchant_blacklist",
	"security_violation", "restricted_card"}

// shown is the decline code that a buyer may see.
func shown(code string) string {
	if slices.Contains(hidden, code) {
		return "declined"
	}
	return code
}
