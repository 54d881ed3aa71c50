package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/internal/outboxdb"
)

// After a restore to an older point, the broker holds events whose changes the tables have lost.
// The changes are made again, in the order of their events, and each keeps the event that it had.

// Published is an event as the broker holds it.
type Published struct {
	Event
	// Seq is its number in the broker's History.
	Seq         int64
	Traceparent string
}

// ReadPublished calls handle for each event that the broker has stored since the time, oldest
// first. An event that was published twice comes twice.
func ReadPublished(ctx context.Context, h broker.History, since time.Time, handle func(Published) error) error {
	return h.Read(ctx, since, func(stored broker.Stored) error {
		event, err := decodeEvent(stored)
		if err != nil {
			return err
		}
		return handle(event)
	})
}

// PublishedAt returns the event with a number of the History.
func PublishedAt(ctx context.Context, h broker.History, seq int64) (Published, error) {
	stored, err := h.At(ctx, seq)
	if err != nil {
		return Published{}, fmt.Errorf("read event %d: %w", seq, err)
	}
	return decodeEvent(stored)
}

func decodeEvent(stored broker.Stored) (Published, error) {
	p := Published{Seq: stored.Seq, Traceparent: stored.Traceparent}
	if err := json.Unmarshal(stored.Data, &p.Event); err != nil {
		return p, fmt.Errorf("event %d is not one of ours: %w", stored.Seq, err)
	}
	return p, nil
}

// Lost returns the newest event of the broker, and whether the tables have lost it: they do not
// know it, although the stream is theirs, for it holds our newest sent event in its place. Without
// a History, nothing is known to be lost.
func Lost(ctx context.Context, pool *pgxpool.Pool, b broker.Broker) (Event, bool, error) {
	history, db := b.History(), outboxdb.New(pool)
	if history == nil {
		return Event{}, false, nil
	}
	sent, err := db.NewestSent(ctx)
	if errors.Is(err, pgx.ErrNoRows) { // nothing is known to be lost
		return Event{}, false, nil
	}
	if err != nil {
		return Event{}, false, fmt.Errorf("look for the newest event that was sent: %w", err)
	}
	first, last, err := history.Held(ctx)
	if errors.Is(err, broker.ErrNotOpen) { // the relay opens it again
		return Event{}, false, nil
	}
	if err != nil || first > last || sent.StreamSeq >= last {
		return Event{}, false, err
	}
	// Another stream can have the name of one that was lost.
	if ours, err := holds(ctx, history, sent, first); err != nil || !ours {
		return Event{}, false, err
	}
	newest, err := PublishedAt(ctx, history, last)
	if err != nil {
		return Event{}, false, err
	}
	lost, err := db.IsLost(ctx, outboxdb.IsLostParams{ID: newest.ID, CreatedAt: newest.CreatedAt})
	if err != nil {
		return Event{}, false, fmt.Errorf("look for the newest event: %w", err)
	}
	return newest.Event, lost, nil
}

// holds reports whether the broker holds one of our events in its place, unless that was too old.
func holds(ctx context.Context, h broker.History, sent outboxdb.NewestSentRow, first int64) (bool, error) {
	if sent.StreamSeq < first {
		return true, nil
	}
	ours, err := PublishedAt(ctx, h, sent.StreamSeq)
	if errors.Is(err, broker.ErrNotHeld) {
		return false, nil
	}
	return ours.ID == sent.ID, err
}

// Known reports whether the tables hold an event. If they do not know yet that it was published,
// they do now.
func Known(ctx context.Context, pool *pgxpool.Pool, p Published) (bool, error) {
	known, err := outboxdb.New(pool).NotePublished(ctx,
		outboxdb.NotePublishedParams{ID: p.ID, StreamSeq: p.Seq})
	if err != nil {
		return false, fmt.Errorf("look for an event: %w", err)
	}
	return known, nil
}

type replayKey struct{}

// replay is the event that a change had before a restore.
type replay struct {
	Published
	stored bool
}

// Replay calls change, which makes a change again in a transaction: with its context, EnqueueTx
// stores the event that the change had as sent, and refuses any other. A change that makes no event
// is an error, too.
func Replay(ctx context.Context, p Published, change func(context.Context) error) error {
	r := &replay{Published: p}
	if err := change(context.WithValue(ctx, replayKey{}, r)); err != nil {
		return err
	}
	if !r.stored {
		return fmt.Errorf("outbox: nothing is left to change for event %s of order %s", p.Type, p.OrderID)
	}
	return nil
}

func (r *replay) storeTx(ctx context.Context, tx outboxdb.DBTX, events []NewEvent) error {
	if len(events) == 0 {
		return nil
	}
	if e := events[0]; len(events) > 1 || r.stored || e.Type != r.Type || e.OrderID != r.OrderID {
		return fmt.Errorf("outbox: the change made event %s of order %s, before the restore it was %s of %s",
			e.Type, e.OrderID, r.Type, r.OrderID)
	}
	r.stored = true
	return outboxdb.New(tx).InsertPublished(ctx, outboxdb.InsertPublishedParams{ID: r.ID, Type: r.Type,
		OrderID: r.OrderID, Payload: r.Data, Traceparent: r.Traceparent, CreatedAt: r.CreatedAt,
		StreamSeq: r.Seq})
}
