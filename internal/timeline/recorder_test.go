package timeline

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestMain(m *testing.M) { shoptest.Main(m) }

const patience = 30 * time.Second

// run runs the recorder until the returned function is called, which waits for its end.
func run(t *testing.T, r *Recorder) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Run(ctx)
	}()
	return sync.OnceFunc(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	})
}

func quiet(pool *pgxpool.Pool) *Recorder { return NewRecorder(pool, slog.New(slog.DiscardHandler)) }

func count(t *testing.T, pool *pgxpool.Pool, query string, args ...any) (n int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

func TestRecorderWritesInBatches(t *testing.T) {
	t.Parallel()
	pool := shoptest.DB(t)
	r := quiet(pool)
	defer run(t, r)()
	order, other := uuid.New(), uuid.New()
	begin := time.Now()
	for range 100 {
		r.Stopped(order, Memory, "came again")
	}
	r.Stopped(order, UniqueKey, "came again")
	r.Stopped(other, Memory, "came again")
	shoptest.Eventually(t, patience, "the twins are recorded", func() bool {
		return count(t, pool, "SELECT coalesce(sum(times), 0) FROM stopped_twins") == 102
	})
	if n := count(t, pool, "SELECT count(*) FROM stopped_twins WHERE subject = $1", order); n < 2 || n > 20 {
		t.Errorf("%d rows for a storm, want a few", n)
	}
	events, err := New(pool).Of(t.Context(), order)
	if err != nil || len(events) < 2 {
		t.Fatalf("told %+v, %v", events, err)
	}
	for _, e := range events {
		if e.Decision != "stopped" || !strings.HasPrefix(e.Detail, "came again") || e.At.Before(begin.Add(-time.Millisecond)) || e.At.After(time.Now()) {
			t.Errorf("event %+v", e)
		}
	}
}

func TestRecorderWritesWhenItStops(t *testing.T) {
	t.Parallel()
	pool := shoptest.DB(t)
	r := quiet(pool)
	stop := run(t, r)
	r.Stopped(uuid.New(), Broker, "the last one")
	stop()
	if n := count(t, pool, "SELECT count(*) FROM stopped_twins"); n != 1 {
		t.Errorf("%d rows after the end, want 1", n)
	}
}

func TestRecorderLosesNothingBetweenItsWrites(t *testing.T) {
	t.Parallel()
	pool := shoptest.DB(t)
	r := quiet(pool)
	stop := run(t, r)
	subject := uuid.New()
	shoptest.Race(4, func(int) bool {
		for end := time.Now().Add(3 * writeEvery); time.Now().Before(end); {
			r.Stopped(subject, Memory, "came again")
			r.write(t.Context())
		}
		r.Stopped(subject, Memory, "the last")
		return true
	})
	stop()
	if n := count(t, pool, "SELECT sum(times) FROM stopped_twins WHERE detail = 'the last'"); n != 4 {
		t.Errorf("%d of 4 recorded", n)
	}
}

// Nobody empties the recorder, so it is full in the end; its callers go on all the same.
func TestRecorderDropsWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	pool := shoptest.DB(t)
	r := quiet(pool)
	shoptest.Race(8, func(int) bool {
		for n := range maxWaiting {
			r.Stopped(uuid.New(), Memory, strconv.Itoa(n))
		}
		return true
	})
	run(t, r)()
	if n := count(t, pool, "SELECT count(*) FROM stopped_twins"); n != maxWaiting {
		t.Errorf("%d rows, want %d", n, maxWaiting)
	}
	// What was written made room.
	r.Stopped(uuid.New(), Memory, "later")
	run(t, r)()
	if n := count(t, pool, "SELECT count(*) FROM stopped_twins WHERE detail = 'later'"); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
}

func TestRecorderWithoutDatabase(t *testing.T) {
	t.Parallel()
	url := shoptest.DatabaseURL(t)
	down, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	down.Close()
	var log bytes.Buffer
	r := NewRecorder(down, slog.New(slog.NewTextHandler(&log, nil)))
	stop := run(t, r)
	for range 10 {
		r.Stopped(uuid.New(), Redis, "lost")
	}
	stop()
	if !strings.Contains(log.String(), "not recorded") {
		t.Errorf("the log says %q", log.String())
	}
}

func TestRecorderForgets(t *testing.T) {
	t.Parallel()
	pool := shoptest.DB(t)
	r := quiet(pool)
	if _, err := pool.Exec(t.Context(), `INSERT INTO stopped_twins (subject, layer, detail, times, at)
		SELECT gen_random_uuid(), 'memory', '', 1, now() - days * interval '1 day' FROM unnest(ARRAY[1, 89, 91, 1000]) AS days`); err != nil {
		t.Fatal(err)
	}
	if err := r.db.ForgetStopped(t.Context(), keepFor); err != nil {
		t.Fatal(err)
	}
	if n := count(t, pool, "SELECT count(*) FROM stopped_twins"); n != 2 {
		t.Errorf("%d rows left, want 2", n)
	}
}

func TestNoRecorder(t *testing.T) {
	t.Parallel()
	var none *Recorder
	none.Stopped(uuid.New(), Memory, "nobody listens")
	none.Answered("orders", dedup.Answer{ID: uuid.New(), StoppedBy: dedup.ByKey}, nil)
}

func TestAnswered(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	for name, test := range map[string]struct {
		answer dedup.Answer
		err    error
		want   string // the layer, "" for nothing
	}{
		"the first":                     {answer: dedup.Answer{ID: id}},
		"a replay from memory":          {answer: dedup.Answer{ID: id, StoppedBy: dedup.ByMemory}, want: Memory},
		"a replay from the database":    {answer: dedup.Answer{ID: id, StoppedBy: dedup.ByKey}, want: UniqueKey},
		"a reused key":                  {err: errors.Join(dedup.KeyReusedError{ID: id}, dedup.ErrInProgress), want: UniqueKey},
		"a reused key, whose is unsure": {err: dedup.ErrKeyReused},
		"another error":                 {answer: dedup.Answer{ID: id, StoppedBy: dedup.ByMemory}, err: errors.New("no")},
	} {
		r := quiet(nil)
		r.Answered("charges", test.answer, test.err)
		for noted := range r.waiting {
			if noted.subject != id || noted.layer != test.want || !strings.Contains(noted.detail, "request to pay") {
				t.Errorf("%s: noted %+v, want layer %q", name, noted, test.want)
			}
		}
		if len(r.waiting) != 0 != (test.want != "") {
			t.Errorf("%s: %d records", name, len(r.waiting))
		}
	}
}
