package outbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/internal/outboxdb"
	"github.com/onceshop/onceshop/internal/pg"
)

// stayEvery is how often a publisher looks whether it still is the only one. Postgres ends its
// transaction if it is idle for longer than the pool's idle_in_transaction_session_timeout.
const stayEvery = 2 * time.Second

// numbered is how a Relay publishes to a broker that compares numbers. Such a broker drops an event
// whose number is not above all that it has taken, whether it has the event or not. So no event may
// be sent before all with lower numbers are stored:
//
//   - Numbers are given by claims, which wait for each other, and not by inserts, which commit in
//     any order. An event keeps its number until the broker has it.
//   - One relay is the publisher, and only it gives numbers. A relay that takes over first sends
//     what the others have numbered, even if one of them is still at work: the two repeat each
//     other, and neither sends an event before all with lower numbers.
//   - The broker is sent events in order, and after a failure no more.
//
// See docs/decisions.md, D115.
type numbered struct {
	*Relay
	// lock is an open transaction that keeps other relays from becoming the publisher. It is nil
	// while this one is not.
	lock   pgx.Tx
	conn   *pgxpool.Conn
	stayed time.Time
	// publisher is the number of this publisher, which fences its claims.
	publisher int64
	// compared is set when new numbers are known to be above the broker's.
	compared bool
}

func newNumbered(r *Relay) *numbered { return &numbered{Relay: r} }

// runOnce publishes the unsent events with the lowest numbers, after it has given numbers to events
// without one. It returns how many it published or tried to, none while another relay is the
// publisher.
func (n *numbered) runOnce(ctx context.Context) (int, error) {
	if publisher, err := n.publishes(ctx); !publisher || err != nil {
		return 0, err
	}
	if n.compared {
		if found, err := outboxdb.New(n.pool).AnyToNumber(ctx); !found || err != nil {
			return 0, err
		}
	}
	b, err := n.claim(ctx)
	if errors.Is(err, errOvertaken) {
		n.resign(ctx)
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("claim events in order: %w", err)
	}
	if len(b.rows) == 0 && !n.compared {
		if err := n.compare(ctx); err != nil {
			return 0, err
		}
		return n.runOnce(ctx)
	}
	n.publish(ctx, &b)
	return len(b.rows), n.mark(ctx, b)
}

// drain is runOnce until no event is unsent.
func (n *numbered) drain(ctx context.Context) error {
	for {
		claimed, err := n.runOnce(ctx)
		if err != nil || claimed == 0 {
			return err
		}
	}
}

// publishes reports whether this relay is the publisher, after it has tried to become it.
func (n *numbered) publishes(ctx context.Context) (bool, error) {
	if n.lock != nil && time.Since(n.stayed) < stayEvery {
		return true, nil
	}
	if n.lock != nil {
		if n.stay(ctx) {
			return true, nil
		}
		n.resign(ctx)
	}
	conn, err := n.pool.Acquire(ctx)
	if err != nil {
		return false, fmt.Errorf("become the publisher: %w", err)
	}
	n.conn = conn
	n.lock, err = conn.Begin(ctx)
	alone := false
	if err == nil {
		alone, err = outboxdb.New(n.lock).AloneAsPublisher(ctx)
	}
	if alone && err == nil {
		n.publisher, err = outboxdb.New(n.pool).BecomePublisher(ctx)
	}
	if !alone || err != nil {
		n.resign(ctx)
	}
	if err != nil {
		return false, fmt.Errorf("become the publisher: %w", err)
	}
	n.stayed, n.compared = time.Now(), false
	return alone, nil
}

// stay reports whether the lock's transaction lives.
func (n *numbered) stay(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if outboxdb.New(n.lock).StayPublisher(ctx) != nil {
		return false
	}
	n.stayed = time.Now()
	return true
}

// resign lets another relay publish, also when ctx has ended.
func (r *Relay) resign(ctx context.Context) {
	n := r.numbered
	if n.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
	defer cancel()
	if n.lock != nil {
		_ = n.lock.Rollback(ctx) // if it fails, the connection is lost, and the lock with it
	}
	n.conn.Release()
	n.lock, n.conn = nil, nil
}

// firstJump is how far compare goes above a number that was too low, and twice as far each time.
const firstJump = 1024

// compare finds a number above the broker's, to continue from: a database that was restored to an
// older point gives numbers that the broker has seen. It sends probes until one is new. All events
// with a number are sent by then, so that none is below a probe.
func (n *numbered) compare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	for jump := int64(1); ; jump = max(2*jump, firstJump) {
		number, err := n.give(ctx, jump)
		if err != nil {
			return fmt.Errorf("give a number to a probe: %w", err)
		}
		probe := broker.Message{Type: broker.ProbeType, ID: fmt.Sprintf("probe.%d", number), Number: number}
		ack := n.broker.Publish(ctx, []broker.Message{probe})[0]
		if ack.Err != nil {
			return fmt.Errorf("publish a probe: %w", ack.Err)
		}
		if ack.Duplicate {
			n.log.WarnContext(ctx, "the broker has seen higher numbers than the database has given, which may have "+
				"been restored to an older point; numbers continue above", "number", number)
			continue
		}
		if ack = n.broker.Publish(ctx, []broker.Message{probe})[0]; ack.Err == nil && !ack.Duplicate {
			return fmt.Errorf("%w: it has stored number %d twice", broker.ErrForgets, number)
		}
		n.compared = true
		return nil
	}
}

