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
	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/internal/outboxdb"
	"github.com/onceshop/onceshop/internal/timeline"
)

const (
	// relayBatch is how many events a relay claims and publishes at a time. JetStream takes no more
	// as one. See docs/performance.md, P8.
	relayBatch = 1000
	// failedBatch is how many events that failed before a relay tries at a time. So few are
	// published one by one, because one of them would fail the others.
	failedBatch = 100
	// relayIdle bounds how long a committed event waits for an idle relay.
	relayIdle = 100 * time.Millisecond
	// relayRetry is the pause after a failure.
	relayRetry = time.Second
	// stepTimeout bounds one publish, and the database statement after it.
	stepTimeout = 10 * time.Second
	// answerTimeout bounds the question whether the broker works.
	answerTimeout = time.Second
)

// Relay publishes committed events: it claims unsent rows, publishes them and marks them as sent.
// Any number of relays may run. A relay that dies between publish and mark leaves rows that are
// published again, under the same message id, which the broker recognizes. See docs/decisions.md,
// D30. For a broker that compares numbers, see numbered.
type Relay struct {
	pool     *pgxpool.Pool
	broker   broker.Broker
	history  broker.History // or nil
	memory   broker.Memory
	lease    time.Duration
	recorder *timeline.Recorder
	log      *slog.Logger
	position position
	// numbered publishes to a broker that compares numbers. Otherwise it is nil.
	numbered *numbered
	// slice is how many rows a step of a mend looks at.
	slice int32
}

// NewRelay returns a relay from the pool's database to the broker, which must be open. The rows
// that a dead relay claimed stay unsent for the lease. It must be longer than a batch can take, and
// much shorter than the duplicate window. The recorder may be nil.
func NewRelay(pool *pgxpool.Pool, b broker.Broker, lease time.Duration,
	recorder *timeline.Recorder, log *slog.Logger) *Relay {
	r := &Relay{pool: pool, broker: b, history: b.History(), memory: b.Memory(), lease: lease, recorder: recorder,
		log: log, slice: mendSlice}
	if r.memory.Compares == broker.Numbers {
		r.numbered = newNumbered(r)
	}
	return r
}

