package timeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/time/rate"

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
		r.Stopped(order, Stop{Kind: MemoryReplayed, Operation: "orders"})
	}
	r.Stopped(order, Stop{Kind: KeyReplayed, Operation: "orders"})
	r.Stopped(other, Stop{Kind: MemoryReplayed, Operation: "orders"})
	shoptest.Eventually(t, patience, "the twins are recorded", func() bool {
		return count(t, pool, "SELECT coalesce(sum(times), 0) FROM stopped_twins") == 102
	})
	if n := count(t, pool, "SELECT count(*) FROM stopped_twins WHERE subject = $1", order); n < 2 || n > 20 {
		t.Errorf("%d rows for a storm, want a few", n)
	}
	events, _, err := New(pool).Of(t.Context(), order, 1000)
	if err != nil || len(events) < 2 {
		t.Fatalf("read %+v, %v", events, err)
	}
	for _, e := range events {
		if e.Decision != "stopped" || !strings.HasPrefix(e.Detail, "The request to order was repeated: ") ||
			e.At.Before(begin.Add(-time.Millisecond)) || e.At.After(time.Now()) {
			t.Errorf("event %+v", e)
		}
	}
}

func TestRecorderWritesWhenItStops(t *testing.T) {
	t.Parallel()
	pool := shoptest.DB(t)
	r := quiet(pool)
	stop := run(t, r)
	r.Stopped(uuid.New(), Stop{Kind: BrokerDuplicate})
	stop()
	if n := count(t, pool, "SELECT count(*) FROM stopped_twins"); n != 1 {
		t.Errorf("%d rows after the end, want 1", n)
	}
}

func TestRecorderLosesNothingBetweenItsWrites(t *testing.T) {
	t.Parallel()
	pool := shoptest.DB(t)
	r := quiet(pool)
	r.rows.SetLimit(rate.Inf)
	stop := run(t, r)
	subject := uuid.New()
	shoptest.Race(4, func(int) bool {
		for end := time.Now().Add(3 * writeEvery); time.Now().Before(end); {
			r.Stopped(subject, Stop{Kind: MemoryReplayed})
			r.write(t.Context())
		}
		r.Stopped(subject, Stop{Kind: SettledAlready})
		return true
	})
	stop()
	if n := count(t, pool, "SELECT sum(times) FROM stopped_twins WHERE kind = 'settled_already'"); n != 4 {
		t.Errorf("%d of 4 recorded", n)
	}
}

// A storm of repeats of different requests writes no more rows than a burst and a few a second.
func TestRecorderBoundsItsRows(t *testing.T) {
	t.Parallel()
	pool := shoptest.DB(t)
	r := quiet(pool)
	begun := time.Now()
	for range 2 * rowsAtOnce / maxWaiting {
		for range maxWaiting {
			r.Stopped(uuid.New(), Stop{Kind: MemoryReplayed})
		}
		r.write(t.Context())
	}
	most := rowsAtOnce + rowsPerSecond*(1+int(time.Since(begun)/time.Second))
	if n := count(t, pool, "SELECT count(*) FROM stopped_twins"); n < rowsAtOnce || n > most {
		t.Errorf("%d rows, want %d to %d", n, rowsAtOnce, most)
	}
}

// No Run empties the recorder, so it fills up; its callers must not block.
func TestRecorderDropsWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	pool := shoptest.DB(t)
	r := quiet(pool)
	shoptest.Race(8, func(int) bool {
		for n := range maxWaiting {
			r.Stopped(uuid.New(), Stop{Kind: StaleWorker, Attempt: int32(n)})
		}
		return true
	})
	run(t, r)()
	if n := count(t, pool, "SELECT count(*) FROM stopped_twins"); n != maxWaiting {
		t.Errorf("%d rows, want %d", n, maxWaiting)
	}
	// The write made room.
	r.Stopped(uuid.New(), Stop{Kind: SettledAlready})
	run(t, r)()
	if n := count(t, pool, "SELECT count(*) FROM stopped_twins WHERE kind = 'settled_already'"); n != 1 {
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
		r.Stopped(uuid.New(), Stop{Kind: ClaimDone})
	}
	stop()
	if !strings.Contains(log.String(), "not recorded") {
		t.Errorf("the log is %q", log.String())
	}
}

func TestNoRecorder(t *testing.T) {
	t.Parallel()
	var none *Recorder
	none.Stopped(uuid.New(), Stop{Kind: OrderPaid})
	none.Answered("orders", dedup.Answer{ID: uuid.New(), StoppedBy: dedup.ByKey}, nil)
}

