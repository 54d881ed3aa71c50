package timeline

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/timeline/internal/timelinedb"
)

// Step is a layer on the way of an order from the buyer's button to the mail, with what it let
// through and the twins that it stopped.
type Step struct {
	Name    StepName
	Passed  int64
	Stopped int64
}

// StepName names a step. Two steps can be a UNIQUE key of the same database.
type StepName string

// The steps, in the order of the way.
const (
	StepBrowser  StepName = "browser"
	StepMemory   StepName = "memory"
	StepKeys     StepName = "keys" // the UNIQUE keys of requests and of the provider's events
	StepProvider StepName = "provider"
	StepOutbox   StepName = "outbox"
	StepBroker   StepName = "broker"
	StepRedis    StepName = "redis"
	StepReceipt  StepName = "receipt"
	StepMail     StepName = "mail"
)

// stepOf is where the way each kind of twin is stopped.
var stepOf = map[Kind]StepName{
	HeldBack:         StepBrowser,
	MemoryReplayed:   StepMemory,
	KeyReplayed:      StepKeys,
	KeyReused:        StepKeys,
	KeyInProgress:    StepKeys,
	OtherChargeLive:  StepKeys,
	OrderPaid:        StepKeys,
	EventSeen:        StepKeys,
	StaleWorker:      StepProvider,
	SettledAlready:   StepProvider,
	SettledMeanwhile: StepProvider,
	BrokerDuplicate:  StepBroker,
	ClaimDone:        StepRedis,
	ClaimBusy:        StepRedis,
	ReceiptSent:      StepReceipt,
	ReceiptLeased:    StepReceipt,
}

// Way returns the steps of an order. Everything that a step lets through but does not happen has
// been stopped by a later one: the last steps have what happened.
func (s *Service) Way(ctx context.Context, orderID uuid.UUID) ([]Step, error) {
	db := timelinedb.New(pg.Patient{Pool: s.pool})
	rows, err := db.CountStopped(ctx, orderID)
	if err != nil {
		return nil, fmt.Errorf("count the order's stopped twins: %w", err)
	}
	passed, err := db.CountPassed(ctx, orderID)
	if err != nil {
		return nil, fmt.Errorf("count what the order's layers let through: %w", err)
	}
	stopped := make(map[StepName]int64)
	var seenEvents int64 // they do not come through the buyer's browser or the memory
	for _, row := range rows {
		stopped[stepOf[Kind(row.Kind)]] += row.Times
		if Kind(row.Kind) == EventSeen {
			seenEvents = row.Times
		}
	}
	requests := 1 + passed.Charges // the order and its payments
	toKeys := requests + stopped[StepKeys] - seenEvents
	// The provider is asked again under the same key when its answer was lost.
	stopped[StepProvider] += passed.AskedAgain
	toReceipt := passed.Receipts + stopped[StepReceipt]
	return []Step{
		{StepBrowser, toKeys + stopped[StepMemory], stopped[StepBrowser]},
		{StepMemory, toKeys, stopped[StepMemory]},
		{StepKeys, requests + passed.ProviderEvents, stopped[StepKeys]},
		{StepProvider, passed.Captures, stopped[StepProvider]},
		{StepOutbox, passed.Events, 0},
		{StepBroker, passed.Published, stopped[StepBroker]},
		{StepRedis, toReceipt, stopped[StepRedis]},
		{StepReceipt, passed.Receipts, stopped[StepReceipt]},
		{StepMail, passed.Mails, 0},
	}, nil
}

// Stopped returns the number of twins that the steps stopped.
func Stopped(way []Step) (n int64) {
	for _, step := range way {
		n += step.Stopped
	}
	return n
}
