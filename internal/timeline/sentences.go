package timeline

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/money"
	"github.com/onceshop/onceshop/internal/timeline/internal/timelinedb"
)

// stops holds the layer and the sentence of each kind of stop.
var stops = map[Kind]struct{ layer, sentence string }{
	KeyReplayed:    {UniqueKey, "The request to {do} was repeated: the database had its key and its answer."},
	KeyReused:      {UniqueKey, "A different request to {do} used the same key. Nothing was done."},
	KeyInProgress:  {UniqueKey, "The request to {do} was repeated while the first one was still running."},
	MemoryReplayed: {Memory, "The request to {do} was repeated: this node had the answer or was working on it."},
	OtherChargeLive: {UniqueKey, "A request to pay under another key found this charge in progress: " +
		"an order has one live charge."},
	OrderPaid:      {UniqueKey, "A request to pay under another key found the order paid by this charge."},
	EventSeen:      {UniqueKey, "The provider's event {event} ({type}) was delivered again: the database had its id."},
	StaleWorker:    {Fencing, "Attempt {attempt} ended after a later one had taken over, and changed nothing."},
	SettledAlready: {Fencing, "The provider's answer came after the charge had been settled."},
	SettledMeanwhile: {Webhook, "The provider's answer did not come in time. Its event, or the reconciler, settled " +
		"the charge while the buyer waited."},
	BrokerDuplicate: {Broker, "The relay published the event again under the same message id: the stream holds it " +
		"once."},
	ClaimDone:     {Redis, "The paid event was delivered again: Redis had the receipt marked as sent."},
	ClaimBusy:     {Redis, "The paid event was delivered again while another sender held the claim in Redis."},
	ReceiptSent:   {UniqueKey, "The paid event was delivered again: the receipt's row was marked as sent."},
	ReceiptLeased: {UniqueKey, "The paid event was delivered again while another sender held the receipt's row."},
}

// requests holds the verb of each operation.
var requests = map[string]string{
	"orders":        "order",
	"charges":       "pay",
	"refunds":       "refund",
	"cancellations": "cancel",
	"deliveries":    "book a delivery",
	"operations":    "decide by hand",
}

// Layer returns the layer that makes this kind of stop.
func (k Kind) Layer() string { return stops[k].layer }

// sentence describes the stop.
func (s Stop) sentence() string {
	return strings.NewReplacer("{do}", requests[s.Operation], "{event}", s.EventID, "{type}", s.EventType,
		"{attempt}", fmt.Sprint(s.Attempt)).Replace(stops[s.Kind].sentence)
}

// story collects the events of one order and the subjects under which its twins are recorded.
type story struct {
	events   []Event
	subjects []uuid.UUID
	// operators is whether the reader is an operator, who sees names and reasons too.
	operators bool
}

func (t *story) add(at time.Time, layer, decision, format string, args ...any) {
	event := Event{At: at.UTC(), Layer: layer, Decision: decision, Detail: fmt.Sprintf(format, args...)}
	t.events = append(t.events, event)
}

func hash(key string) string { return dedup.Key(key).Hash() }

func (t *story) placed(row timelinedb.OrderPlacedRow) {
	t.add(row.At, UniqueKey, "first", "The order was placed: its key, with the hash %s, was new.",
		hash(row.IdempotencyKey))
}

func (t *story) canceled(row timelinedb.CancellationRow) {
	t.add(row.At, UniqueKey, "canceled", "The order was canceled once, under the key with the hash %s.%s",
		hash(row.IdempotencyKey), t.by(row.Operator, ""))
}

// by names an operator and the reason to operators.
func (t *story) by(operator, reason string) string {
	switch {
	case !t.operators || operator == "":
		return ""
	case reason == "":
		return fmt.Sprintf(" By %s.", operator)
	}
	return fmt.Sprintf(" By %s: “%s”", operator, reason)
}

