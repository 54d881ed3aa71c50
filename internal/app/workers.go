package app

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/outbox"
)

// ackTimeout bounds the wait for an acknowledgement. A lost one would otherwise block a slot for a
// publish.
const ackTimeout = 10 * time.Second

// openPause is the pause between attempts to reach a broker that is down.
const openPause = time.Second

func (a *App) runRelay(ctx context.Context) error {
	streams := a.openStreams(ctx)
	if streams == nil {
		return nil
	}
	relay := outbox.NewRelay(a.pool, streams, a.config.RelayLease, a.recorder, a.log)
	return relay.Run(ctx)
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
	streams := a.openStreams(ctx)
	for streams != nil {
		consumer, err := outbox.NewConsumer(ctx, streams, notify.ConsumerName, orders.EventPaid, a.notify.HandlePaid,
			a.log)
		if err == nil {
			return consumer.Run(ctx)
		}
		if !a.pause(ctx, err) {
			break
		}
	}
	return nil
}

// openStreams opens the streams, and waits for the broker. It returns nil only if ctx has ended.
func (a *App) openStreams(ctx context.Context) *outbox.Streams {
	for {
		js, err := jetstream.New(a.nats, jetstream.WithPublishAsyncTimeout(ackTimeout))
		if err == nil {
			var streams *outbox.Streams
			if streams, err = outbox.OpenStreams(ctx, js, outbox.Prefix, a.config.DuplicateWindow,
				a.config.StreamMaxAge); err == nil {
				return streams
			}
		}
		if !a.pause(ctx, err) {
			return nil
		}
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
