// Package kill ends the process at a crash point, for tests and torture runs.
package kill

import (
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/onceshop/onceshop/internal/crash"
)

// Env is the environment variable that names the point at which the process dies. EnvAfter is the
// time that it lives at least, such as 3s.
const (
	Env      = "SHOP_CRASH_AT"
	EnvAfter = "SHOP_CRASH_AFTER"
)

// places are all points, in the order of the flows.
var places = []struct {
	point crash.Point
	where string
}{
	{crash.PlaceBeforeCommit, "everything of the order is written, nothing is committed"},
	{crash.PlaceCommitted, "the order stands, its buyer has no answer"},
	{crash.ChargeStarted, "the attempt stands, the provider was not asked"},
	{crash.ChargeCaptured, "the provider has answered, the answer is not stored"},
	{crash.ChargeSettled, "the charge is final, its buyer has no answer"},
	{crash.RefundStarted, "the refund stands, the provider was not asked"},
	{crash.RefundGiven, "the provider has answered, the answer is not stored"},
	{crash.RefundSettled, "the refund is final, its caller has no answer"},
	{crash.CancelCommitted, "the order has ended, its refund was not asked for"},
	{crash.WebhookStored, "the provider's event stands, nothing of it is applied"},
	{crash.WebhookApplied, "the provider's event took effect, the provider was not told"},
	{crash.ReconcileBegun, "unsettled charges and refunds are leased, the provider was not asked"},
	{crash.RelayClaimed, "events are leased, none is published"},
	{crash.RelayPublished, "the broker has the events, none is marked"},
	{crash.ReceiptClaimed, "the sender holds the receipt, the mail server knows nothing"},
	{crash.ReceiptAccepted, "the mail server has said 250, nothing records it"},
	{crash.ReceiptRecorded, "the receipt is recorded, its event is not acknowledged"},
}

// Points returns all points, in the order of the flows.
func Points() []crash.Point {
	all := make([]crash.Point, len(places))
	for i, p := range places {
		all[i] = p.point
	}
	return all
}

// Where describes the state of the flow at the point.
func Where(point crash.Point) string {
	for _, place := range places {
		if place.point == point {
			return place.where
		}
	}
	return ""
}

// Arm makes this process die at the point that the environment names, if any, and returns the
// point. It fails if there is no such point.
func Arm() (crash.Point, error) {
	point := crash.Point(os.Getenv(Env))
	if point == "" {
		return "", nil
	}
	if !slices.Contains(Points(), point) {
		return "", fmt.Errorf("%s=%s is no crash point: docs/failure-table.md lists them", Env, point)
	}
	after, _ := time.ParseDuration(os.Getenv(EnvAfter))
	begin := time.Now()
	crash.Install(func(p crash.Point) {
		if p == point && time.Since(begin) >= after {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // like a power cut: no deferred function runs
			select {}                                      // until the signal arrives
		}
	})
	return point, nil
}
