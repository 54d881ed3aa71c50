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

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/timeline/internal/timelinedb"
)

const (
	// maxWaiting bounds how many different twins wait for the next write. Together with the pause it bounds what a storm costs.
	maxWaiting = 1024
	writeEvery = 200 * time.Millisecond
	// writeTimeout bounds one write, and so the last one when the node stops.
	writeTimeout = 2 * time.Second

	keepFor     = 90 * 24 * time.Hour
	forgetEvery = time.Hour
)

var lost = promauto.NewCounterVec(prometheus.CounterOpts{
	Name: "onceshop_stopped_twins_unrecorded_total", Help: "Stopped twins that no timeline will show, by reason: full or database.",
}, []string{"reason"})

// Recorder keeps what twins were stopped, on a best effort. A nil *Recorder keeps nothing.
type Recorder struct {
	db  *timelinedb.Queries
	log *slog.Logger

	mu      sync.Mutex
	waiting map[twin]*seen
}

// twin is what a record is about. Equal ones that come between two writes share a row.
type twin struct {
	subject       uuid.UUID
	layer, detail string
}

type seen struct {
	first time.Time
	times int32
}

// NewRecorder returns a recorder into the pool's database. It writes while Run runs.
func NewRecorder(pool *pgxpool.Pool, log *slog.Logger) *Recorder {
	return &Recorder{db: timelinedb.New(pool), log: log, waiting: make(map[twin]*seen)}
}

// Stopped notes that a twin was stopped and by which layer. Subject is the order, charge, refund or outbox event that there is one of;
// detail is a sentence. It never waits: what does not fit is dropped and counted.
func (r *Recorder) Stopped(subject uuid.UUID, layer, detail string) {
	if r == nil || subject == uuid.Nil {
		return
	}
	key := twin{subject, layer, detail}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch noted := r.waiting[key]; {
	case noted != nil:
		noted.times++
	case len(r.waiting) < maxWaiting:
		r.waiting[key] = &seen{first: time.Now(), times: 1}
	default:
		lost.WithLabelValues("full").Inc()
	}
}

// requests says what came again, by the operation that its key belongs to.
var requests = map[string]string{"orders": "order", "charges": "pay", "refunds": "refund", "cancellations": "cancel", "deliveries": "book a delivery"}

// Answered notes how a request under an idempotency key ended, if an earlier one had been there. Operation is that of the key's scope.
func (r *Recorder) Answered(operation string, answer dedup.Answer, err error) {
	reused, isReused := errors.AsType[dedup.KeyReusedError](err)
	switch {
	case isReused:
		r.Stopped(reused.ID, UniqueKey, "A request to "+requests[operation]+" used the key again for something else. Nothing was done.")
	case err != nil:
	case answer.StoppedBy == dedup.ByMemory:
		r.Stopped(answer.ID, Memory, "The request to "+requests[operation]+" came again: this node still had the answer, or was making it.")
	case answer.StoppedBy == dedup.ByKey:
		r.Stopped(answer.ID, UniqueKey, "The request to "+requests[operation]+" came again: its key stands in the database, with the answer.")
	}
}

// Run writes what was noted, and deletes what is older than 90 days, until ctx ends; then it writes once more. A database that
// fails costs the records.
func (r *Recorder) Run(ctx context.Context) {
	write, forget := time.NewTicker(writeEvery), time.NewTicker(forgetEvery)
	defer write.Stop()
	defer forget.Stop()
	for {
		select {
		case <-ctx.Done():
			r.write(ctx)
			return
		case <-write.C:
			r.write(ctx)
		case <-forget.C:
			if err := r.db.ForgetStopped(ctx, keepFor); err != nil {
				r.log.WarnContext(ctx, "old records of stopped twins were not deleted", "error", err)
			}
		}
	}
}

// take empties the recorder.
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
		rows.Layers = append(rows.Layers, key.layer)
		rows.Details = append(rows.Details, key.detail)
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
