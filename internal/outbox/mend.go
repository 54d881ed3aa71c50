package outbox

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/outbox/internal/outboxdb"
)

// mendEvery is how often the relay compares the outbox with the stream.
const mendEvery = 5 * time.Second

// position follows the sequence numbers of the events that a relay published. They grow, unless the
// broker comes back with an older copy of the stream.
type position struct {
	// highest is the highest number so far.
	highest uint64
	// rewound is the lowest number that came after a higher one, or 0. The broker lost the events
	// that had the numbers from there on.
	rewound uint64
}

// stored adds the number of an event that the broker stored.
func (p *position) stored(seq uint64) {
	switch {
	case seq > p.highest:
		p.highest = seq
	case p.rewound == 0 || seq < p.rewound:
		p.rewound = seq
	}
}

// Mend publishes events again that the broker acknowledged and then lost, because it came back with
// an older copy of the stream or the stream was purged or deleted. Consumers may see events twice,
// as always. Mend leaves out events that the stream will soon drop because of their age. See
// docs/decisions.md, D32.
func (r *Relay) Mend(ctx context.Context) error {
	first, last, err := r.streams.held(ctx)
	if err != nil {
		return err
	}
	db := outboxdb.New(r.pool)
	since := firstID(time.Now().Add(-r.streams.maxAge / 10 * 9))
	sent, err := db.SentBounds(ctx, since)
	if err != nil {
		return fmt.Errorf("read which events were sent: %w", err)
	}
	rewound := r.position.rewound > 0 || r.position.highest > last
	lostOldest := sent.Oldest > 0 && uint64(sent.Oldest) < first
	lostNewest := uint64(sent.Newest) > last //nolint:gosec // sequence numbers are not negative
	if !rewound && !lostOldest && !lostNewest {
		return nil
	}
	if r.position.rewound > 0 {
		last = min(last, r.position.rewound-1)
	}
	//nolint:gosec // a stream does not reach 2^63 messages
	held := outboxdb.ResendLostParams{Since: since, FirstHeld: int64(first), LastHeld: int64(last)}
	lost, err := db.ResendLost(ctx, held)
	if err != nil {
		return fmt.Errorf("resend lost events: %w", err)
	}
	r.position = position{}
	if lost > 0 {
		r.log.ErrorContext(ctx, "the broker has lost events; publishing them again",
			"events", lost, "stream_first", first, "stream_last", last)
	}
	return nil
}

// firstID returns the smallest UUID of version 7 with the time t.
func firstID(t time.Time) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[:8], uint64(t.UnixMilli())<<16)
	return id
}