// operatorActions holds the sentence of each action.
var operatorActions = map[string]string{
	"charge captured":     "Charge %s was settled by hand: the provider took the money.",
	"charge not captured": "Charge %s was settled by hand: no money moved.",
	"refund succeeded":    "Refund %s was settled by hand: the provider gave the money back.",
	"refund failed":       "Refund %s was settled by hand: no money went back.",
	"dispute won":         "Dispute %s was closed by hand: the shop keeps the money.",
	"dispute lost":        "Dispute %s was closed by hand: the bank took the money back.",
	"return retried":      "What charge %s owes was made due again.",
	"debt ended":          "What charge %s owes was ended without a refund.",
	"event applied":       "Event %s was made due again.",
	"event dismissed":     "Event %s was dismissed and changes nothing.",
}

func (t *story) operated(row timelinedb.OperatorActionsRow) {
	t.subjects = append(t.subjects, row.ID)
	decided := fmt.Sprintf(operatorActions[row.Action], row.Subject)
	t.add(row.CreatedAt, Operator, row.Action, "%s Its key, with the hash %s, was new.%s", decided,
		hash(row.IdempotencyKey), t.by(row.Operator, row.Reason))
}

func (t *story) webhook(row timelinedb.ProviderEventsRow) {
	switch {
	case row.State == "quarantined":
		t.add(row.ReceivedAt, Webhook, "quarantined", "Event %s (%s) changed nothing and waits for an operator: %s.",
			row.ID, row.Type, row.Reason)
	case row.State == "received":
		t.add(row.ReceivedAt, Webhook, "waiting", "Event %s (%s) came early and is tried again.", row.ID, row.Type)
	case row.State == "dismissed":
		t.add(row.ReceivedAt, Webhook, "dismissed", "Event %s (%s) changed nothing.", row.ID, row.Type)
	case row.Settles:
		t.add(row.ReceivedAt, Webhook, "applied", "Event %s (%s) settled the charge.", row.ID, row.Type)
	default:
		t.add(row.ReceivedAt, Webhook, "known", "Event %s (%s) contained nothing new.", row.ID, row.Type)
	}
}

func (t *story) charge(row timelinedb.ChargesRow) {
	t.subjects = append(t.subjects, row.ID)
	t.add(row.StartedAt, UniqueKey, "first", "Charge %s was stored before the provider was asked: its key, "+
		"with the hash %s, was new, and the order had no other live charge.", row.ID, hash(row.IdempotencyKey))
	t.add(row.StartedAt, Provider, "asked", "To take %s with %s, under the charge's own id as the key.",
		money.Format(row.Amount, row.Currency), row.PaymentMethod)
	t.unknown(row.UnknownAt)
	if row.AskedAt.After(row.StartedAt) {
		t.add(row.AskedAt, Provider, "asked again", "Under the same key, so that money moves once.")
	}
	switch {
	case row.SettledAt == nil && row.Status == "requires_action":
		t.add(row.AskedAt, Provider, "waiting", "The buyer has to confirm the payment at the provider first.")
	case row.SettledAt == nil:
	case row.Status == "succeeded" && !row.Pays:
		t.add(*row.SettledAt, Provider, "too late", "Capture %s took the money, on attempt %d, too late to pay for "+
			"the order. It goes back.", value(row.ProviderID), row.Attempt)
	case row.Status == "succeeded":
		t.add(*row.SettledAt, Provider, row.Status, "Capture %s took the money, on attempt %d.",
			value(row.ProviderID), row.Attempt)
	default:
		t.add(*row.SettledAt, Provider, row.Status, "No money moved (%s), on attempt %d.",
			value(row.DeclineCode), row.Attempt)
	}
}

func (t *story) unknown(at *time.Time) {
	if at != nil {
		t.add(*at, Provider, "unknown", "The outcome is unknown, which is not failed: money may have moved. "+
			"The reconciler asks again.")
	}
}

var refundCauses = map[string]string{
	"requested": "an admin asked for it",
	"canceled":  "the order was canceled",
	"late":      "the money came too late to pay for the order",
}

