package timeline

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/timeline/internal/timelinedb"
)

const (
	// maxWaiting bounds how many different twins wait for the next write. Together with writeEvery
	// it bounds the cost of a storm of repeats.
	maxWaiting = 1024
	writeEvery = 200 * time.Millisecond
	// writeTimeout bounds one write, and so the last one when the node stops.
	writeTimeout = 2 * time.Second

	// rowsPerSecond is how many rows a node writes for long, and rowsAtOnce in a burst. Clients
	// that repeat themselves all day would otherwise fill the disk.
	rowsPerSecond = 10
	rowsAtOnce    = 2000
)

var stopped = promauto.NewCounterVec(prometheus.CounterOpts{
	Name: "onceshop_twins_stopped_total",
	Help: "Second requests, events and workers that were kept from having a second effect, by layer and by kind; see " +
		"timeline.Kind.",
}, []string{"layer", "kind"})

var lost = promauto.NewCounterVec(prometheus.CounterOpts{
	Name: "onceshop_stopped_twins_unrecorded_total",
	Help: "Stopped twins that no timeline will show, by reason: full, rate or database.",
}, []string{"reason"})

// Recorder records stopped twins on a best-effort basis. A nil *Recorder records nothing. See
// docs/decisions.md, D40.
type Recorder struct {
	db  *timelinedb.Queries
	log *slog.Logger

	mu      sync.Mutex
	waiting map[twin]*seen
	rows    *rate.Limiter
}

// twin is what one row is about. Equal twins that are stopped between two writes share a row.
type twin struct {
	subject uuid.UUID
	stop    Stop
}

type seen struct {
	first time.Time
	times int32
}

// NewRecorder returns a recorder into the pool's database. It writes while Run runs.
func NewRecorder(pool *pgxpool.Pool, log *slog.Logger) *Recorder {
	return &Recorder{db: timelinedb.New(pool), log: log, waiting: make(map[twin]*seen),
		rows: rate.NewLimiter(rowsPerSecond, rowsAtOnce)}
}

// Stopped records that a twin of the subject was stopped. The subject is an order, charge, refund
// or outbox event. Stopped never blocks: it drops and counts twins for which there is no room.
func (r *Recorder) Stopped(subject uuid.UUID, stop Stop) {
	if r == nil || subject == uuid.Nil {
		return
	}
	stopped.WithLabelValues(stop.Kind.Layer(), string(stop.Kind)).Inc()
	key := twin{subject, stop}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch noted := r.waiting[key]; {
	case noted != nil:
		noted.times++
	case len(r.waiting) == maxWaiting:
		lost.WithLabelValues("full").Inc()
	case !r.rows.Allow():
		lost.WithLabelValues("rate").Inc()
	default:
		r.waiting[key] = &seen{first: time.Now(), times: 1}
	}
}

// Answered records how a request with an idempotency key ended, if it was not the first with its
// key. The operation is the key's scope.
func (r *Recorder) Answered(operation string, answer dedup.Answer, err error) {
	reused, isReused := errors.AsType[dedup.KeyReusedError](err)
	running, isRunning := errors.AsType[dedup.InProgressError](err)
	switch {
	case isReused:
		r.Stopped(reused.ID, Stop{Kind: KeyReused, Operation: operation})
	case isRunning:
		r.Stopped(running.ID, Stop{Kind: KeyInProgress, Operation: operation})
	case err != nil:
	case answer.StoppedBy == dedup.ByMemory:
		r.Stopped(answer.ID, Stop{Kind: MemoryReplayed, Operation: operation})
	case answer.StoppedBy == dedup.ByKey:
		r.Stopped(answer.ID, Stop{Kind: KeyReplayed, Operation: operation})
	}
}

// Run writes the recorded twins until ctx ends; then it writes a last time. Twins that the database
// refuses are lost.
func (r *Recorder) Run(ctx context.Context) {
	write := time.NewTicker(writeEvery)
	defer write.Stop()
	for {
		select {
		case <-ctx.Done():
			r.write(ctx)
			return
		case <-write.C:
			r.write(ctx)
		}
	}
}

// take removes and returns all waiting twins.
func (r *Recorder) take() map[twin]*seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) == 0 {
		return nil
	}
	noted := r.waiting
	r.waiting = make(map[twin]*seen)
	return noted
}

func (r *Recorder) write(ctx context.Context) {
	noted := r.take()
	if len(noted) == 0 {
		return
	}
	var rows timelinedb.InsertStoppedParams
	for key, seen := range noted {
		rows.Subjects = append(rows.Subjects, key.subject)
		rows.Kinds = append(rows.Kinds, string(key.stop.Kind))
		rows.Operations = append(rows.Operations, key.stop.Operation)
		rows.EventIds = append(rows.EventIds, key.stop.EventID)
		rows.EventTypes = append(rows.EventTypes, key.stop.EventType)
		rows.Attempts = append(rows.Attempts, key.stop.Attempt)
		rows.Times = append(rows.Times, seen.times)
		rows.Ats = append(rows.Ats, seen.first)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	if err := r.db.InsertStopped(ctx, rows); err != nil {
		lost.WithLabelValues("database").Add(float64(len(noted)))
		r.log.WarnContext(ctx, "stopped twins were not recorded", "twins", len(noted), "error", err)
	}
}