func TestAnswered(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	for name, test := range map[string]struct {
		answer dedup.Answer
		err    error
		want   Kind // "" for no record
	}{
		"the first": {answer: dedup.Answer{ID: id}},
		"a replay from memory": {answer: dedup.Answer{ID: id, StoppedBy: dedup.ByMemory},
			want: MemoryReplayed},
		"a replay from the database":    {answer: dedup.Answer{ID: id, StoppedBy: dedup.ByKey}, want: KeyReplayed},
		"a reused key":                  {err: fmt.Errorf("no: %w", dedup.KeyReusedError{ID: id}), want: KeyReused},
		"a reused key, whose is unsure": {err: dedup.ErrKeyReused},
		"the first still runs": {err: fmt.Errorf("no: %w", dedup.InProgressError{ID: id}),
			want: KeyInProgress},
		"the first runs, unnamed": {err: dedup.ErrInProgress},
		"another error": {answer: dedup.Answer{ID: id, StoppedBy: dedup.ByMemory},
			err: errors.New("no")},
	} {
		r := quiet(nil)
		r.Answered("charges", test.answer, test.err)
		want := map[twin]bool{}
		if test.want != "" {
			want[twin{id, Stop{Kind: test.want, Operation: "charges"}}] = true
		}
		for noted := range r.waiting {
			if !want[noted] {
				t.Errorf("%s: recorded %+v, want %q", name, noted, test.want)
			}
		}
		if len(r.waiting) != len(want) {
			t.Errorf("%s: %d records", name, len(r.waiting))
		}
	}
}

// Every kind has a layer and a sentence with its facts, and comes back from the database as it was
// recorded.
func TestStopsAreDescribed(t *testing.T) {
	t.Parallel()
	pool, order := shoptest.DB(t), uuid.New()
	r := quiet(pool)
	want := map[string]string{} // layers by sentence
	for stop, part := range map[Stop]string{
		{Kind: KeyReplayed, Operation: "orders"}:         "unique key: The request to order was repeated: the database",
		{Kind: KeyReused, Operation: "charges"}:          "unique key: A different request to pay used the same key.",
		{Kind: KeyInProgress, Operation: "refunds"}:      "unique key: The request to refund was repeated while",
		{Kind: MemoryReplayed, Operation: "deliveries"}:  "memory: The request to book a delivery was repeated: this",
		{Kind: OtherChargeLive}:                          "unique key: A request to pay under another key found this",
		{Kind: OrderPaid}:                                "unique key: A request to pay under another key found the",
		{Kind: EventSeen, EventID: "e1", EventType: "t"}: "unique key: The provider's event (t) was delivered",
		{Kind: StaleWorker, Attempt: 3}:                  "fencing token: Attempt 3 ended after",
		{Kind: SettledAlready}:                           "fencing token: The provider's answer came after",
		{Kind: SettledMeanwhile}:                         "webhook: The provider's answer did not come in time.",
		{Kind: HeldBack}:                                 "browser: The button was pressed again",
		{Kind: BrokerDuplicate}:                          "broker: The relay published the event again",
		{Kind: ClaimDone}:                                "redis: The paid event was delivered again: Redis",
		{Kind: ClaimBusy}:                                "redis: The paid event was delivered again while",
		{Kind: ReceiptSent}:                              "unique key: The paid event was delivered again: the",
		{Kind: ReceiptLeased}:                            "unique key: The paid event was delivered again while",
	} {
		r.Stopped(order, stop)
		got := stop.Kind.Layer() + ": " + stop.sentence()
		if !strings.HasPrefix(got, part) || strings.ContainsAny(got, "{}") {
			t.Errorf("%+v: %q, want %q", stop, got, part)
		}
		want[stop.sentence()] = stop.Kind.Layer()
	}
	if len(want) != len(stops) {
		t.Errorf("%d kinds are tested, there are %d", len(want), len(stops))
	}
	r.Stopped(order, Stop{Kind: OrderPaid})
	run(t, r)()
	events, _, err := New(pool).Of(t.Context(), order, 1000)
	if err != nil || len(events) != len(want) {
		t.Errorf("%d events, %v, want %d", len(events), err, len(want))
	}
	for _, e := range events {
		if layer, ok := want[e.Text]; !ok || e.Layer != layer || e.Decision != "stopped" {
			t.Errorf("unexpected event %+v", e)
		}
		detail, times := e.Text, int32(1)
		switch e.Kind {
		case EventSeen:
			detail += " (event e1)"
		case OrderPaid:
			detail, times = detail+" (2 times)", 2
		default:
		}
		if e.Detail != detail || e.Times != times {
			t.Errorf("%d times %q, want %d times %q", e.Times, e.Detail, times, detail)
		}
	}
}
