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
	HeldBack:       {Browser, "The button was pressed again while its form was in flight: the page sent nothing."},
	KeyReplayed:    {UniqueKey, "The request to {do} was repeated: the database had its key and its answer."},
	KeyReused:      {UniqueKey, "A different request to {do} used the same key. Nothing was done."},
	KeyInProgress:  {UniqueKey, "The request to {do} was repeated while the first one was still running."},
	MemoryReplayed: {Memory, "The request to {do} was repeated: this node had the answer or was working on it."},
	OtherChargeLive: {UniqueKey, "A request to pay under another key found this charge in progress: " +
		"an order has one live charge."},
	OrderPaid:      {UniqueKey, "A request to pay under another key found the order paid by this charge."},
	EventSeen:      {UniqueKey, "The provider's event ({type}) was delivered again: the database had its id."},
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
	return strings.NewReplacer("{do}", requests[s.Operation], "{type}", s.EventType,
		"{attempt}", fmt.Sprint(s.Attempt)).Replace(stops[s.Kind].sentence)
}

// story collects the events of one order and the subjects under which its twins are recorded.
type story struct {
	events   []Event
	subjects []uuid.UUID
	// operators is whether the reader is an operator, who sees names and reasons too.
	operators bool
}

func (t *story) add(at time.Time, group Group, layer, decision string, ids []string, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	t.events = append(t.events, Event{At: at.UTC(), Group: group, Layer: layer, Decision: decision, Text: text,
		IDs: ids, Detail: detail(text, ids)})
}

func detail(text string, ids []string) string {
	if len(ids) == 0 {
		return text
	}
	return text + " (" + strings.Join(ids, ", ") + ")"
}

// named returns the ids of an event, without those that are empty, as "charge 0192…".
func named(pairs ...any) (ids []string) {
	for i := 0; i < len(pairs); i += 2 {
		if id := fmt.Sprint(pairs[i+1]); id != "" { //nolint:gosec // there are pairs
			ids = append(ids, fmt.Sprintf("%s %s", pairs[i], id))
		}
	}
	return ids
}

func hash(key string) string { return dedup.Key(key).Hash() }

func (t *story) placed(row timelinedb.OrderPlacedRow) {
	t.add(row.At, AboutOrder, UniqueKey, "first", named("hash of the key", hash(row.IdempotencyKey)),
		"The order was placed: its key was new.")
}

func (t *story) canceled(row timelinedb.CancellationRow) {
	t.add(row.At, AboutOrder, UniqueKey, "canceled", named("hash of the key", hash(row.IdempotencyKey)),
		"The order was canceled once: the key of the request was new.%s", t.by(row.Operator, ""))
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
	"charge captured":     "The charge was settled by hand: the provider took the money.",
	"charge not captured": "The charge was settled by hand: no money moved.",
	"refund succeeded":    "The refund was settled by hand: the provider gave the money back.",
	"refund failed":       "The refund was settled by hand: no money went back.",
	"dispute won":         "The dispute was closed by hand: the shop keeps the money.",
	"dispute lost":        "The dispute was closed by hand: the bank took the money back.",
	"return retried":      "What the charge owes was made due again.",
	"debt ended":          "What the charge owes was ended without a refund.",
	"event applied":       "The provider's event was made due again.",
	"event dismissed":     "The provider's event was dismissed and changes nothing.",
}

func (t *story) operated(row timelinedb.OperatorActionsRow) {
	t.subjects = append(t.subjects, row.ID)
	t.add(row.CreatedAt, AboutPayment, Operator, row.Action,
		named("about", row.Subject, "hash of the key", hash(row.IdempotencyKey)),
		"%s The key of the action was new.%s", operatorActions[row.Action], t.by(row.Operator, row.Reason))
}

func (t *story) webhook(row timelinedb.ProviderEventsRow) {
	decision, became := "known", "contained nothing new"
	switch {
	case row.State == "quarantined":
		decision, became = row.State, "changed nothing and waits for an operator: "+row.Reason
	case row.State == "received":
		decision, became = "waiting", "came early and is tried again"
	case row.State == "dismissed":
		decision, became = row.State, "changed nothing"
	case row.Settles:
		decision, became = "applied", "settled the charge"
	}
	t.add(row.ReceivedAt, AboutPayment, Webhook, decision, named("event", row.ID), "The provider's event (%s) %s.",
		row.Type, became)
}

func (t *story) charge(row timelinedb.ChargesRow) {
	t.subjects = append(t.subjects, row.ID)
	charge := named("charge", row.ID)
	t.add(row.StartedAt, AboutPayment, UniqueKey, "first",
		named("charge", row.ID, "hash of the key", hash(row.IdempotencyKey)),
		"The charge was stored before the provider was asked: its key was new, and the order had no other live charge.")
	t.add(row.StartedAt, AboutPayment, Provider, "asked", charge,
		"To take %s with %s, under the charge's own id as the key.", money.Format(row.Amount, row.Currency),
		row.PaymentMethod)
	t.unknown(row.UnknownAt, charge)
	if row.AskedAt.After(row.StartedAt) {
		t.add(row.AskedAt, AboutPayment, Provider, "asked again", charge,
			"Under the same key, so that money moves once.")
	}
	if row.SettledAt == nil {
		if row.Status == "requires_action" {
			t.add(row.AskedAt, AboutPayment, Provider, "waiting", charge,
				"The buyer has to confirm the payment at the provider first.")
		}
		return
	}
	decision, text := row.Status, "The provider took the money, on attempt {attempt}."
	switch {
	case row.Status != "succeeded":
		text = "No money moved ({code}), on attempt {attempt}."
	case !row.Pays:
		decision = "too late"
		text = "The provider took the money, on attempt {attempt}, too late to pay for the order. It goes back."
	case row.UnknownAt != nil && row.Attempt == 1:
		text = "The provider took the money. Its answer never came, but its event did."
	case row.UnknownAt != nil:
		text = "The provider took the money, once. Its first answer never came, so the shop asked again under the " +
			"same key, on attempt {attempt}."
	}
	t.add(*row.SettledAt, AboutPayment, Provider, decision, named("charge", row.ID, "capture", value(row.ProviderID)),
		"%s", strings.NewReplacer("{attempt}", fmt.Sprint(row.Attempt), "{code}", value(row.DeclineCode)).Replace(text))
}

