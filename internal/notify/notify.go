// Package notify turns a paid order into one receipt by mail. SMTP is at-least-once: between the mail server's
// acceptance and our record of it lies a moment that no guard covers, and a twin sent then carries the same Message-ID.
package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/notify/internal/notifydb"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/timeline"
)

// ConsumerName is the durable consumer that all nodes share.
const ConsumerName = "receipts"

const (
	kindPaid = "paid"
	// SendTimeout bounds one SMTP conversation.
	SendTimeout = 10 * time.Second
	// sendLease outlasts the SMTP conversation and the record after it, in Redis as in the database.
	sendLease = 30 * time.Second
	// doneFor is how long Redis spares the database the question; afterwards the row answers.
	doneFor = 24 * time.Hour
	// busyRetry is when to look again at what another node is sending.
	busyRetry = 5 * time.Second
	// smtpRetry is when to try again after the mail server failed.
	smtpRetry = 10 * time.Second
)

var (
	stopped = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "onceshop_receipt_duplicates_stopped_total", Help: "Receipts not sent again, by the layer that knew: redis or database.",
	}, []string{"layer"})
	degraded = promauto.NewCounter(prometheus.CounterOpts{
		Name: "onceshop_redis_degraded_total", Help: "Claims that went on without Redis because it failed or was slow.",
	})
)

// Service sends receipts.
type Service struct {
	db     *notifydb.Queries
	orders *orders.Service
	claims *dedup.Claims
	mailer *Mailer
	shop   Shop

	recorder *timeline.Recorder
	log      *slog.Logger
}

// Shop is how the shop presents itself in a mail. Host is part of every Message-ID and must be the same on all nodes.
type Shop struct{ Name, URL, Host, From string }

// New returns a service on the pool's database. The recorder may be nil.
func New(pool *pgxpool.Pool, orders *orders.Service, claims *dedup.Claims, mailer *Mailer, shop Shop,
	recorder *timeline.Recorder, log *slog.Logger) *Service {
	return &Service{db: notifydb.New(pool), orders: orders, claims: claims, mailer: mailer, shop: shop,
		recorder: recorder, log: log}
}

// HandlePaid sends the receipt of a paid order unless it was sent. It is the handler of orders.EventPaid and
// may be called any number of times, by any node.
func (s *Service) HandlePaid(ctx context.Context, event outbox.Event) error {
	claim, err := s.claims.Claim(ctx, "receipt:"+event.OrderID.String(), sendLease)
	switch {
	case errors.Is(err, dedup.ErrDone):
		s.stop(ctx, event, "redis")
		s.recorder.Stopped(event.OrderID, timeline.Stop{Kind: timeline.ClaimDone})
		return nil
	case errors.Is(err, dedup.ErrBusy):
		s.recorder.Stopped(event.OrderID, timeline.Stop{Kind: timeline.ClaimBusy})
		return &outbox.RetryError{After: busyRetry, Err: err}
	case err != nil:
		// Redis saves the trip to the database; without it, the trip is made.
		degraded.Inc()
		s.log.WarnContext(ctx, "going on without Redis", "order_id", event.OrderID, "error", err)
	}
	if err := s.sendOnce(ctx, event); err != nil {
		return errors.Join(err, s.ignore(ctx, claim.Release(ctx)))
	}
	crash.At(crash.ReceiptRecorded)
	return s.ignore(ctx, claim.Done(ctx, doneFor))
}

// sendOnce lets the receipt's row decide whether to send.
func (s *Service) sendOnce(ctx context.Context, event outbox.Event) error {
	attempt, err := s.db.ClaimReceipt(ctx, notifydb.ClaimReceiptParams{OrderID: event.OrderID, Kind: kindPaid, Lease: sendLease})
	if errors.Is(err, pgx.ErrNoRows) {
		return s.lost(ctx, event)
	}
	if err != nil {
		return passing(fmt.Errorf("claim the receipt: %w", err))
	}
	crash.At(crash.ReceiptClaimed)
	message, err := s.compose(ctx, event)
	if err == nil {
		err = s.mailer.Send(ctx, message)
		if err != nil && !errors.Is(err, ErrRejected) {
			err = &outbox.RetryError{After: smtpRetry, Err: err}
		}
	}
	if err != nil {
		release := s.db.ReleaseReceipt(ctx, notifydb.ReleaseReceiptParams{OrderID: event.OrderID, Kind: kindPaid, Attempt: attempt})
		return errors.Join(err, s.ignore(ctx, release))
	}
	crash.At(crash.ReceiptAccepted)
	return s.record(ctx, event.OrderID)
}

// lost says what to do when another sender holds the row.
func (s *Service) lost(ctx context.Context, event outbox.Event) error {
	row, err := s.db.GetReceipt(ctx, notifydb.GetReceiptParams{OrderID: event.OrderID, Kind: kindPaid})
	if err != nil {
		return passing(fmt.Errorf("read the receipt: %w", err))
	}
	if row.SentAt != nil {
		s.stop(ctx, event, "database")
		s.recorder.Stopped(event.OrderID, timeline.Stop{Kind: timeline.ReceiptSent})
		return nil
	}
	s.recorder.Stopped(event.OrderID, timeline.Stop{Kind: timeline.ReceiptLeased})
	wait := time.Duration(row.LeaseSeconds * float64(time.Second))
	return &outbox.RetryError{After: max(wait, time.Second), Err: dedup.ErrBusy}
}

func (s *Service) compose(ctx context.Context, event outbox.Event) (Message, error) {
	order, err := s.orders.Get(ctx, event.OrderID)
	if err != nil {
		return Message{}, passing(err)
	}
	receipt := Receipt{OrderID: order.ID.String(), ShopName: s.shop.Name, ShopURL: s.shop.URL, Email: order.Email,
		PaidAt: event.CreatedAt, Currency: order.Currency, Total: order.Total}
	for _, l := range order.Lines {
		receipt.Lines = append(receipt.Lines, ReceiptLine{SKU: l.SKU, Name: l.Name, Quantity: l.Quantity, UnitPrice: l.UnitPrice, Amount: l.Amount})
	}
	return receipt.Message(s.shop.From, s.shop.Host)
}

// record keeps trying while the lease lasts: the mail is out, and every second without a record is one in which a twin may be sent.
func (s *Service) record(ctx context.Context, orderID uuid.UUID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendLease-SendTimeout)
	defer cancel()
	for {
		err := s.db.MarkReceiptSent(ctx, notifydb.MarkReceiptSentParams{OrderID: orderID, Kind: kindPaid})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return passing(fmt.Errorf("record the sent receipt: %w", err))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (s *Service) stop(ctx context.Context, event outbox.Event, layer string) {
	stopped.WithLabelValues(layer).Inc()
	s.log.InfoContext(ctx, "stopped a second receipt", "order_id", event.OrderID, "event_id", event.ID, "layer", layer)
}

// ignore logs a failed courtesy to others: a lease that is not given back ends by itself.
func (s *Service) ignore(ctx context.Context, err error) error {
	if err != nil {
		s.log.WarnContext(ctx, "a claim ends by its lease only", "error", err)
	}
	return nil
}

// passing keeps an outage of the database from turning events into dead letters.
func passing(err error) error {
	if pg.IsUnavailable(err) {
		return &outbox.RetryError{After: time.Second, Err: err}
	}
	return err
}
