// Package retain deletes rows that nothing needs any more, in slices. It deletes records of what is
// finished, and no row with an idempotency key or about money. See docs/privacy.md, How long, and
// docs/decisions.md, D103.
package retain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/retain/internal/retaindb"
)

const (
	firstAfter = time.Minute
	every      = time.Hour
	// fullSlice is how many rows a statement looks at. One that takes longer than sliceTimeout is
	// tried again with half as many.
	fullSlice    = 1000
	sliceTimeout = 5 * time.Second
	// slicePause leaves the disk to the orders between two slices.
	slicePause = 50 * time.Millisecond
)

var deleted = promauto.NewCounterVec(prometheus.CounterOpts{
	Name: "onceshop_rows_deleted_total",
	Help: "Rows that were older than the setting for their table, by table.",
}, []string{"table"})

// Memory is how long rows are kept after what they record has ended. Zero is forever.
type Memory struct{ Events, Receipts, ProviderEvents, StoppedTwins time.Duration }

// Service deletes old rows. Any number of nodes may run it.
type Service struct {
	pool   *pgxpool.Pool
	memory Memory
	now    func() time.Time
	log    *slog.Logger
	slice  int32
	pause  time.Duration
}

// New returns a service on the pool's database. The clock may differ from the database's by much
// less than a memory.
func New(pool *pgxpool.Pool, memory Memory, now func() time.Time, log *slog.Logger) *Service {
	return &Service{pool: pool, memory: memory, now: now, log: log, slice: fullSlice, pause: slicePause}
}

// Run deletes old rows once an hour until ctx ends. It logs failures and tries again.
func (s *Service) Run(ctx context.Context) error {
	for next := firstAfter; ; next = every {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
		if err := s.RunOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "old rows were not deleted; trying again in an hour", "error", err)
		}
	}
}

// table is a table with old rows. The function delete deletes those of a slice that were old at the
// time before, and returns how many it saw and deleted and where the next slice begins.
type table struct {
	name   string
	memory time.Duration
	delete func(ctx context.Context, db *retaindb.Queries, after uuid.UUID, before time.Time, most int32) (seen,
		gone int64, last uuid.UUID, err error)
}

// tables begins with the events: they protect their order's receipt.
func (s *Service) tables() []table {
	return []table{
		{"outbox", s.memory.Events, deleteEvents},
		{"receipts", s.memory.Receipts, deleteReceipts},
		{"provider_events", s.memory.ProviderEvents, deleteProviderEvents},
		{"stopped_twins", s.memory.StoppedTwins, deleteStopped},
	}
}

// RunOnce deletes all rows that are old. A table that fails does not keep the others from it.
func (s *Service) RunOnce(ctx context.Context) error {
	var failures error
	for _, t := range s.tables() {
		if t.memory == 0 {
			continue
		}
		if err := s.clear(ctx, t, s.now().Add(-t.memory)); err != nil {
			failures = errors.Join(failures, fmt.Errorf("delete old rows of %s: %w", t.name, err))
		}
	}
	return failures
}

// clear deletes the rows of a table that were old at the time before.
func (s *Service) clear(ctx context.Context, t table, before time.Time) error {
	var after uuid.UUID
	for most := s.slice; ; {
		seen, gone, last, err := s.step(ctx, t, after, before, most)
		switch {
		case isTimeout(err) && most > 1:
			most /= 2
		case err != nil:
			return err
		default:
			deleted.WithLabelValues(t.name).Add(float64(gone))
			if seen < int64(most) {
				return nil
			}
			after = last
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(s.pause):
		}
	}
}

// step deletes the old rows of one slice.
func (s *Service) step(ctx context.Context, t table, after uuid.UUID, before time.Time, most int32) (seen, gone int64,
	last uuid.UUID, err error) {
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		limit := fmt.Sprintf("SET LOCAL statement_timeout = %d", sliceTimeout.Milliseconds())
		if _, err := tx.Exec(ctx, limit); err != nil {
			return err
		}
		seen, gone, last, err = t.delete(ctx, retaindb.New(tx), after, before, most)
		return err
	})
	return seen, gone, last, err
}

func isTimeout(err error) bool {
	answer, ok := errors.AsType[*pgconn.PgError](err)
	return ok && answer.Code == "57014"
}

func deleteEvents(ctx context.Context, db *retaindb.Queries, after uuid.UUID, before time.Time, most int32) (seen,
	gone int64, last uuid.UUID, err error) {
	if err := db.NoteKept(ctx, before); err != nil {
		return 0, 0, after, err
	}
	row, err := db.DeleteEvents(ctx, retaindb.DeleteEventsParams{After: after, Before: pg.FirstID(before),
		SentBefore: before, Most: most})
	return row.Seen, row.Deleted, row.Last, err
}

func deleteReceipts(ctx context.Context, db *retaindb.Queries, after uuid.UUID, before time.Time, most int32) (seen,
	gone int64, last uuid.UUID, err error) {
	row, err := db.DeleteReceipts(ctx, retaindb.DeleteReceiptsParams{After: after, Before: pg.FirstID(before),
		EndedBefore: before, Most: most})
	return row.Seen, row.Deleted, row.Last, err
}

func deleteProviderEvents(ctx context.Context, db *retaindb.Queries, after uuid.UUID, before time.Time, most int32) (
	seen, gone int64, last uuid.UUID, err error) {
	n, err := db.DeleteProviderEvents(ctx, retaindb.DeleteProviderEventsParams{ReceivedBefore: before, Most: most})
	return n, n, after, err
}

func deleteStopped(ctx context.Context, db *retaindb.Queries, after uuid.UUID, before time.Time, most int32) (seen,
	gone int64, last uuid.UUID, err error) {
	n, err := db.DeleteStopped(ctx, retaindb.DeleteStoppedParams{SeenBefore: before, Most: most})
	return n, n, after, err
}
