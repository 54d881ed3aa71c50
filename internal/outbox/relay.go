package outbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/outbox/internal/outboxdb"
	"github.com/onceshop/onceshop/internal/timeline"
)

const (
	relayBatch = 512
	// relayIdle is how long a committed event may wait for the relay to look again.
	relayIdle = 100 * time.Millisecond
	// publishTimeout ends a batch whose acknowledgements do not come.
	publishTimeout = 10 * time.Second
)

// Relay publishes committed events. Any number of relays may run: each claims rows for itself, and rows
// that are published twice, because a relay died before it marked them, keep their message id.
type Relay struct {
	pool    *pgxpool.Pool
	streams *Streams
	lease   time.Duration
	log     *slog.Logger
	// afterPublish lets tests end the relay between publish and mark.
	afterPublish func() error

	// Stopped records twins for the order's timeline. It may be nil; set it before Run.
	Stopped *timeline.Recorder
}

// NewRelay returns a relay from the pool's database to the streams. Rows of a relay that died stay unsent for the lease: longer than a
// batch can take, and far inside the duplicate window, so that the repeat is recognized.
func NewRelay(pool *pgxpool.Pool, streams *Streams, lease time.Duration, log *slog.Logger) *Relay {
	return &Relay{pool: pool, streams: streams, lease: lease, log: log, afterPublish: func() error { return nil }}
}

// Run relays until ctx ends. Failures are logged and tried again.
func (r *Relay) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		claimed, err := r.RunOnce(ctx)
		if err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "relay failed; trying again", "error", err)
		}
		if err == nil && claimed == relayBatch {
			continue
		}
		pause := relayIdle
		if err != nil {
			pause = time.Second
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}

// RunOnce claims a batch of unsent events, publishes it and marks what was acknowledged. It
// returns how many it claimed. Events that failed are given back at once.
func (r *Relay) RunOnce(ctx context.Context) (int, error) {
	db := outboxdb.New(r.pool)
	rows, err := db.ClaimUnsent(ctx, outboxdb.ClaimUnsentParams{Lease: r.lease, Most: relayBatch})
	if err != nil {
		return 0, fmt.Errorf("claim events: %w", err)
	}
	if len(rows) == 0 {
		return 0, nil
	}
	crash.At(crash.RelayClaimed)
	// An update returns its rows in no order. Ids grow with time, so an order's events enter the stream as they happened.
	slices.SortFunc(rows, func(a, b outboxdb.ClaimUnsentRow) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	messages := make([]dedup.Message, len(rows))
	for i, row := range rows {
		messages[i] = r.message(row)
	}
	publish, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	acks := r.streams.events.Publish(publish, messages...)
	crash.At(crash.RelayPublished)
	if err := r.afterPublish(); err != nil {
		return len(rows), err
	}
	return len(rows), r.mark(ctx, db, rows, acks)
}

// mark runs to its end even when ctx is over: what the broker has should not be published again.
func (r *Relay) mark(ctx context.Context, db *outboxdb.Queries, rows []outboxdb.ClaimUnsentRow, acks []dedup.Ack) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
	defer cancel()
	var sent outboxdb.MarkSentParams
	var failed []uuid.UUID
	var failure error
	for i, ack := range acks {
		if ack.Err != nil {
			failed, failure = append(failed, rows[i].ID), ack.Err
			continue
		}
		sent.Ids = append(sent.Ids, rows[i].ID)
		sent.Seqs = append(sent.Seqs, int64(ack.Seq)) //nolint:gosec // a stream does not reach 2^63 messages
		if !ack.Duplicate {
			published.WithLabelValues("stored").Inc()
		} else {
			published.WithLabelValues("duplicate").Inc()
			r.Stopped.Stopped(rows[i].ID, timeline.Broker, "The relay published the event again, under the same message id: the stream holds it once.")
			r.log.InfoContext(ctx, "broker stopped a duplicate", "event_id", rows[i].ID, "order_id", rows[i].OrderID, "stream_seq", ack.Seq)
		}
	}
	if len(sent.Ids) > 0 {
		if err := db.MarkSent(ctx, sent); err != nil {
			return fmt.Errorf("mark events as sent: %w", err)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return errors.Join(fmt.Errorf("publish %d of %d events: %w", len(failed), len(rows), failure), db.ReleaseClaims(ctx, failed))
}

func (r *Relay) message(row outboxdb.ClaimUnsentRow) dedup.Message {
	data, err := json.Marshal(Event{ID: row.ID, Type: row.Type, OrderID: row.OrderID, CreatedAt: row.CreatedAt.UTC(), Data: row.Payload})
	if err != nil {
		panic(fmt.Sprintf("outbox: jsonb that is not JSON: %v", err))
	}
	return dedup.Message{Subject: r.streams.eventSubject + row.Type, ID: row.Type + "." + row.ID.String(), Data: data}
}
