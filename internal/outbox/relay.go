package outbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/outbox/internal/outboxdb"
	"github.com/onceshop/onceshop/internal/timeline"
)

const (
	relayBatch = dedup.MaxBatch
	// relayIdle is how long a committed event may wait for the relay to look again.
	relayIdle = 100 * time.Millisecond
	// mendEvery is how often to look whether the broker still holds what it has acknowledged.
	mendEvery = 5 * time.Second
	// publishTimeout ends a batch whose acknowledgements do not come.
	publishTimeout = 10 * time.Second
)

// Relay publishes committed events. Any number of relays may run: each claims rows for itself, and rows
// that are published twice, because a relay died before it marked them, keep their message id.
type Relay struct {
	pool     *pgxpool.Pool
	streams  *Streams
	lease    time.Duration
	recorder *timeline.Recorder
	log      *slog.Logger
	// afterPublish lets tests end the relay between publish and mark.
	afterPublish func() error
	// newest is the highest number under which the broker has stored an event of this relay, oldest the lowest that came after a higher
	// one: the broker has gone back to an older store, and what it had from there on is lost.
	newest, oldest uint64
}

// NewRelay returns a relay from the pool's database to the streams. Rows of a relay that died stay unsent for the lease: longer than a
// batch can take, and far inside the duplicate window, so that the repeat is recognized. The recorder may be nil.
func NewRelay(pool *pgxpool.Pool, streams *Streams, lease time.Duration, recorder *timeline.Recorder, log *slog.Logger) *Relay {
	return &Relay{pool: pool, streams: streams, lease: lease, recorder: recorder, log: log, afterPublish: func() error { return nil }}
}

