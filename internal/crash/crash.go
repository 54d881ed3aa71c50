// Package crash names the points between two steps of a flow at which a test can kill the process,
// to simulate a power failure.
package crash

// Point is a place in a flow, as FLOW.STEP. The step has just been done; a step that begins with
// "before" is about to be done.
type Point string

// The points of the flows. docs/failure-table.md describes what must happen after a crash at each.
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
	WebhookStored   Point = "webhook.stored"
	WebhookApplied  Point = "webhook.applied"
	ReconcileBegun  Point = "reconcile.begun"

	RelayClaimed   Point = "relay.claimed"
	RelayPublished Point = "relay.published"

	ReceiptClaimed  Point = "receipt.claimed"
	ReceiptAccepted Point = "receipt.accepted"
	ReceiptRecorded Point = "receipt.recorded"
)

var at = func(Point) {}

// Install sets what At does. Call it before the service starts.
func Install(f func(Point)) { at = f }

// At marks a point in a flow. It does nothing unless a function is installed.
func At(point Point) { at(point) }
