package timeline

import (
	"cmp"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/money"
	"github.com/onceshop/onceshop/internal/timeline/internal/timelinedb"
)

// story collects the events of one order, and the ids that twins of it can be recorded under.
type story struct {
	events   []Event
	subjects []uuid.UUID
}

func (t *story) add(at time.Time, layer, decision, format string, args ...any) {
	t.events = append(t.events, Event{At: at.UTC(), Layer: layer, Decision: decision, Detail: fmt.Sprintf(format, args...)})
}

func hash(key string) string { return dedup.Key(key).Hash() }

func (t *story) placed(row timelinedb.OrderPlacedRow) {
	t.add(row.At, UniqueKey, "first", "The order was placed: its key, with the hash %s, was new.", hash(row.IdempotencyKey))
}

func (t *story) canceled(row timelinedb.CancellationRow) {
	t.add(row.At, UniqueKey, "canceled", "The order was called off, once, under the key with the hash %s.", hash(row.IdempotencyKey))
}

func (t *story) told(row timelinedb.ProviderEventsRow) {
	switch {
	case row.State == "quarantined":
		t.add(row.ReceivedAt, Webhook, "quarantined", "Event %s (%s) changed nothing and waits for an operator: %s.", row.ID, row.Type, row.Reason)
	case row.Settles:
		t.add(row.ReceivedAt, Webhook, "applied", "Event %s (%s) settled the charge.", row.ID, row.Type)
	default:
		t.add(row.ReceivedAt, Webhook, "known", "Event %s (%s) told nothing new.", row.ID, row.Type)
	}
}

func (t *story) charged(row timelinedb.ChargesRow) {
	t.subjects = append(t.subjects, row.ID)
	t.add(row.StartedAt, UniqueKey, "first", "Charge %s was stored before the provider was asked: its key, with the hash %s, was new, and the order had no other live charge.",
		row.ID, hash(row.IdempotencyKey))
	t.add(row.StartedAt, Provider, "asked", "To take %s with %s, under the charge's own id as the key.", money.Format(row.Amount, row.Currency), row.PaymentMethod)
	t.unknown(row.UnknownAt)
	if row.AskedAt.After(row.StartedAt) {
		t.add(row.AskedAt, Provider, "asked again", "Under the same key, so that money moves once.")
	}
	if row.SettledAt == nil {
		return
	}
	if row.Status == "succeeded" {
		t.add(*row.SettledAt, Provider, row.Status, "Capture %s took the money; the charge's attempt was number %d.", value(row.ProviderID), row.Attempt)
		return
	}
	t.add(*row.SettledAt, Provider, row.Status, "No money moved (%s); the charge's attempt was number %d.", value(row.DeclineCode), row.Attempt)
}

func (t *story) unknown(at *time.Time) {
	if at != nil {
		t.add(*at, Provider, "unknown", "No answer that tells whether money moved. Unknown is not failed: the reconciler asks.")
	}
}

var refundCauses = map[string]string{
	"requested": "an admin asked for it",
	"canceled":  "the order was canceled",
	"late":      "the money came when the order had ended",
}

func (t *story) refunded(row timelinedb.RefundsRow) {
	t.subjects = append(t.subjects, row.ID)
	amount := money.Format(row.Amount, row.Currency)
	under := ""
	if row.IdempotencyKey != nil {
		under = fmt.Sprintf("; its key, with the hash %s, was new", hash(*row.IdempotencyKey))
	}
	t.add(row.StartedAt, UniqueKey, "first", "Refund %s of %s was taken off the charge before the provider was asked, because %s%s.", row.ID, amount, refundCauses[row.Cause], under)
	t.unknown(row.UnknownAt)
	if row.SettledAt == nil {
		return
	}
	if row.Status == "succeeded" {
		t.add(*row.SettledAt, Provider, "refunded", "Refund %s gave back %s; the attempt was number %d.", value(row.ProviderID), amount, row.Attempt)
		return
	}
	t.add(*row.SettledAt, Provider, "declined", "The provider refused to give back %s.", amount)
}

var movements = map[string]string{
	"reserved": "%d × %s set aside for the order.",
	"sold":     "%d × %s left with the reservation.",
	"released": "%d × %s back on the shelf: the order ended unpaid.",
	"returned": "%d × %s back on the shelf: the paid order was canceled.",
}

func (t *story) moved(row timelinedb.MovementsRow) {
	t.add(row.CreatedAt, Stock, row.Kind, cmp.Or(movements[row.Kind], "%d × %s"), row.Quantity, row.Sku)
}

func (t *story) published(row timelinedb.OutboxEventsRow) {
	t.subjects = append(t.subjects, row.ID)
	if row.Type == "order.expired" {
		t.add(row.CreatedAt, Expiry, "expired", "Nobody had paid in time, so the order ended.")
	}
	if row.SentAt == nil {
		t.add(row.CreatedAt, Outbox, "waiting", "Event %s (%s) was written with its change; the broker does not have it yet.", row.ID, row.Type)
		return
	}
	t.add(*row.SentAt, Outbox, "sent", "Event %s (%s) is number %d in the stream, under its own id as the message id.", row.ID, row.Type, value(row.StreamSeq))
}

func (t *story) mailed(row timelinedb.ReceiptRow) {
	t.add(row.CreatedAt, Receipt, "claimed", "One sender at a time, by the receipt's row and its lease.")
	if row.SentAt != nil {
		t.add(*row.SentAt, Receipt, "sent", "The receipt went out on attempt %d.", row.Attempt)
	}
}

func (t *story) stopped(row timelinedb.StoppedTwinsRow) {
	if row.Times > 1 {
		row.Detail += fmt.Sprintf(" (%d times)", row.Times)
	}
	t.add(row.At, row.Layer, "stopped", "%s", row.Detail)
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