// Run relays until ctx ends, and mends what the broker loses. Failures are logged and tried again.
func (r *Relay) Run(ctx context.Context) error {
	var mended time.Time
	for ctx.Err() == nil {
		if time.Since(mended) > mendEvery {
			if err := r.Mend(ctx); err != nil && ctx.Err() == nil {
				r.log.WarnContext(ctx, "what the broker holds is not known; trying again", "error", err)
			}
			mended = time.Now()
		}
		pause := relayIdle
		if err := r.Drain(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "relay failed; trying again", "error", err)
			pause = time.Second
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}

// batch is what one claim took, and what became of it.
type batch struct {
	rows []outboxdb.ClaimUnsentRow
	acks []dedup.Ack
}

// Drain relays until nothing is unsent. While a batch is published, the next one is claimed and the one before is marked. Batches are published one
// after the other, and none after one that failed, so that an order's events enter the stream as they happened. That is a courtesy and no promise: another
// relay, or a connection that breaks in the midst of events sent one by one, lets a later event in first. Consumers must not need the order.
func (r *Relay) Drain(ctx context.Context) error {
	more, stop := context.WithCancel(ctx)
	defer stop()
	claimed, published := make(chan batch), make(chan batch)
	var group errgroup.Group
	group.Go(func() error {
		defer close(claimed)
		for more.Err() == nil {
			// A claim that is broken off may stand all the same, for its lease: it ends with ctx only.
			rows, err := r.claim(ctx)
			if err != nil || len(rows) == 0 {
				return err
			}
			if claimed <- (batch{rows: rows}); len(rows) < relayBatch {
				return nil
			}
		}
		return nil
	})
	group.Go(func() error {
		defer close(published)
		var failure error
		for b := range claimed {
			if more.Err() != nil {
				failure = errors.Join(failure, r.release(ctx, b.rows))
				continue
			}
			var err error
			if b.acks, err = r.publish(ctx, b.rows); err != nil {
				stop()
				failure = errors.Join(failure, err)
				continue
			}
			if slices.ContainsFunc(b.acks, func(a dedup.Ack) bool { return a.Err != nil }) {
				stop()
			}
			published <- b
		}
		return failure
	})
	group.Go(func() (failure error) {
		for b := range published {
			if err := r.mark(ctx, b); err != nil {
				stop()
				failure = errors.Join(failure, err)
			}
		}
		return failure
	})
	return group.Wait()
}

// RunOnce claims a batch of unsent events, publishes it and marks what was acknowledged. It
// returns how many it claimed. Events that failed are given back at once.
func (r *Relay) RunOnce(ctx context.Context) (int, error) {
	rows, err := r.claim(ctx)
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	acks, err := r.publish(ctx, rows)
	if err != nil {
		return len(rows), err
	}
	return len(rows), r.mark(ctx, batch{rows, acks})
}

// claim leases a batch to this relay.
func (r *Relay) claim(ctx context.Context) ([]outboxdb.ClaimUnsentRow, error) {
	rows, err := outboxdb.New(r.pool).ClaimUnsent(ctx, outboxdb.ClaimUnsentParams{Lease: r.lease, Most: relayBatch})
	if err != nil {
		return nil, fmt.Errorf("claim events: %w", err)
	}
	if len(rows) > 0 {
		crash.At(crash.RelayClaimed)
	}
	// An update returns its rows in no order. Ids grow with time, so an order's events enter the stream as they happened.
	slices.SortFunc(rows, func(a, b outboxdb.ClaimUnsentRow) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return rows, nil
}

func (r *Relay) publish(ctx context.Context, rows []outboxdb.ClaimUnsentRow) ([]dedup.Ack, error) {
	messages := make([]dedup.Message, len(rows))
	for i, row := range rows {
		messages[i] = r.message(row)
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	acks := r.streams.events.Publish(ctx, messages...)
	crash.At(crash.RelayPublished)
	return acks, r.afterPublish()
}

// release gives rows back that were not published, also when ctx is over.
func (r *Relay) release(ctx context.Context, rows []outboxdb.ClaimUnsentRow) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
	defer cancel()
	ids := make([]uuid.UUID, len(rows))
	for i, row := range rows {
		ids[i] = row.ID
	}
	if err := outboxdb.New(r.pool).ReleaseClaims(ctx, ids); err != nil {
		return fmt.Errorf("give %d events back: %w", len(ids), err)
	}
	return nil
}

// mark runs to its end even when ctx is over: what the broker has should not be published again.
func (r *Relay) mark(ctx context.Context, b batch) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
	defer cancel()
	var sent outboxdb.MarkSentParams
	var failed []outboxdb.ClaimUnsentRow
	var failure error
	for i, ack := range b.acks {
		row := b.rows[i]
		if ack.Err != nil {
			failed, failure = append(failed, row), ack.Err
			continue
		}
		sent.Ids = append(sent.Ids, row.ID)
		sent.Seqs = append(sent.Seqs, int64(ack.Seq)) //nolint:gosec // a stream does not reach 2^63 messages
		if !ack.Duplicate {
			published.WithLabelValues("stored").Inc()
			r.stored(ack.Seq)
		} else {
			published.WithLabelValues("duplicate").Inc()
			r.recorder.Stopped(row.ID, timeline.Stop{Kind: timeline.BrokerDuplicate})
			r.log.InfoContext(ctx, "broker stopped a duplicate", "event_id", row.ID, "order_id", row.OrderID, "stream_seq", ack.Seq)
		}
	}
	if len(sent.Ids) > 0 {
		if err := outboxdb.New(r.pool).MarkSent(ctx, sent); err != nil {
			return fmt.Errorf("mark events as sent: %w", err)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return errors.Join(fmt.Errorf("publish %d of %d events: %w", len(failed), len(b.rows), failure), r.release(ctx, failed))
}

// stored notices a broker that counts backwards.
func (r *Relay) stored(seq uint64) {
	switch {
	case seq > r.newest:
		r.newest = seq
	case r.oldest == 0 || seq < r.oldest:
		r.oldest = seq
	}
}

// Mend publishes again what the broker has acknowledged and lost since: because it came back with an older store, or a stream was purged or
// deleted. Consumers may then see events twice, as they always may. Events near the end of their time in the stream are not looked for.
func (r *Relay) Mend(ctx context.Context) error {
	first, last, err := r.streams.held(ctx)
	if err != nil {
		return err
	}
	db := outboxdb.New(r.pool)
	since := idSince(time.Now().Add(-r.streams.maxAge / 10 * 9))
	sent, err := db.SentBounds(ctx, since)
	if err != nil {
		return fmt.Errorf("read what was sent: %w", err)
	}
	setBack := r.oldest > 0 || r.newest > last
	if !setBack && (sent.Oldest == 0 || uint64(sent.Oldest) >= first) && uint64(sent.Newest) <= last { //nolint:gosec // numbers of a stream
		return nil
	}
	if r.oldest > 0 {
		last = min(last, r.oldest-1)
	}
	lost, err := db.ResendLost(ctx, outboxdb.ResendLostParams{Since: since, FirstHeld: int64(first), LastHeld: int64(last)}) //nolint:gosec // numbers of a stream
	if err != nil {
		return fmt.Errorf("send lost events again: %w", err)
	}
	r.newest, r.oldest = 0, 0
	if lost > 0 {
		r.log.ErrorContext(ctx, "the broker has lost events; publishing them again", "events", lost, "stream_first", first, "stream_last", last)
	}
	return nil
}

// idSince is the smallest id that was made at the time or later: ids are UUIDs of version 7.
func idSince(t time.Time) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[:8], uint64(t.UnixMilli())<<16)
	return id
}

func (r *Relay) message(row outboxdb.ClaimUnsentRow) dedup.Message {
	data, err := json.Marshal(Event{ID: row.ID, Type: row.Type, OrderID: row.OrderID, CreatedAt: row.CreatedAt.UTC(), Data: row.Payload})
	if err != nil {
		panic(fmt.Sprintf("outbox: jsonb that is not JSON: %v", err))
	}
	id := row.Type + "." + row.ID.String()
	if row.StreamSeq != nil {
		// The broker may remember the id of a message that it has lost.
		id += fmt.Sprintf(".lost-%d", *row.StreamSeq)
	}
	return dedup.Message{Subject: r.streams.eventSubject + row.Type, ID: id, Data: data}
}
