package again

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/outbox/broker"
)

const webhookPath = app.WebhookPath

// notPublished explains a button that came before its event.
var notPublished = result{Note: "The paid event is not published yet. Please try it in a moment."}

// redeliver publishes the paid event once more, under another message id than the one by which the
// broker would know it. Its consumer gets it a second time, as after an acknowledgment that was
// lost.
func (p *panel) redeliver(ctx context.Context, order orders.Order) (result, error) {
	if p.broker == nil {
		return result{Note: "This node has no broker."}, nil
	}
	history := p.broker.History()
	if history == nil {
		return result{Note: "The broker keeps no event that it has delivered."}, nil
	}
	var seq *int64
	err := p.pool.QueryRow(ctx, `
		SELECT stream_seq FROM outbox WHERE order_id = $1 AND type = $2 ORDER BY id DESC LIMIT 1`,
		order.ID, orders.EventPaid).Scan(&seq)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && seq == nil {
		return notPublished, nil
	}
	if err != nil {
		return result{}, fmt.Errorf("read the paid event: %w", err)
	}
	stored, err := history.At(ctx, *seq)
	if errors.Is(err, broker.ErrNotHeld) {
		return result{Note: "The broker does not keep the paid event any more."}, nil
	}
	if err != nil {
		return result{}, fmt.Errorf("read the paid event: %w", err)
	}
	twin := broker.Message{Type: stored.Type, ID: "again." + uuid.NewString(), Data: stored.Data}
	if ack := p.broker.Publish(ctx, []broker.Message{twin})[0]; ack.Err != nil {
		return result{}, fmt.Errorf("redeliver the paid event: %w", ack.Err)
	}
	return result{Sent: 1}, nil
}

// flush deletes the shop's keys, and no others: the Redis may not be the demo's own.
const flush = `for _, key in ipairs(redis.call('KEYS', 'onceshop:*')) do redis.call('DEL', key) end`

func (p *panel) flushAndRedeliver(ctx context.Context, order orders.Order) (result, error) {
	if p.redis == nil {
		return result{Note: "This node has no Redis."}, nil
	}
	if err := p.redis.Eval(ctx, flush, nil).Err(); err != nil && !errors.Is(err, redis.Nil) {
		return result{}, fmt.Errorf("flush Redis: %w", err)
	}
	return p.redeliver(ctx, order)
}

// restartAndRelay leaves what a relay leaves that dies between the broker's acknowledgment and its
// own mark: a relay then publishes the event again, under its message id.
func (p *panel) restartAndRelay(ctx context.Context, order orders.Order) (result, error) {
	restart := p.servers().RestartBroker
	if restart == nil {
		return result{Note: "The broker is not the demo’s own, so the demo does not restart it."}, nil
	}
	if err := restart(); err != nil {
		return result{}, fmt.Errorf("restart the broker: %w", err)
	}
	changed, err := p.pool.Exec(ctx, `
		UPDATE outbox SET sent_at = NULL, stream_seq = NULL, claimed_until = '-infinity'
		WHERE order_id = $1 AND type = $2 AND sent_at IS NOT NULL`, order.ID, orders.EventPaid)
	if err != nil {
		return result{}, fmt.Errorf("make the event unsent: %w", err)
	}
	if changed.RowsAffected() == 0 {
		return notPublished, nil
	}
	return result{Sent: int(changed.RowsAffected())}, nil
}
