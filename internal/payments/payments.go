// Package payments charges an order at most once across a network call that can fail in every way: the attempt is stored
// before the provider is asked, the provider's key is derived from the stored row, and an outcome nobody knows is a state of its own.
package payments

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/coalesce"
	"github.com/onceshop/onceshop/internal/money"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/timeline"
)

var (
	// ErrNotFound reports a charge that does not exist or is somebody else's.
	ErrNotFound = errors.New("payments: no such charge")
	// ErrOrderNotPayable reports an order that was canceled, expired or refunded.
	ErrOrderNotPayable = errors.New("payments: the order cannot be paid any more")
	// ErrOrderNotCancelable reports an order that has ended: canceled, expired or refunded.
	ErrOrderNotCancelable = errors.New("payments: the order cannot be canceled any more")
	// ErrNotSigned reports a webhook that the provider did not sign, or not just now.
	ErrNotSigned = errors.New("payments: the webhook has no valid, recent signature")
	// ErrNotApplicableYet reports an event that came before what it is about: it has to come again.
	ErrNotApplicableYet = errors.New("payments: the event cannot be applied yet")
)

// RefundExceedsError reports a refund of more than the charge can still give back.
type RefundExceedsError struct{ Asked, Refundable money.Money }

func (e RefundExceedsError) Error() string {
	return fmt.Sprintf("payments: refund of %s exceeds the refundable %s", e.Asked, e.Refundable)
}

// InProgressError reports that another key's charge for the order is live: its outcome must come first.
type InProgressError struct{ ChargeID uuid.UUID }

func (e InProgressError) Error() string {
	return fmt.Sprintf("payments: charge %s is in progress", e.ChargeID)
}

// AlreadyPaidError reports that another key's charge paid the order.
type AlreadyPaidError struct{ ChargeID uuid.UUID }

func (e AlreadyPaidError) Error() string {
	return fmt.Sprintf("payments: charge %s has paid the order", e.ChargeID)
}

// Status of a charge or refund: Pending and Unknown are live, the others final.
type Status string

const (
	// Pending means that the provider is being asked.
	Pending Status = "pending"
	// Unknown means that the provider was asked and nobody knows what came of it.
	Unknown Status = "unknown"
	// Succeeded means that the money moved.
	Succeeded Status = "succeeded"
	// Declined means that the provider refused a charge: no money moved or will move.
	Declined Status = "declined"
	// Failed means that the provider refused a refund.
	Failed Status = "failed"
)

// Charge as the API shows it. Amounts are in minor units of Currency.
type Charge struct {
	ID             uuid.UUID `json:"id"`
	CustomerID     uuid.UUID `json:"-"`
	OrderID        uuid.UUID `json:"order_id"`
	Status         Status    `json:"status"`
	Amount         int64     `json:"amount"`
	AmountRefunded int64     `json:"amount_refunded"`
	Currency       string    `json:"currency"`
	DeclineCode    string    `json:"decline_code,omitempty"`
	CreatedAt      time.Time `json:"created_at"`
}

// Timing says how long things may take. app checks that the times nest.
type Timing struct {
	// ProviderTimeout bounds one call to the provider.
	ProviderTimeout time.Duration
	// Lease is how long whoever asks the provider may hold a charge or refund: longer than a call and the transaction after it.
	Lease time.Duration
	// Horizon is how long the provider may be asked again under the same key: shorter than the provider remembers it.
	Horizon time.Duration
}

// settleTimeout bounds the transaction after a provider call.
const settleTimeout = 5 * time.Second

// Service charges orders through a provider.
type Service struct {
	pool     *pgxpool.Pool
	db       *paymentsdb.Queries
	orders   *orders.Service
	provider Provider
	timing   Timing
	now      func() time.Time
	log      *slog.Logger

	starting *coalesce.Batcher[ChargeOrder, start]
	settling *coalesce.Batcher[outcome, paymentsdb.Charge]

	// Stopped records twins for the order's timeline. It may be nil; set it before the service is used.
	Stopped *timeline.Recorder
}

// New returns a service on the pool's database. Leases use the database's clock; now dates what people see.
func New(pool *pgxpool.Pool, orders *orders.Service, provider Provider, timing Timing, now func() time.Time, log *slog.Logger) *Service {
	s := &Service{pool: pool, db: paymentsdb.New(pool), orders: orders, provider: provider, timing: timing, now: now, log: log}
	s.starting = coalesce.New(maxTogether, maxWaiting, s.startAll)
	s.settling = coalesce.New(maxTogether, maxWaiting, s.settleAll)
	return s
}

// timestamp is what Postgres can keep: the answer and the row must tell the same time.
func (s *Service) timestamp() time.Time {
	return s.now().UTC().Truncate(time.Microsecond)
}

// lockOwnTx locks an order of the customer; another's is one that does not exist.
func (s *Service) lockOwnTx(ctx context.Context, tx pgx.Tx, id, customerID uuid.UUID) (orders.Order, error) {
	order, err := s.orders.LegacyLockTx(ctx, tx, id)
	if err == nil && order.CustomerID != customerID {
		err = orders.ErrNotFound
	}
	return order, err
}

func view(row paymentsdb.Charge) Charge {
	charge := Charge{ID: row.ID, CustomerID: row.CustomerID, OrderID: row.OrderID, Status: Status(row.Status), Amount: row.Amount,
		AmountRefunded: row.AmountRefunded, Currency: row.Currency, CreatedAt: row.CreatedAt.UTC()}
	if row.DeclineCode != nil {
		charge.DeclineCode = *row.DeclineCode
	}
	return charge
}
