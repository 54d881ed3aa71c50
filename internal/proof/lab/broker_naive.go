package lab

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// naiveRelay publishes the events of paid orders.
type naiveRelay struct {
	db      *pgxpool.Pool
	js      jetstream.JetStream
	subject string
	run     string
}

// publishUnsent publishes the events that are not marked as sent, and then marks them. NewID makes
// the message id of an event.
func (r naiveRelay) publishUnsent(ctx context.Context, newID func(orderID string) string) error {
	rows, err := r.db.Query(ctx, "SELECT order_id::text FROM paid_events WHERE run = $1 AND sent_at IS NULL", r.run)
	if err != nil {
		return fmt.Errorf("read unsent events: %w", err)
	}
	orderIDs, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read unsent events: %w", err)
	}
	for _, orderID := range orderIDs {
		msg := &nats.Msg{Subject: r.subject, Data: []byte(orderID)}
		if _, err := r.js.PublishMsg(ctx, msg, jetstream.WithMsgID(newID(orderID))); err != nil {
			return fmt.Errorf("publish the event of order %s: %w", orderID, err)
		}
		if _, err := r.db.Exec(ctx, "UPDATE paid_events SET sent_at = now() WHERE order_id = $1", orderID); err != nil {
			return fmt.Errorf("mark the event of order %s: %w", orderID, err)
		}
	}
	return nil
}

// idOfEvent is a message id that is the same whenever the event is published.
func idOfEvent(orderID string) string { return "order.paid." + orderID }

// freshID is a message id that is made for each publication.
func freshID(string) string { return uuid.NewString() }

// receiveOne sends the receipt that the next message asks for, and then acknowledges it.
func (s naiveSender) receiveOne(ctx context.Context, messages jetstream.Consumer) error {
	msg, err := messages.Next(jetstream.FetchMaxWait(patience))
	if err != nil {
		return fmt.Errorf("wait for a message: %w", err)
	}
	if err := s.send(ctx, string(msg.Data())); err != nil {
		return err
	}
	return msg.DoubleAck(ctx)
}

// naiveChain relies on three layers to stop a twin: the broker, this process's memory and Redis.
type naiveChain struct {
	sender naiveSender
	seen   map[string]bool
}

// receiveOne sends the receipt that the next message asks for, unless it is in memory or in Redis,
// and then acknowledges the message.
func (c naiveChain) receiveOne(ctx context.Context, messages jetstream.Consumer) error {
	msg, err := messages.Next(jetstream.FetchMaxWait(patience))
	if err != nil {
		return fmt.Errorf("wait for a message: %w", err)
	}
	orderID := string(msg.Data())
	if !c.seen[orderID] {
		if _, err := c.sender.sendOnce(ctx, orderID); err != nil {
			return err
		}
		c.seen[orderID] = true
	}
	return msg.DoubleAck(ctx)
}
