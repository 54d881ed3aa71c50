package app

import (
	"context"
	"errors"
	"time"

	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/retain"
)

// openPause is the pause between attempts to reach a broker that is down.
const openPause = time.Second

func (a *App) runRelay(ctx context.Context) error {
	if err := a.openBroker(ctx); err != nil {
		return ended(ctx, err)
	}
	relay := outbox.NewRelay(a.pool, a.broker, a.config.RelayLease, a.recorder, a.log)
	return relay.Run(ctx)
}

func (a *App) runRetention(ctx context.Context) error {
	w := a.config.Windows
	memory := retain.Memory{Events: w.OutboxMemory, Receipts: w.ReceiptMemory, ProviderEvents: w.ProviderEventMemory,
		StoppedTwins: w.StoppedTwinMemory}
	return retain.New(a.pool, memory, time.Now, a.log).Run(ctx)
}

// warnOfEviction logs a warning if Redis may drop claims under memory pressure. The database then
// does more of the work.
func (a *App) warnOfEviction(ctx context.Context) {
	settings, err := a.redis.ConfigGet(ctx, "maxmemory-policy").Result()
	if policy := settings["maxmemory-policy"]; err == nil && policy != "" && policy != "noeviction" {
		a.log.WarnContext(ctx, "REDIS_URL: a Redis that evicts keys forgets who sends a receipt; set "+
			"maxmemory-policy to noeviction", "maxmemory_policy", policy)
	}
}

func (a *App) runReceipts(ctx context.Context) error {
	a.warnOfEviction(ctx)
	return a.consume(ctx, notify.ConsumerName, orders.EventPaid, a.notify.HandlePaid)
}

// claimPrefix begins the names of the cell's keys in Redis.
func claimPrefix(cell string) string {
	if cell == "" {
		return "onceshop:"
	}
	return "onceshop:" + cell + ":"
}

// consume hands each event of the type to the handler, under the name of a durable consumer.
func (a *App) consume(ctx context.Context, name, eventType string, handle func(context.Context, outbox.Event) error,
) error {
	if err := a.openBroker(ctx); err != nil {
		return ended(ctx, err)
	}
	for {
		consumer, err := outbox.NewConsumer(ctx, a.pool, a.broker, name, eventType, handle, a.log)
		if err == nil {
			return consumer.Run(ctx)
		}
		if !a.pause(ctx, err) {
			return ended(ctx, err)
		}
	}
}

// openBroker opens the broker, and waits for it. It returns an error only if ctx has ended, or if
// the broker would store events twice: then the service must not run.
func (a *App) openBroker(ctx context.Context) error {
	for {
		err := a.broker.Open(ctx)
		if err == nil || errors.Is(err, broker.ErrForgets) || !a.pause(ctx, err) {
			return err
		}
	}
}

// ended returns no error if ctx has ended.
func ended(ctx context.Context, err error) error {
	select {
	case <-ctx.Done():
		return nil
	default:
		return err
	}
}

// pause waits before the next attempt. It reports whether there should be one.
func (a *App) pause(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	a.log.WarnContext(ctx, "the broker does not answer; trying again", "error", err)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(openPause):
		return true
	}
}
