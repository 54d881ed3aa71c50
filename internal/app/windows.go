package app

import (
	"errors"
	"fmt"
	"time"

	"github.com/onceshop/onceshop/internal/outbox/broker"
)

// Windows are the times that keep a repeat from having a second effect. They must nest: see Check.
type Windows struct {
	// ProviderTimeout bounds one call to the payment provider.
	ProviderTimeout time.Duration `env:"SHOP_PROVIDER_TIMEOUT" envDefault:"5s"`
	// ChargeLease is how long one worker may hold a charge or refund.
	ChargeLease time.Duration `env:"SHOP_CHARGE_LEASE" envDefault:"15s"`
	// ReconcileHorizon is how long an unknown charge may be sent again under its key.
	ReconcileHorizon time.Duration `env:"SHOP_RECONCILE_HORIZON" envDefault:"12h"`
	// ProviderKeyLifetime is how long the provider remembers an idempotency key.
	ProviderKeyLifetime time.Duration `env:"SHOP_PROVIDER_KEY_LIFETIME" envDefault:"24h"`
	// RelayLease is the age at which another relay publishes the events of one that died.
	RelayLease time.Duration `env:"SHOP_RELAY_LEASE" envDefault:"30s"`
	// DuplicateWindow is how long the broker remembers a message id.
	DuplicateWindow time.Duration `env:"SHOP_DUPLICATE_WINDOW" envDefault:"10m"`
	// StreamMaxAge is how long the broker keeps an event, and so how late it can deliver it again.
	StreamMaxAge time.Duration `env:"SHOP_STREAM_MAX_AGE" envDefault:"168h"`
	// ReceiptMemory is how long a receipt is remembered that was sent or given up, and so how late
	// its event may come again. Zero is forever, as for the three below.
	ReceiptMemory time.Duration `env:"SHOP_RECEIPT_MEMORY" envDefault:"4320h"`
	// OutboxMemory is how long an event is kept after it was sent.
	OutboxMemory time.Duration `env:"SHOP_OUTBOX_MEMORY" envDefault:"2160h"`
	// ProviderEventMemory is how long an event of the provider is kept that was applied or
	// dismissed.
	ProviderEventMemory time.Duration `env:"SHOP_PROVIDER_EVENT_MEMORY" envDefault:"2160h"`
	// StoppedTwinMemory is how long timelines show a duplicate that was stopped.
	StoppedTwinMemory time.Duration `env:"SHOP_STOPPED_TWIN_MEMORY" envDefault:"2160h"`
	// OrderExpiry is how long an unpaid order keeps its stock.
	OrderExpiry time.Duration `env:"SHOP_ORDER_EXPIRY" envDefault:"30m"`
}

const (
	// leastOutboxMemory is how far back `shop recover` compares the outbox with the stream.
	leastOutboxMemory = 7 * 24 * time.Hour
	// providerRepeats is how long a provider may send an event again: Stripe keeps them for 30
	// days, and sends any of them on request.
	providerRepeats = 30 * 24 * time.Hour
)

// settleMargin is the time for the transactions around a provider call.
const settleMargin = 5 * time.Second

