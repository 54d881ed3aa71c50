// Package notify sends one receipt by mail for each paid order. The sending itself is
// at-least-once: a crash after the mail server accepted the mail and before that is recorded sends
// it again. Both copies have the same Message-ID, so that mail systems can drop the second.
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
	// sendLease is the lease of a sender, in Redis and in the database. It must be longer than the
	// SMTP conversation and the record of its result.
	sendLease = 30 * time.Second
	// doneFor is how long Redis remembers that a receipt is sent. The database remembers it
	// forever.
	doneFor = 24 * time.Hour
	// busyRetry is the delay of an event whose receipt another node is sending.
	busyRetry = 5 * time.Second
	// smtpRetry is the delay after a failure of the mail server, databaseRetry after one of the
	// database.
	smtpRetry     = 10 * time.Second
	databaseRetry = time.Second
	// recordRetry is the pause between attempts to record a sent receipt.
	recordRetry = 500 * time.Millisecond
)

var (
	duplicates = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "onceshop_receipt_duplicates_stopped_total",
		Help: "Receipts not sent again, by the layer that knew: redis or database.",
	}, []string{"layer"})
	degraded = promauto.NewCounter(prometheus.CounterOpts{
		Name: "onceshop_redis_degraded_total",
		Help: "Claims that went on without Redis because it failed or was slow.",
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

// Shop is the shop as it appears in a mail. Host is part of every Message-ID and must be the same
// on all nodes.
type Shop struct{ Name, URL, Host, From string }

// New returns a service on the pool's database. The recorder may be nil.
func New(pool *pgxpool.Pool, orders *orders.Service, claims *dedup.Claims, mailer *Mailer, shop Shop,
	recorder *timeline.Recorder, log *slog.Logger) *Service {
	return &Service{db: notifydb.New(pool), orders: orders, claims: claims, mailer: mailer, shop: shop,
		recorder: recorder, log: log}
}

// HandlePaid sends the receipt of a paid order unless it has been sent. It is the handler of
// orders.EventPaid: any node can call it, any number of times.
func (s *Service) HandlePaid(ctx context.Context, event outbox.Event) error {
	claim, err := s.claims.Claim(ctx, "receipt:"+event.OrderID.String(), sendLease)
	switch {
	case errors.Is(err, dedup.ErrDone):
		s.stopped(ctx, event, "redis", timeline.ClaimDone)
		return nil
	case errors.Is(err, dedup.ErrBusy):
		s.recorder.Stopped(event.OrderID, timeline.Stop{Kind: timeline.ClaimBusy})
		return &outbox.RetryError{After: busyRetry, Err: err}
	case err != nil:
		// Redis only saves the trip to the database.
		degraded.Inc()
		s.log.WarnContext(ctx, "going on without Redis", "order_id", event.OrderID, "error", err)
	}
	if err := s.sendOnce(ctx, event); err != nil {
		s.warn(ctx, claim.Release(ctx))
		return err
	}
	crash.At(crash.ReceiptRecorded)
	s.warn(ctx, claim.Done(ctx, doneFor))
	return nil
}

// sendOnce sends the receipt if it gets the lease of the receipt's row.
func (s *Service) sendOnce(ctx context.Context, event outbox.Event) error {
	receipt := notifydb.ClaimReceiptParams{OrderID: event.OrderID, Kind: kindPaid, Lease: sendLease}
	attempt, err := s.db.ClaimReceipt(ctx, receipt)
	if errors.Is(err, pgx.ErrNoRows) {
		return s.notClaimed(ctx, event)
	}
	if err != nil {
		return transient(fmt.Errorf("claim the receipt: %w", err))
	}
	crash.At(crash.ReceiptClaimed)
	if err := s.send(ctx, event); err != nil {
		s.warn(ctx, s.db.ReleaseReceipt(ctx, notifydb.ReleaseReceiptParams{
			OrderID: event.OrderID, Kind: kindPaid, Attempt: attempt}))
		return err
	}
	crash.At(crash.ReceiptAccepted)
	return s.record(ctx, event.OrderID)
}

// notClaimed decides what to do when the receipt is sent or another sender has the lease.
func (s *Service) notClaimed(ctx context.Context, event outbox.Event) error {
	row, err := s.db.GetReceipt(ctx, notifydb.GetReceiptParams{OrderID: event.OrderID, Kind: kindPaid})
	if err != nil {
		return transient(fmt.Errorf("read the receipt: %w", err))
	}
	if row.SentAt != nil {
		s.stopped(ctx, event, "database", timeline.ReceiptSent)
		return nil
	}
	s.recorder.Stopped(event.OrderID, timeline.Stop{Kind: timeline.ReceiptLeased})
	wait := time.Duration(row.LeaseSeconds * float64(time.Second))
	return &outbox.RetryError{After: max(wait, time.Second), Err: dedup.ErrBusy}
}

// send hands the mail to the mail server.
func (s *Service) send(ctx context.Context, event outbox.Event) error {
	message, err := s.compose(ctx, event)
	if err != nil {
		return err
	}
	err = s.mailer.Send(ctx, message)
	if err != nil && !errors.Is(err, ErrRejected) {
		return &outbox.RetryError{After: smtpRetry, Err: err}
	}
	return err
}

func (s *Service) compose(ctx context.Context, event outbox.Event) (Message, error) {
	order, err := s.orders.Get(ctx, event.OrderID)
	if err != nil {
		return Message{}, transient(err)
	}
	receipt := Receipt{OrderID: order.ID.String(), ShopName: s.shop.Name, ShopURL: s.shop.URL, Email: order.Email,
		PaidAt: event.CreatedAt, Currency: order.Currency, Total: order.Total}
	for _, l := range order.Lines {
		receipt.Lines = append(receipt.Lines, ReceiptLine{
			SKU: l.SKU, Name: l.Name, Quantity: l.Quantity, UnitPrice: l.UnitPrice, Amount: l.Amount})
	}
	return receipt.Message(s.shop.From, s.shop.Host)
}

// record marks the receipt as sent. It retries until shortly before the lease ends, because another
// node would then send the mail again.
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
			return transient(fmt.Errorf("record the sent receipt: %w", err))
		case <-time.After(recordRetry):
		}
	}
}

// stopped counts a receipt that is not sent again.
func (s *Service) stopped(ctx context.Context, event outbox.Event, layer string, kind timeline.Kind) {
	duplicates.WithLabelValues(layer).Inc()
	s.recorder.Stopped(event.OrderID, timeline.Stop{Kind: kind})
	s.log.InfoContext(ctx, "stopped a second receipt", "order_id", event.OrderID, "event_id", event.ID, "layer", layer)
}

// warn logs that a claim was not finished. Its lease ends it.
func (s *Service) warn(ctx context.Context, err error) {
	if err != nil {
		s.log.WarnContext(ctx, "a claim ends by its lease only", "error", err)
	}
}

// transient makes an outage of the database a RetryError, so that it does not lead to dead letters.
func transient(err error) error {
	if pg.IsUnavailable(err) {
		return &outbox.RetryError{After: databaseRetry, Err: err}
	}
	return err
}
