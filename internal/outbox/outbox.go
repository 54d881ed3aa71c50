// Package outbox carries events out of the database: a change enqueues its event in its own transaction,
// the relay publishes what was committed, and consumers handle each event at least once.
package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/outbox/internal/outboxdb"
)

// Event is something that happened to an order. Its Type and ID together are the message id at the broker.
type Event struct {
	ID        uuid.UUID       `json:"id"`
	Type      string          `json:"type"`
	OrderID   uuid.UUID       `json:"order_id"`
	CreatedAt time.Time       `json:"created_at"`
	Data      json.RawMessage `json:"data"`
}

// EnqueueTx records an event in the transaction of the change that it reports. Data is marshaled to JSON.
func EnqueueTx(ctx context.Context, tx pgx.Tx, id uuid.UUID, eventType string, orderID uuid.UUID, data any) error {
	payload, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("encode event %s: %w", eventType, err)
	}
	err = outboxdb.New(tx).Enqueue(ctx, outboxdb.EnqueueParams{ID: id, Type: eventType, OrderID: orderID, Payload: payload})
	if err != nil {
		return fmt.Errorf("enqueue event %s: %w", eventType, err)
	}
	return nil
}