// Run relays events until ctx ends, and publishes again what the broker lost, a slice at a time
// between new events. It logs failures and tries again.
func (r *Relay) Run(ctx context.Context) error {
	drain := r.Drain
	if r.numbered != nil {
		drain = r.numbered.drain
		defer r.resign(ctx)
	}
	var mended time.Time
	mending := false
	for ctx.Err() == nil {
		if mending || time.Since(mended) > mendEvery {
			var err error
			if mending, err = r.Mend(ctx); err != nil && ctx.Err() == nil {
				r.log.WarnContext(ctx, "cannot compare the outbox with the broker; trying again", "error", err)
			}
			mended = time.Now()
		}
		pause := relayIdle
		if mending {
			pause = 0
		}
		if err := errors.Join(drain(ctx), r.retryFailed(ctx)); err != nil && ctx.Err() == nil {
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

// RunOnce claims a batch of new events, publishes it, and marks the events that the broker
// acknowledged. It puts the others off, or releases them if the broker is down. It returns how many
// it claimed. See docs/decisions.md, D38.
func (r *Relay) RunOnce(ctx context.Context) (int, error) {
	if r.numbered != nil {
		defer r.resign(ctx)
		return r.numbered.runOnce(ctx)
	}
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
// It publishes nothing after a batch that failed as a whole, so that the events of an order enter
// the stream as they happened. That is not a guarantee: another relay, an event that cannot be
// published, or a connection that breaks between events that are sent one by one, can let a later
// event in first. See docs/decisions.md, D31.
func (r *Relay) Drain(ctx context.Context) error {
	if r.numbered != nil {
		defer r.resign(ctx)
		return r.numbered.drain(ctx)
	}
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
	return errors.Join(err, r.mark(ctx, previous), r.release(ctx, current, current.rows))
}

// retryFailed publishes a batch of events that failed before and are due.
func (r *Relay) retryFailed(ctx context.Context) error {
	if r.numbered != nil {
		return nil // they get new numbers, like new events
	}
	failed, err := outboxdb.New(r.pool).ClaimFailed(ctx, outboxdb.ClaimFailedParams{Lease: r.lease, Most: failedBatch})
	if err != nil {
		return fmt.Errorf("claim events that failed: %w", err)
	}
	rows := make([]outboxdb.ClaimUnsentRow, len(failed))
	for i, row := range failed {
		rows[i] = outboxdb.ClaimUnsentRow(row)
	}
	b := newBatch(rows)
	r.publish(ctx, &b)
	return r.mark(ctx, b)
}

// batch is what one claim took, and the broker's acks once it is published.
type batch struct {
	rows []outboxdb.ClaimUnsentRow
	acks []broker.Ack
	// claim is the end of the lease, which fences the claim.
	claim time.Time
	// numbers are the rows', if the broker compares numbers.
	numbers []int64
}

func newBatch(rows []outboxdb.ClaimUnsentRow) batch {
	if len(rows) == 0 {
		return batch{}
	}
	// UPDATE returns rows in any order. Ids grow with time.
	slices.SortFunc(rows, func(a, b outboxdb.ClaimUnsentRow) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return batch{rows: rows, claim: rows[0].ClaimedUntil}
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
	return newBatch(rows), nil
}

// publish sends the batch to the broker and keeps the acks. It returns false if none was
// acknowledged.
func (r *Relay) publish(ctx context.Context, b *batch) (ok bool) {
	if len(b.rows) == 0 {
		return true
	}
	messages := make([]broker.Message, len(b.rows))
	for i, row := range b.rows {
		messages[i] = r.message(row)
		if b.numbers != nil {
			messages[i].Number = b.numbers[i]
		}
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	spans := startPublishing(ctx, r.broker.Name(), b.rows, messages)
	b.acks = r.broker.Publish(ctx, messages)
	endPublishing(spans, b.acks)
	crash.At(crash.RelayPublished)
	return slices.ContainsFunc(b.acks, func(a broker.Ack) bool { return a.Err == nil })
}

// message is the event under its message id, which is the same each time that the event is
// published.
func (r *Relay) message(row outboxdb.ClaimUnsentRow) broker.Message {
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
	return broker.Message{Type: row.Type, ID: id, Data: data}
}

// mark marks the acknowledged events as sent. It puts the others off, or releases them if the
// broker is down. It goes on when ctx has ended: events that the broker has and that are not marked
// would be published again.
func (r *Relay) mark(ctx context.Context, b batch) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTimeout)
	defer cancel()
	sent := outboxdb.MarkSentParams{Claim: b.claim}
	var failed []outboxdb.ClaimUnsentRow
	var failure error
	for i, ack := range b.acks {
		row := b.rows[i]
		if ack.Err != nil {
			failed, failure = append(failed, row), ack.Err
			continue
		}
		sent.Ids = append(sent.Ids, row.ID)
		sent.Seqs = append(sent.Seqs, ack.Seq)
		r.acknowledged(ctx, row, ack)
	}
	if len(sent.Ids) > 0 {
		marked, err := outboxdb.New(r.pool).MarkSent(ctx, sent)
		if err != nil {
			return fmt.Errorf("mark events as sent: %w", err)
		}
		if stale := len(sent.Ids) - int(marked); stale > 0 {
			r.log.WarnContext(ctx, "another relay has taken over events that were published", "events", stale)
		}
	}
	switch {
	case len(failed) == 0:
		return nil
	case len(sent.Ids) > 0 || r.answers(ctx):
		return r.putOff(ctx, b, failed, failure)
	}
	failure = fmt.Errorf("publish %d of %d events: %w", len(failed), len(b.rows), failure)
	return errors.Join(failure, r.release(ctx, b, failed))
}

// answers reports whether the broker takes events.
func (r *Relay) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return r.broker.Ready(ctx) == nil
}

// putOff leaves events alone for a time that a working broker did not take.
func (r *Relay) putOff(ctx context.Context, b batch, failed []outboxdb.ClaimUnsentRow, failure error) error {
	published.WithLabelValues("failed").Add(float64(len(failed)))
	r.log.ErrorContext(ctx, "events cannot be published; trying again at growing intervals",
		"events", len(failed), "event_id", failed[len(failed)-1].ID, "error", failure)
	err := outboxdb.New(r.pool).FailClaims(ctx, outboxdb.FailClaimsParams{Ids: ids(failed), Claim: b.claim})
	if err != nil {
		return fmt.Errorf("put off %d events: %w", len(failed), err)
	}
	return nil
}

func ids(rows []outboxdb.ClaimUnsentRow) []uuid.UUID {
	ids := make([]uuid.UUID, len(rows))
	for i, row := range rows {
		ids[i] = row.ID
	}
	return ids
}

// acknowledged counts an event that the broker has.
func (r *Relay) acknowledged(ctx context.Context, row outboxdb.ClaimUnsentRow, ack broker.Ack) {
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
func (r *Relay) release(ctx context.Context, b batch, rows []outboxdb.ClaimUnsentRow) error {
	if len(rows) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTimeout)
	defer cancel()
	err := outboxdb.New(r.pool).ReleaseClaims(ctx, outboxdb.ReleaseClaimsParams{Ids: ids(rows), Claim: b.claim})
	if err != nil {
		return fmt.Errorf("release %d events: %w", len(rows), err)
	}
	return nil
}
