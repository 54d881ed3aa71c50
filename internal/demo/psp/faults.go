package psp

import (
	"context"
	"net/http"
)

// fault is how the provider fails the first try of a key.
type fault int

const (
	noFault fault = iota
	hangs         // never answers
	fails         // answers 500
)

// refunding is how a capture's refunds go.
type refunding int

const (
	atOnce      refunding = iota
	refused               // with a 402; nothing is held
	settlesLate           // pending, and succeeded after Config.RefundSettles
	failsLate             // pending, and failed after Config.RefundFails
)

// behavior is what a payment method makes the provider do. Slowness, faults and ways of delivery
// happen on the first try of a key only; a later try gets the stored truth at once.
type behavior struct {
	decline      string    // decline code; empty: the capture succeeds
	asks         bool      // the buyer approves or refuses on the provider's page
	refunds      refunding // how refunds of the capture go
	disputed     bool      // a dispute opens Config.DisputeOpens after the capture
	before       fault     // before a capture: nothing is captured
	after        fault     // after a capture: money has moved, the answer is lost
	slow         bool      // money has moved, the answer comes after Config.Slow
	lateWebhook  bool      // the capture's event is sent after Config.LateWebhook
	webhookFirst bool      // one delivery of the event is over before the answer
	storm        bool      // every event is delivered stormCopies times, shuffled
}

// behaviors lists every payment method. slow, webhookFirst and storm hold for a capture's
// refunds too.
var behaviors = map[string]behavior{
	"pm_ok":                     {},
	"pm_declined":               {decline: "card_declined"},
	"pm_insufficient_funds":     {decline: "insufficient_funds"},
	"pm_timeout_before_capture": {before: hangs},
	"pm_timeout_after_capture":  {after: hangs},
	"pm_timeout_late_webhook":   {after: hangs, lateWebhook: true},
	"pm_error_before_capture":   {before: fails},
	"pm_error_after_capture":    {after: fails},
	"pm_slow":                   {slow: true},
	"pm_webhook_first":          {webhookFirst: true},
	"pm_webhook_storm":          {storm: true},
	"pm_requires_action":        {asks: true},
	"pm_refund_refused":         {refunds: refused},
	"pm_refund_pending":         {refunds: settlesLate},
	"pm_refund_fails_later":     {refunds: failsLate},
	"pm_disputed":               {disputed: true},
}

// strike plays f: nil for noFault, a 500 for fails; for hangs it does not return.
func (s *Server) strike(ctx context.Context, f fault) error {
	switch f {
	case noFault:
	case hangs:
		s.hang(ctx)
	case fails:
		return newProblem(http.StatusInternalServerError, "internal",
			"the provider failed, as the payment method asked; ask again with the same key")
	}
	return nil
}
