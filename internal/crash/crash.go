// Package crash lets a test or a torture run kill the process at a named place: where a machine that loses power would stop it.
package crash

import (
	"os"
	"slices"
	"syscall"
	"time"
)

// Point names a place between two steps of a flow, as FLOW.STEP: the step has just been done, or is just about to be when the name says before.
type Point string

// The boundaries of the flows; see Where. What must happen at each is in docs/failure-table.md.
const (
	PlaceBeforeCommit Point = "place.before-commit"
	PlaceCommitted    Point = "place.committed"

	ChargeStarted  Point = "charge.started"
	ChargeCaptured Point = "charge.captured"
	ChargeSettled  Point = "charge.settled"

	RefundStarted Point = "refund.started"
	RefundGiven   Point = "refund.given"
	RefundSettled Point = "refund.settled"

	CancelCommitted Point = "cancel.committed"
	WebhookApplied  Point = "webhook.applied"
	ReconcileBegun  Point = "reconcile.begun"

	RelayClaimed   Point = "relay.claimed"
	RelayPublished Point = "relay.published"

	ReceiptClaimed  Point = "receipt.claimed"
	ReceiptAccepted Point = "receipt.accepted"
	ReceiptRecorded Point = "receipt.recorded"
)

// places are all points, in the order of the flows.
var places = []struct {
	point Point
	where string
}{
	{PlaceBeforeCommit, "everything of the order is written, nothing is committed"},
	{PlaceCommitted, "the order stands, its buyer has no answer"},
	{ChargeStarted, "the attempt stands, the provider was not asked"},
	{ChargeCaptured, "the provider has answered, the answer is not stored"},
	{ChargeSettled, "the charge is final, its buyer has no answer"},
	{RefundStarted, "the refund stands, the provider was not asked"},
	{RefundGiven, "the provider has answered, the answer is not stored"},
	{RefundSettled, "the refund is final, its caller has no answer"},
	{CancelCommitted, "the order has ended, its refund was not asked for"},
	{WebhookApplied, "the provider's event took effect, the provider was not told"},
	{ReconcileBegun, "unsettled charges and refunds are leased, the provider was not asked"},
	{RelayClaimed, "events are leased, none is published"},
	{RelayPublished, "the broker has the events, none is marked"},
	{ReceiptClaimed, "the sender holds the receipt, the mail server knows nothing"},
	{ReceiptAccepted, "the mail server has said 250, nothing records it"},
	{ReceiptRecorded, "the receipt is recorded, its event is not acknowledged"},
}

// Points returns all of them, in the order of the flows.
func Points() []Point {
	all := make([]Point, len(places))
	for i, p := range places {
		all[i] = p.point
	}
	return all
}

// Where says what has happened at the point, and what has not.
func (p Point) Where() string {
	for _, place := range places {
		if place.point == p {
			return place.where
		}
	}
	return ""
}

// Env is the environment variable that names the point to die at. EnvAfter is a time such as 3s that the process lives at least.
const (
	Env      = "SHOP_CRASH_AT"
	EnvAfter = "SHOP_CRASH_AFTER"
)

var (
	armed = Point(os.Getenv(Env))
	begin = time.Now()
	after = parse(os.Getenv(EnvAfter))
)

// parse takes what is no time for none: who arms a process sees when it dies.
func parse(text string) time.Duration {
	after, _ := time.ParseDuration(text)
	return after
}

// Armed returns the point that this process will die at, "" for none. It is not ok if there is no such point.
func Armed() (point Point, ok bool) {
	return armed, armed == "" || slices.Contains(Points(), armed)
}

// At kills the process if it was started to die here. No deferred function runs and nothing is flushed, as with SIGKILL from outside.
func At(point Point) {
	if point == armed && time.Since(begin) >= after {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}
}
