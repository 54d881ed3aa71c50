// Package outbox takes events from the database to their handlers. A change enqueues its event in
// its own transaction, the relay publishes committed events to the broker, and consumers handle
// each event at least once.
package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/outbox/internal/outboxdb"
	"github.com/onceshop/onceshop/internal/tracing"
)

// Event is something that happened to an order. Its message id at the broker is made of Type and
// ID.
type Event struct {
	ID        uuid.UUID       `json:"id"`
	Type      string          `json:"type"`
	OrderID   uuid.UUID       `json:"order_id"`
	CreatedAt time.Time       `json:"created_at"`
	Data      json.RawMessage `json:"data"`
}

// NewEvent is an event to enqueue. Data is marshaled to JSON.
type NewEvent struct {
	ID      uuid.UUID
	Type    string
	OrderID uuid.UUID
	Data    any
}

// EnqueueTx inserts events in the transaction of the changes that they report. Each keeps the trace
// of its caller.
func EnqueueTx(ctx context.Context, tx outboxdb.DBTX, events ...NewEvent) error {
	if r, ok := ctx.Value(replayKey{}).(*replay); ok {
		return r.storeTx(ctx, tx, events)
	}
	p := outboxdb.EnqueueParams{Inherit: tracing.On(ctx)}
	for _, e := range events {
		payload, err := json.Marshal(e.Data)
		if err != nil {
			return fmt.Errorf("encode event %s: %w", e.Type, err)
		}
		enqueued.WithLabelValues(e.Type).Inc()
		p.Ids = append(p.Ids, e.ID)
		p.Types = append(p.Types, e.Type)
		p.OrderIds = append(p.OrderIds, e.OrderID)
		p.Payloads = append(p.Payloads, payload)
		p.Traceparents = append(p.Traceparents, tracing.ParentOf(ctx, e.OrderID))
	}
	if err := outboxdb.New(tx).Enqueue(ctx, p); err != nil {
		return fmt.Errorf("enqueue %d events: %w", len(events), err)
	}
	return nil
}