// Check reports every pair of settings that would let a repeat have a second effect.
func (w Windows) Check() error {
	var wrong []error
	check := func(holds bool, format string, args ...any) {
		if !holds {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	for name, value := range map[string]time.Duration{
		"SHOP_PROVIDER_TIMEOUT": w.ProviderTimeout,
		"SHOP_RELAY_LEASE":      w.RelayLease,
		"SHOP_ORDER_EXPIRY":     w.OrderExpiry,
	} {
		check(value > 0, "%s (%s) must be above zero", name, value)
	}
	check(w.ChargeLease > w.ProviderTimeout+settleMargin,
		"SHOP_CHARGE_LEASE (%s) must be longer than SHOP_PROVIDER_TIMEOUT (%s) and %s: or two workers ask for one "+
			"charge", w.ChargeLease, w.ProviderTimeout, settleMargin)
	check(w.ReconcileHorizon >= w.ChargeLease,
		"SHOP_RECONCILE_HORIZON (%s) must not be shorter than SHOP_CHARGE_LEASE (%s): or no unknown charge is asked "+
			"for again", w.ReconcileHorizon, w.ChargeLease)
	check(w.ReconcileHorizon+w.ChargeLease <= w.ProviderKeyLifetime,
		"SHOP_RECONCILE_HORIZON (%s) must be shorter than SHOP_PROVIDER_KEY_LIFETIME (%s), by SHOP_CHARGE_LEASE (%s) "+
			"at least: or a forgotten key charges twice", w.ReconcileHorizon, w.ProviderKeyLifetime, w.ChargeLease)
	check(w.OrderExpiry > w.ChargeLease,
		"SHOP_ORDER_EXPIRY (%s) must be longer than SHOP_CHARGE_LEASE (%s): or an order expires while it is being paid",
		w.OrderExpiry, w.ChargeLease)
	check(w.DuplicateWindow >= 2*w.RelayLease,
		"SHOP_DUPLICATE_WINDOW (%s) must be at least twice SHOP_RELAY_LEASE (%s): or a repeated event is stored twice",
		w.DuplicateWindow, w.RelayLease)
	check(w.StreamMaxAge >= w.DuplicateWindow,
		"SHOP_STREAM_MAX_AGE (%s) must not be shorter than SHOP_DUPLICATE_WINDOW (%s): the broker refuses such a "+
			"stream", w.StreamMaxAge, w.DuplicateWindow)
	return errors.Join(append(wrong, w.checkMemories())...)
}

// checkMemories reports every memory that would let a repeat find no row.
func (w Windows) checkMemories() error {
	var wrong []error
	check := func(memory time.Duration, holds bool, format string, args ...any) {
		if memory != 0 && !holds {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	check(w.OutboxMemory, w.OutboxMemory >= max(w.StreamMaxAge+w.DuplicateWindow, leastOutboxMemory),
		"SHOP_OUTBOX_MEMORY (%s) must be longer than SHOP_STREAM_MAX_AGE (%s), by SHOP_DUPLICATE_WINDOW (%s) at "+
			"least, and %s or more: or the stream holds events that the outbox does not; 0 is forever",
		w.OutboxMemory, w.StreamMaxAge, w.DuplicateWindow, leastOutboxMemory)
	// An event can enter the stream again when the broker lost it, and as a retried dead letter.
	late := 3*w.StreamMaxAge + broker.DeadAge
	check(w.ReceiptMemory, w.ReceiptMemory >= late,
		"SHOP_RECEIPT_MEMORY (%s) must be three times SHOP_STREAM_MAX_AGE (%s) and %s for dead letters, %s, or more: "+
			"or a late delivery sends a second receipt; 0 is forever", w.ReceiptMemory, w.StreamMaxAge,
		broker.DeadAge, late)
	check(w.ReceiptMemory, w.OutboxMemory != 0 && w.ReceiptMemory >= w.OutboxMemory,
		"SHOP_RECEIPT_MEMORY (%s) must not be shorter than SHOP_OUTBOX_MEMORY (%s, and 0 is forever): a receipt is "+
			"kept as long as its event", w.ReceiptMemory, w.OutboxMemory)
	check(w.ProviderEventMemory, w.ProviderEventMemory >= providerRepeats,
		"SHOP_PROVIDER_EVENT_MEMORY (%s) must be %s or more: the provider may send an event again until then; 0 is "+
			"forever", w.ProviderEventMemory, providerRepeats)
	check(w.StoppedTwinMemory, w.StoppedTwinMemory > 0,
		"SHOP_STOPPED_TWIN_MEMORY (%s) must not be negative; 0 is forever", w.StoppedTwinMemory)
	return errors.Join(wrong...)
}
