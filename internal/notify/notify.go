// Package notify sends one receipt by mail for each paid order. The sending itself is
// at-least-once: a crash after the mail server accepted the mail and before that is recorded sends
// it again. Both copies have the same Message-ID, so that mail systems can drop the second.
package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/wneessen/go-mail"

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
	// Remembered is how long Redis remembers that a receipt is sent. The database remembers it
	// forever.
	Remembered = 24 * time.Hour
	// databaseRetry is the delay after a failure of the database.
	databaseRetry = time.Second
	// recordTimeout bounds the record of a result, and recordRetry is the pause between attempts at
	// it.
	recordTimeout = sendLease - SendTimeout
	recordRetry   = 500 * time.Millisecond
	// maxFailures is how often a receipt can fail before it becomes a dead letter. With the pauses
	// from firstPause to maxPause this takes about two days.
	maxFailures = 24
	firstPause  = 10 * time.Second
	maxPause    = 4 * time.Hour
	// maxReason is the longest reason of a failure that a row keeps, in bytes.
	maxReason = 500
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
	tries = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "onceshop_receipt_tries_total",
		Help: "Tries to send a receipt: sent, put_off, held (trouble of the mail server), dead (alert on dead).",
	}, []string{"result"})
)

// Service sends receipts.
type Service struct {
	db     *notifydb.Queries
	orders *orders.Service
	claims *dedup.Claims
	mailer *Mailer
	shop   Shop
	// circuit holds receipts back while the mail server takes none.
	circuit circuit

	recorder *timeline.Recorder
	log      *slog.Logger
}

// Shop is the shop as it appears in a mail. Host is part of every Message-ID and must be the same
// on all nodes.
type Shop struct{ Name, URL, Host, From string }

// New returns a service on the pool's database. The recorder may be nil.
func New(pool *pgxpool.Pool, orders *orders.Service, claims *dedup.Claims, mailer *Mailer, shop Shop,
	recorder *timeline.Recorder, log *slog.Logger) *Service {
	db := notifydb.New(pg.Patient{Pool: pool})
	return &Service{db: db, orders: orders, claims: claims, mailer: mailer, shop: shop,
		recorder: recorder, log: log}
}

// HandlePaid makes the receipt of a paid order stand in its row, which no event is needed for any
// more, and sends it unless it has been sent or the mail server takes no mail. It is the handler of
// orders.EventPaid: any node can call it, any number of times. See docs/decisions.md, D37.
func (s *Service) HandlePaid(ctx context.Context, event outbox.Event) error {
	claim, err := s.claims.Claim(ctx, claimKey(event.OrderID), sendLease)
	switch {
	case errors.Is(err, dedup.ErrDone):
		// Redis saves the write of a claim. It decides nothing: the row can lack the sent mark.
		if row, err := s.get(ctx, event); err == nil && row.SentAt != nil {
			s.stopped(ctx, event, "redis", timeline.ClaimDone)
			return nil
		}
	case errors.Is(err, dedup.ErrBusy):
		s.recorder.Stopped(event.OrderID, timeline.Stop{Kind: timeline.ClaimBusy})
		return s.schedule(ctx, event)
	case err != nil:
		// Redis only saves the trip to the database.
		degraded.Inc()
		s.log.WarnContext(ctx, "going on without Redis", "order_id", event.OrderID, "error", err)
	}
	sent, err := s.sendOnce(ctx, event)
	if err != nil || !sent {
		s.warn(ctx, claim.Release(ctx))
		return err
	}
	crash.At(crash.ReceiptRecorded)
	s.warn(ctx, claim.Done(ctx, Remembered))
	return nil
}

func claimKey(orderID uuid.UUID) string { return "receipt:" + orderID.String() }

// sendOnce sends the receipt if it gets the lease of the receipt's row. It reports whether the
// receipt is sent. After an error there may be no row.
func (s *Service) sendOnce(ctx context.Context, event outbox.Event) (sent bool, err error) {
	if !s.circuit.ready() {
		return false, s.schedule(ctx, event)
	}
	row, err := s.db.ClaimReceipt(ctx, notifydb.ClaimReceiptParams{
		OrderID: event.OrderID, Kind: kindPaid, Lease: sendLease, PaidAt: event.CreatedAt})
	if errors.Is(err, pgx.ErrNoRows) {
		return s.notClaimed(ctx, event)
	}
	if err != nil {
		return false, transient(fmt.Errorf("claim the receipt: %w", err))
	}
	return s.send(ctx, claimed(row)), nil
}

// schedule makes the receipt's row, for the next sender.
func (s *Service) schedule(ctx context.Context, event outbox.Event) error {
	err := s.db.ScheduleReceipt(ctx, notifydb.ScheduleReceiptParams{
		OrderID: event.OrderID, Kind: kindPaid, PaidAt: event.CreatedAt})
	if err != nil {
		return transient(fmt.Errorf("schedule the receipt: %w", err))
	}
	return nil
}

func (s *Service) get(ctx context.Context, event outbox.Event) (notifydb.GetReceiptRow, error) {
	row, err := s.db.GetReceipt(ctx, notifydb.GetReceiptParams{OrderID: event.OrderID, Kind: kindPaid})
	if err != nil {
		return row, transient(fmt.Errorf("read the receipt: %w", err))
	}
	return row, nil
}

// notClaimed reports whether a receipt is sent that could not be claimed.
func (s *Service) notClaimed(ctx context.Context, event outbox.Event) (sent bool, err error) {
	row, err := s.get(ctx, event)
	if err != nil {
		return false, err
	}
	if row.SentAt != nil {
		s.stopped(ctx, event, "database", timeline.ReceiptSent)
		return true, nil
	}
	s.recorder.Stopped(event.OrderID, timeline.Stop{Kind: timeline.ReceiptLeased})
	return false, nil
}