func (t *story) unknown(at *time.Time, ids []string) {
	if at != nil {
		t.add(*at, AboutPayment, Provider, "unknown", ids, "No answer came. The outcome is unknown, which is not "+
			"failed: money may have moved. The reconciler asks again.")
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
		t.add(row.StartedAt, AboutPayment, Provider, "refund found", named("refund", value(row.ProviderID)),
			"The provider made a refund of %s without us.", amount)
		t.refunded(row, amount)
		return
	}
	under, ids := "", named("refund", row.ID)
	if row.IdempotencyKey != nil {
		under, ids = "; its key was new", named("refund", row.ID, "hash of the key", hash(*row.IdempotencyKey))
	}
	t.add(row.StartedAt, AboutPayment, UniqueKey, "first", ids, "The refund of %s was booked before the provider was "+
		"asked, because %s%s.%s", amount, refundCauses[row.Cause], under, t.by(row.Operator, row.Reason))
	t.unknown(row.UnknownAt, named("refund", row.ID))
	t.refunded(row, amount)
}

// refunded adds what the provider made of a refund.
func (t *story) refunded(row timelinedb.RefundsRow, amount string) {
	ids := named("refund", row.ID, "at the provider", value(row.ProviderID))
	switch {
	case row.SettledAt == nil && row.ProviderID == nil:
	case row.SettledAt == nil:
		t.add(row.AskedAt, AboutPayment, Provider, "waiting", ids,
			"The provider works on the refund. The reconciler asks for its end.")
	case row.Status == "succeeded":
		t.add(*row.SettledAt, AboutPayment, Provider, "refunded", ids, "The provider gave back %s, on attempt %d.",
			amount, row.Attempt)
	default:
		t.add(*row.SettledAt, AboutPayment, Provider, "failed", ids, "The provider did not give back %s (%s).", amount,
			cmp.Or(value(row.FailureCode), "without a reason"))
	}
}

func (t *story) dispute(row timelinedb.DisputesRow) {
	ids := named("dispute", row.ID)
	t.add(row.OpenedAt, AboutPayment, Provider, "disputed", ids,
		"The buyer disputes %s at the bank. Nothing is refunded meanwhile.", money.Format(row.Amount, row.Currency))
	if row.ClosedAt != nil {
		t.add(*row.ClosedAt, AboutPayment, Provider, "dispute "+row.Status, ids, "The dispute is over.")
	}
}

var movements = map[string]string{
	"reserved": "%d × %s reserved for the order.",
	"sold":     "%d × %s sold from the reservation.",
	"released": "%d × %s returned to stock: the order ended unpaid.",
	"returned": "%d × %s returned to stock: the paid order was canceled.",
}

func (t *story) movement(row timelinedb.MovementsRow) {
	t.add(row.CreatedAt, AboutStock, Stock, row.Kind, nil, cmp.Or(movements[row.Kind], "%d × %s"),
		row.Quantity, row.Sku)
}

func (t *story) outboxEvent(row timelinedb.OutboxEventsRow) {
	t.subjects = append(t.subjects, row.ID)
	if row.Type == "order.expired" {
		t.add(row.CreatedAt, AboutOrder, Expiry, "expired", nil, "The order was not paid in time.")
	}
	ids := named("event", row.ID)
	if row.SentAt == nil {
		t.add(row.CreatedAt, AboutEvents, Outbox, "waiting", ids,
			"The event %s was written with its change and waits for the relay.", row.Type)
		return
	}
	t.add(*row.SentAt, AboutEvents, Outbox, "sent", ids,
		"The event %s is number %d in the stream, with its own id as the message id.", row.Type, value(row.StreamSeq))
}

func (t *story) receipt(row timelinedb.ReceiptRow) {
	t.add(row.CreatedAt, AboutReceipt, Receipt, "claimed", nil,
		"The receipt's row and its lease allow one sender at a time.")
	if row.SentAt != nil {
		t.add(*row.SentAt, AboutReceipt, Receipt, "sent", nil, "The receipt was sent on attempt %d.", row.Attempt)
	}
}

func (t *story) stop(row timelinedb.StoppedTwinsRow) {
	stop := Stop{Kind(row.Kind), row.Operation, row.EventID, row.EventType, row.Attempt}
	ids := named("event", row.EventID)
	t.add(row.At, stop.group(), stop.Kind.Layer(), "stopped", ids, "%s", stop.sentence())
	stopped := &t.events[len(t.events)-1]
	stopped.Kind, stopped.Times = stop.Kind, row.Times
	if row.Times > 1 {
		stopped.Detail += fmt.Sprintf(" (%d times)", row.Times)
	}
}

// group returns what the stopped twin was about.
func (s Stop) group() Group {
	switch s.Kind {
	case HeldBack:
		return AboutOrder
	case BrokerDuplicate:
		return AboutEvents
	case ClaimDone, ClaimBusy, ReceiptSent, ReceiptLeased:
		return AboutReceipt
	case KeyReplayed, KeyReused, KeyInProgress, MemoryReplayed:
		switch s.Operation {
		case "orders", "cancellations":
			return AboutOrder
		case "deliveries":
			return AboutStock
		}
	default:
	}
	return AboutPayment
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