// give returns the number so far above the highest, and notes it as given.
func (n *numbered) give(ctx context.Context, above int64) (number int64, err error) {
	err = pg.InTx(ctx, n.pool, func(tx pgx.Tx) error {
		db := outboxdb.New(tx)
		last, err := n.lockNumbering(ctx, db)
		if err != nil {
			return err
		}
		number = last + above
		return db.RaiseNumbering(ctx, number)
	})
	return number, err
}

// errOvertaken reports that another relay has become the publisher.
var errOvertaken = errors.New("outbox: another relay has become the publisher")

// lockNumbering returns the highest number, which does not change until the transaction ends.
func (n *numbered) lockNumbering(ctx context.Context, db *outboxdb.Queries) (last int64, err error) {
	last, err = db.LockNumbering(ctx, n.publisher)
	if errors.Is(err, pgx.ErrNoRows) {
		err = errOvertaken
	}
	return last, err
}

// claim returns the events to publish next, in order. Until the numbers are compared with the
// broker's, those are only events that have one.
func (n *numbered) claim(ctx context.Context) (b batch, err error) {
	var rows []outboxdb.NumberedRow
	err = pg.InTx(ctx, n.pool, func(tx pgx.Tx) error {
		db := outboxdb.New(tx)
		last, err := n.lockNumbering(ctx, db)
		if err != nil {
			return err
		}
		if rows, err = db.Numbered(ctx, relayBatch); err != nil || !n.compared || len(rows) == relayBatch {
			return err
		}
		most := int32(relayBatch - len(rows)) //nolint:gosec // at most relayBatch
		given, err := db.GiveNumbers(ctx, outboxdb.GiveNumbersParams{Last: last, Most: most})
		if err != nil || len(given) == 0 {
			return err
		}
		// After a fail-over the server may know neither the last numbers nor the last publisher.
		if !n.stay(ctx) {
			return errOvertaken
		}
		for _, row := range given {
			rows = append(rows, outboxdb.NumberedRow(row))
		}
		return db.RaiseNumbering(ctx, last+int64(len(given)))
	})
	if err != nil {
		return b, err
	}
	// UPDATE returns rows in any order.
	slices.SortFunc(rows, func(a, b outboxdb.NumberedRow) int { return cmp.Compare(a.Number, b.Number) })
	for _, row := range rows {
		b.rows = append(b.rows, outboxdb.ClaimUnsentRow{ID: row.ID, Type: row.Type, OrderID: row.OrderID,
			Payload: row.Payload, Traceparent: row.Traceparent, CreatedAt: row.CreatedAt, StreamSeq: row.StreamSeq})
		b.numbers = append(b.numbers, row.Number)
	}
	if len(b.rows) > 0 {
		crash.At(crash.RelayClaimed)
	}
	return b, nil
}

// mark marks the events before the first that was not stored. That one keeps its number, unless the
// broker refused it: then it is put off and gets another. Mark goes on when ctx has ended.
func (n *numbered) mark(ctx context.Context, b batch) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTimeout)
	defer cancel()
	db := outboxdb.New(n.pool)
	stored := slices.IndexFunc(b.acks, func(a broker.Ack) bool { return a.Err != nil })
	if stored < 0 {
		stored = len(b.acks)
	}
	var sent outboxdb.MarkNumberedParams
	for i, ack := range b.acks[:stored] {
		sent.Ids = append(sent.Ids, b.rows[i].ID)
		sent.Numbers = append(sent.Numbers, b.numbers[i])
		sent.Seqs = append(sent.Seqs, ack.Seq)
		n.acknowledged(ctx, b.rows[i], ack)
	}
	if stored > 0 {
		if _, err := db.MarkNumbered(ctx, sent); err != nil {
			return fmt.Errorf("mark events as sent: %w", err)
		}
	}
	if stored == len(b.acks) {
		return nil
	}
	failure := b.acks[stored].Err
	if errors.Is(failure, broker.ErrRefused) {
		return n.putOffNumbered(ctx, b.rows[stored].ID, b.numbers[stored], failure)
	}
	return fmt.Errorf("publish %d of %d events: %w", len(b.rows)-stored, len(b.rows), failure)
}

// putOffNumbered takes an event out of the others' way.
func (n *numbered) putOffNumbered(ctx context.Context, id uuid.UUID, number int64, failure error) error {
	published.WithLabelValues("failed").Inc()
	n.log.ErrorContext(ctx, "an event cannot be published; trying again at growing intervals",
		"event_id", id, "error", failure)
	err := outboxdb.New(n.pool).PutOffNumbered(ctx, outboxdb.PutOffNumberedParams{ID: id, Number: number})
	if err != nil {
		return fmt.Errorf("put off an event: %w", err)
	}
	return nil
}
