package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/internal/outboxdb"
	"github.com/onceshop/onceshop/internal/pg"
)

const (
	// mendEvery is how often the relay compares the outbox with the stream.
	mendEvery = 5 * time.Second
	// mendSlice is how many rows of the outbox a step of a mend looks at, in far less than the
	// time-out of a statement.
	mendSlice = 5000
)

// position follows the sequence numbers of the events that a relay published. They grow, unless the
// broker comes back with an older copy of the stream.
type position struct {
	// highest is the highest number so far.
	highest int64
	// rewound is the lowest number that came after a higher one, or 0. The broker lost the events
	// that had the numbers from there on.
	rewound int64
}

// stored adds the number of an event that the broker stored.
func (p *position) stored(seq int64) {
	switch {
	case seq > p.highest:
		p.highest = seq
	case p.rewound == 0 || seq < p.rewound:
		p.rewound = seq
	}
}

// Mend compares the outbox with the stream. It publishes events again that the broker acknowledged
// and then lost, because it came back with an older copy of the stream or the stream was purged or
// deleted: each call makes the lost events of one slice of the outbox unsent, and returns true if
// it is to be called again. Consumers may see events twice, as always. Mend leaves out events that
// the stream will soon drop because of their age, and does nothing without a broker.History. See
// docs/decisions.md, D32.
func (r *Relay) Mend(ctx context.Context) (more bool, err error) {
	if r.history == nil {
		return false, nil
	}
	db := outboxdb.New(r.pool)
	mending, err := db.IsMending(ctx)
	if err != nil {
		return false, fmt.Errorf("look for a mend: %w", err)
	}
	if mending {
		return r.mendSlice(ctx)
	}
	// The table comes before the broker: whatever was marked as sent by then, the broker holds.
	since := pg.FirstID(time.Now().Add(-r.memory.MaxAge / 10 * 9))
	sent, err := db.SentBounds(ctx, since)
	if err != nil {
		return false, fmt.Errorf("read which events were sent: %w", err)
	}
	before := r.position
	first, last, err := r.held(ctx)
	if err != nil {
		return false, err
	}
	rewound := before.rewound > 0 || before.highest > last
	if !rewound && (sent.Oldest == 0 || sent.Oldest >= first) && (sent.Newest == 0 || sent.Newest >= first) &&
		sent.Newest <= last {
		return false, nil
	}
	if before.rewound > 0 {
		last = min(last, before.rewound-1)
	}
	loss := outboxdb.BeginMendParams{FirstHeld: first, LastHeld: last, SentUntil: sent.AskedAt, DoneTo: since}
	if err := db.BeginMend(ctx, loss); err != nil {
		return false, fmt.Errorf("begin to resend lost events: %w", err)
	}
	r.position = position{}
	return true, nil
}

// held returns the numbers of the oldest and the newest event that the broker holds. It opens the
// broker again that has lost its place for events.
func (r *Relay) held(ctx context.Context) (first, last int64, err error) {
	first, last, err = r.history.Held(ctx)
	if errors.Is(err, broker.ErrNotOpen) {
		if err := r.broker.Open(ctx); err != nil {
			return 0, 0, err
		}
		return r.history.Held(ctx)
	}
	return first, last, err
}

// mendSlice makes the lost events of the next slice unsent, unless another relay is doing that.
func (r *Relay) mendSlice(ctx context.Context) (more bool, err error) {
	err = pg.InTx(ctx, r.pool, func(tx pgx.Tx) error {
		db := outboxdb.New(tx)
		mend, err := db.LockMend(ctx)
		if more = err == nil; !more {
			return err
		}
		slice, err := db.ResendLost(ctx, outboxdb.ResendLostParams{DoneTo: mend.DoneTo, Most: r.slice,
			SentUntil: mend.SentUntil, FirstHeld: mend.FirstHeld, LastHeld: mend.LastHeld})
		if err != nil {
			return err
		}
		if mend.Resent == 0 && slice.Resent > 0 {
			r.log.ErrorContext(ctx, "the broker has lost events; publishing them again",
				"stream_first", mend.FirstHeld, "stream_last", mend.LastHeld)
		}
		if more = slice.Seen == int64(r.slice); more {
			return db.StepMend(ctx, outboxdb.StepMendParams{DoneTo: slice.DoneTo, Resent: mend.Resent + slice.Resent})
		}
		if lost := mend.Resent + slice.Resent; lost > 0 {
			r.log.WarnContext(ctx, "all lost events are on their way again", "events", lost)
		}
		return db.EndMend(ctx)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("resend lost events: %w", err)
	}
	return more, nil
}
