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
	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/outbox/internal/outboxdb"
	"github.com/onceshop/onceshop/internal/timeline"
)

const (
	relayBatch = maxBatch
	// relayIdle bounds how long a committed event waits for an idle relay.
	relayIdle = 100 * time.Millisecond
	// relayRetry is the pause after a failure.
	relayRetry = time.Second
	// stepTimeout bounds one publish, and the database statement after it.
	stepTimeout = 10 * time.Second
)

// Relay publishes committed events: it claims unsent rows, publishes them and marks them as sent.
// Any number of relays may run. A relay that dies between publish and mark leaves rows that are
// published again, under the same message id, which the broker recognizes. See docs/decisions.md,
// D30.
type Relay struct {
	pool     *pgxpool.Pool
	streams  *Streams
	lease    time.Duration
	recorder *timeline.Recorder
	log      *slog.Logger
	position position
}

// NewRelay returns a relay from the pool's database to the streams. The rows that a dead relay
// claimed stay unsent for the lease. It must be longer than a batch can take, and much shorter than
// the duplicate window. The recorder may be nil.
func NewRelay(pool *pgxpool.Pool, streams *Streams, lease time.Duration,
	recorder *timeline.Recorder, log *slog.Logger) *Relay {
	return &Relay{pool: pool, streams: streams, lease: lease, recorder: recorder, log: log}
}

// Run relays events until ctx ends, and publishes again what the broker lost. It logs failures and
// tries again.
func (r *Relay) Run(ctx context.Context) error {
	var mended time.Time
	for ctx.Err() == nil {
		if time.Since(mended) > mendEvery {
			if err := r.Mend(ctx); err != nil && ctx.Err() == nil {
				r.log.WarnContext(ctx, "cannot compare the outbox with the broker; trying again", "error", err)
			}
			mended = time.Now()
		}
		pause := relayIdle
		if err := r.Drain(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "relay failed; trying again", "error", err)
			pause = relayRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}

// RunOnce claims a batch of unsent events, publishes it, and marks the events that the broker
// acknowledged. It releases the others. It returns how many it claimed.
func (r *Relay) RunOnce(ctx context.Context) (int, error) {
	b, err := r.claim(ctx)
	if err != nil {
		return 0, err
	}
	r.publish(ctx, &b)
	return len(b.rows), r.mark(ctx, b)
}

// Drain is RunOnce until no event is unsent, but it publishes each batch while it claims the next
// one and marks the previous one.
//
// It publishes nothing after a batch that failed, so that the events of an order enter the stream
// as they happened. That is not a guarantee: another relay, or a connection that breaks between
// events that are sent one by one, can let a later event in first. See docs/decisions.md, D31.
func (r *Relay) Drain(ctx context.Context) error {
	var previous batch
	current, err := r.claim(ctx)
	for err == nil && len(current.rows) > 0 {
		var next batch
		var others errgroup.Group
		others.Go(func() error { return r.mark(ctx, previous) })
		if len(current.rows) == relayBatch {
			others.Go(func() (err error) { next, err = r.claim(ctx); return err })
		}
		ok := r.publish(ctx, &current)
		err = others.Wait()
		previous, current = current, next
		if !ok {
			break
		}
	}
	return errors.Join(err, r.mark(ctx, previous), r.release(ctx, current.rows))
}

// batch is what one claim took, and the broker's acks once it is published.
type batch struct {
	rows []outboxdb.ClaimUnsentRow
	acks []dedup.Ack
}

// claim leases unsent rows to this relay.
func (r *Relay) claim(ctx context.Context) (batch, error) {
	rows, err := outboxdb.New(r.pool).ClaimUnsent(ctx, outboxdb.ClaimUnsentParams{Lease: r.lease, Most: relayBatch})
	if err != nil {
		return batch{}, fmt.Errorf("claim events: %w", err)
	}
	if len(rows) > 0 {
		crash.At(crash.RelayClaimed)
	}
	// UPDATE returns rows in any order. Ids grow with time.
	slices.SortFunc(rows, func(a, b outboxdb.ClaimUnsentRow) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return batch{rows: rows}, nil
}

// publish sends the batch to the broker and keeps the acks. It reports whether all were
// acknowledged.
func (r *Relay) publish(ctx context.Context, b *batch) (ok bool) {
	if len(b.rows) == 0 {
		return true
	}
	messages := make([]dedup.Message, len(b.rows))
	for i, row := range b.rows {
		messages[i] = r.message(row)
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	b.acks = r.streams.publish(ctx, messages)
	crash.At(crash.RelayPublished)
	return !slices.ContainsFunc(b.acks, func(a dedup.Ack) bool { return a.Err != nil })
}

// message is the event under its message id, which is the same each time that the event is
// published.
func (r *Relay) message(row outboxdb.ClaimUnsentRow) dedup.Message {
	event := Event{ID: row.ID, Type: row.Type, OrderID: row.OrderID, CreatedAt: row.CreatedAt.UTC(), Data: row.Payload}
	data, err := json.Marshal(event)
	if err != nil {
		panic(fmt.Sprintf("outbox: jsonb that is not JSON: %v", err))
	}
	id := row.Type + "." + row.ID.String()
	if row.StreamSeq != nil {
		// The broker lost the message and may still remember its id.
		id += fmt.Sprintf(".lost-%d", *row.StreamSeq)
	}
	return dedup.Message{Subject: r.streams.eventSubject + row.Type, ID: id, Data: data}
}

// mark marks the acknowledged events as sent and releases the others. It goes on when ctx has
// ended: events that the broker has and that are not marked would be published again.
func (r *Relay) mark(ctx context.Context, b batch) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTimeout)
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
		r.acknowledged(ctx, row, ack)
	}
	if len(sent.Ids) > 0 {
		if err := outboxdb.New(r.pool).MarkSent(ctx, sent); err != nil {
			return fmt.Errorf("mark events as sent: %w", err)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	failure = fmt.Errorf("publish %d of %d events: %w", len(failed), len(b.rows), failure)
	return errors.Join(failure, r.release(ctx, failed))
}

// acknowledged counts an event that the broker has.
func (r *Relay) acknowledged(ctx context.Context, row outboxdb.ClaimUnsentRow, ack dedup.Ack) {
	if !ack.Duplicate {
		published.WithLabelValues("stored").Inc()
		r.position.stored(ack.Seq)
		return
	}
	published.WithLabelValues("duplicate").Inc()
	r.recorder.Stopped(row.ID, timeline.Stop{Kind: timeline.BrokerDuplicate})
	r.log.InfoContext(ctx, "broker stopped a duplicate",
		"event_id", row.ID, "order_id", row.OrderID, "stream_seq", ack.Seq)
}

// release ends the lease of rows that were not published, so that they can be claimed at once. It
// goes on when ctx has ended.
func (r *Relay) release(ctx context.Context, rows []outboxdb.ClaimUnsentRow) error {
	if len(rows) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTimeout)
	defer cancel()
	ids := make([]uuid.UUID, len(rows))
	for i, row := range rows {
		ids[i] = row.ID
	}
	if err := outboxdb.New(r.pool).ReleaseClaims(ctx, ids); err != nil {
		return fmt.Errorf("release %d events: %w", len(ids), err)
	}
	return nil
}