// claimed is a receipt whose lease the caller has.
type claimed notifydb.ClaimReceiptRow

// send sends a claimed receipt, records the result in its row, and reports whether it is sent. A
// result that is not recorded leaves the row to the next sender when the lease ends.
func (s *Service) send(ctx context.Context, r claimed) (sent bool) {
	if !s.circuit.allow() {
		s.putOff(ctx, r, later{failures: r.Failures})
		return false
	}
	crash.At(crash.ReceiptClaimed)
	email, err := s.hand(ctx, r)
	if err == nil {
		crash.At(crash.ReceiptAccepted)
		tries.WithLabelValues("sent").Inc()
		s.circuit.worked()
		return s.record(ctx, r.OrderID)
	}
	next := s.judge(r, err)
	next.reason = reason(err, email)
	s.log.WarnContext(ctx, "a receipt was not sent", "order_id", r.OrderID, "attempt", r.Attempt,
		"failures", next.failures, "dead", next.dead, "after", next.pause, "error", next.reason)
	s.putOff(ctx, r, next)
	return false
}

// hand composes the mail and hands it to the mail server.
func (s *Service) hand(ctx context.Context, r claimed) (email string, err error) {
	order, err := s.orders.Get(ctx, r.OrderID)
	switch {
	case pg.IsUnavailable(err):
		return "", fmt.Errorf("%w: %w", errDatabase, err)
	case err != nil:
		return "", fmt.Errorf("%w: read the order: %w", ErrRejected, err)
	}
	receipt := Receipt{OrderID: order.ID.String(), Number: order.Number(), ShopName: s.shop.Name,
		ShopURL: s.shop.URL, Email: order.Email, PaidAt: r.PaidAt, Currency: order.Currency, Total: order.Total}
	for _, l := range order.Lines {
		receipt.Lines = append(receipt.Lines, ReceiptLine{
			SKU: l.SKU, Name: l.Name, Quantity: l.Quantity, UnitPrice: l.UnitPrice, Amount: l.Amount})
	}
	message, err := receipt.Message(s.shop.From, s.shop.Host)
	if err != nil {
		return order.Email, fmt.Errorf("%w: %w", ErrRejected, err)
	}
	return order.Email, s.mailer.Send(ctx, message)
}

// errDatabase reports that a receipt could not be read.
var errDatabase = errors.New("notify: the database is unavailable")

// later is what becomes of a receipt that was not sent.
type later struct {
	failures int32
	pause    time.Duration
	dead     bool
	reason   string
}

// judge decides what becomes of a receipt after a failure. Trouble of the mail server or of the
// database does not count: the receipt stays due.
func (s *Service) judge(r claimed, err error) later {
	_, answered := errors.AsType[*mail.SendError](err)
	switch {
	case errors.Is(err, errDatabase):
		s.circuit.skipped()
		return later{failures: r.Failures, pause: databaseRetry}
	case errors.Is(err, ErrServer), errors.Is(err, ErrUnclear):
		if s.circuit.failed(errors.Is(err, ErrServer)) {
			tries.WithLabelValues("held").Inc()
			return later{failures: r.Failures}
		}
	case answered:
		s.circuit.worked() // the server took the sender and answered about the recipient
	default:
		s.circuit.skipped()
	}
	failures := r.Failures + 1
	if errors.Is(err, ErrRejected) || failures >= maxFailures {
		tries.WithLabelValues("dead").Inc()
		return later{failures: failures, dead: true}
	}
	tries.WithLabelValues("put_off").Inc()
	return later{failures: failures, pause: pause(failures)}
}

// putOff ends the lease and sets when the receipt is due again. It goes on when ctx has ended.
func (s *Service) putOff(ctx context.Context, r claimed, next later) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), SendTimeout)
	defer cancel()
	s.warn(ctx, s.db.PutOffReceipt(ctx, notifydb.PutOffReceiptParams{OrderID: r.OrderID, Kind: kindPaid,
		Attempt: r.Attempt, Failures: next.failures, Pause: next.pause, LastError: next.reason, Dead: next.dead}))
}

// pause is the time until the next try after that many failures. It doubles with each.
func pause(failures int32) time.Duration {
	longest := min(firstPause<<min(failures-1, 20), maxPause)
	return longest*3/4 + rand.N(longest/4) //nolint:gosec // jitter needs no secrecy
}

// reason is a failure in the words of a row: text that Postgres takes, without the buyer's address.
func reason(err error, email string) string {
	text := err.Error()
	if sent, ok := errors.AsType[*mail.SendError](err); ok {
		text = replyOf(sent)
	}
	if email != "" {
		text = strings.ReplaceAll(text, email, "the buyer")
	}
	text = strings.ReplaceAll(text, "\x00", "")
	return strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
}

// record marks the receipt as sent and reports whether it could. It retries until shortly before
// the lease ends, because another sender would then send the mail again.
func (s *Service) record(ctx context.Context, orderID uuid.UUID) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	for {
		err := s.db.MarkReceiptSent(ctx, notifydb.MarkReceiptSentParams{OrderID: orderID, Kind: kindPaid})
		if err == nil {
			return true
		}
		select {
		case <-ctx.Done():
			s.log.WarnContext(ctx, "a sent receipt was not recorded, and will be sent again",
				"order_id", orderID, "error", err)
			return false
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