func (t *story) refund(row timelinedb.RefundsRow) {
	t.subjects = append(t.subjects, row.ID)
	amount := money.Format(row.Amount, row.Currency)
	if row.Cause == "outside" {
		t.add(row.StartedAt, Provider, "refund found", "The provider made refund %s of %s without us.",
			value(row.ProviderID), amount)
		t.refunded(row, amount)
		return
	}
	under := ""
	if row.IdempotencyKey != nil {
		under = fmt.Sprintf("; its key, with the hash %s, was new", hash(*row.IdempotencyKey))
	}
	t.add(row.StartedAt, UniqueKey, "first", "Refund %s of %s was booked before the provider was asked, "+
		"because %s%s.%s", row.ID, amount, refundCauses[row.Cause], under, t.by(row.Operator, row.Reason))
	t.unknown(row.UnknownAt)
	t.refunded(row, amount)
}

// refunded adds what the provider made of a refund.
func (t *story) refunded(row timelinedb.RefundsRow, amount string) {
	switch {
	case row.SettledAt == nil && row.ProviderID == nil:
	case row.SettledAt == nil:
		t.add(row.AskedAt, Provider, "waiting", "The provider works on refund %s. The reconciler asks for its end.",
			*row.ProviderID)
	case row.Status == "succeeded":
		t.add(*row.SettledAt, Provider, "refunded", "Refund %s gave back %s, on attempt %d.",
			value(row.ProviderID), amount, row.Attempt)
	default:
		t.add(*row.SettledAt, Provider, "failed", "The provider did not give back %s (%s).", amount,
			cmp.Or(value(row.FailureCode), "without a reason"))
	}
}

func (t *story) dispute(row timelinedb.DisputesRow) {
	t.add(row.OpenedAt, Provider, "disputed", "The buyer disputes %s at the bank (%s). Nothing is refunded meanwhile.",
		money.Format(row.Amount, row.Currency), row.ID)
	if row.ClosedAt != nil {
		t.add(*row.ClosedAt, Provider, "dispute "+row.Status, "The dispute %s is over.", row.ID)
	}
}

var movements = map[string]string{
	"reserved": "%d × %s reserved for the order.",
	"sold":     "%d × %s sold from the reservation.",
	"released": "%d × %s returned to stock: the order ended unpaid.",
	"returned": "%d × %s returned to stock: the paid order was canceled.",
}

func (t *story) movement(row timelinedb.MovementsRow) {
	t.add(row.CreatedAt, Stock, row.Kind, cmp.Or(movements[row.Kind], "%d × %s"), row.Quantity, row.Sku)
}

func (t *story) outboxEvent(row timelinedb.OutboxEventsRow) {
	t.subjects = append(t.subjects, row.ID)
	if row.Type == "order.expired" {
		t.add(row.CreatedAt, Expiry, "expired", "The order was not paid in time.")
	}
	if row.SentAt == nil {
		t.add(row.CreatedAt, Outbox, "waiting", "Event %s (%s) was written with its change and waits for the relay.",
			row.ID, row.Type)
		return
	}
	t.add(*row.SentAt, Outbox, "sent", "Event %s (%s) is number %d in the stream, with its own id as the message id.",
		row.ID, row.Type, value(row.StreamSeq))
}

func (t *story) receipt(row timelinedb.ReceiptRow) {
	t.add(row.CreatedAt, Receipt, "claimed", "The receipt's row and its lease allow one sender at a time.")
	if row.SentAt != nil {
		t.add(*row.SentAt, Receipt, "sent", "The receipt was sent on attempt %d.", row.Attempt)
	}
}

func (t *story) stop(row timelinedb.StoppedTwinsRow) {
	stop := Stop{Kind(row.Kind), row.Operation, row.EventID, row.EventType, row.Attempt}
	times := ""
	if row.Times > 1 {
		times = fmt.Sprintf(" (%d times)", row.Times)
	}
	t.add(row.At, stop.Kind.Layer(), "stopped", "%s%s", stop.sentence(), times)
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
