package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/dedup"
)

const (
	// latencySamples are taken one after another, or fewer if they take longer than latencyBudget.
	latencySamples = 400
	latencyBudget  = 500 * time.Millisecond
)

// Latency is how long a strategy takes to distinguish a first from a duplicate.
type Latency struct {
	Strategy Strategy `json:"strategy"`
	// Decision describes in a few words what was measured.
	Decision string        `json:"decision"`
	Samples  int           `json:"samples"`
	Median   time.Duration `json:"median_ns"`
	P95      time.Duration `json:"p95_ns"`
}

// decision is something to measure: decide makes the n-th one and fails if it comes out wrong.
type decision struct {
	strategy Strategy
	name     string
	decide   func(ctx context.Context, n int) error
}

// Latency measures each strategy with nothing else around it, here and now. It takes at most about
// three seconds.
func (l *Lab) Latency(ctx context.Context) ([]Latency, error) {
	servers, err := l.servers(ctx)
	if err != nil {
		return nil, fmt.Errorf("set up the lab: %w", err)
	}
	run := newRunName()
	seen := dedup.NewSeen(2*latencySamples, time.Minute)
	defer seen.Close()
	stream, err := servers.openLatencyStream(ctx, run)
	if err != nil {
		return nil, err
	}
	defer servers.forgetLatency(context.WithoutCancel(ctx), run)
	claims := dedup.NewClaims(servers.Redis, "lab:latency:")
	decisions := []decision{
		{Unique, "first row of a key, committed", func(ctx context.Context, n int) error {
			return servers.insertKey(ctx, key(run, n), true)
		}},
		{Unique, "the same key again", func(ctx context.Context, _ int) error {
			return servers.insertKey(ctx, key(run, 0), false)
		}},
		{Memory, "seen before?", func(_ context.Context, n int) error { return first(seen.First(key(run, n))) }},
		{Redis, "claim", func(ctx context.Context, n int) error { return claim(ctx, claims, key(run, n)) }},
		{Broker, "publish, stored and acknowledged", func(ctx context.Context, n int) error {
			return stream.Publish(ctx, dedup.Message{Subject: latencySubject(run), ID: key(run, n)})[0].Err
		}},
	}
	measured := make([]Latency, len(decisions))
	for i, d := range decisions {
		if measured[i], err = d.measure(ctx); err != nil {
			return nil, err
		}
	}
	return measured, nil
}

func (d decision) measure(ctx context.Context) (Latency, error) {
	took := make([]time.Duration, 0, latencySamples)
	for begin := time.Now(); len(took) < latencySamples && time.Since(begin) < latencyBudget; {
		start := time.Now()
		if err := d.decide(ctx, len(took)); err != nil {
			return Latency{}, fmt.Errorf("measure %s (%s): %w", d.strategy, d.name, err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return Latency{Strategy: d.strategy, Decision: d.name, Samples: len(took), Median: took[len(took)/2],
		P95: took[len(took)*95/100]}, nil
}

var errWrongDecision = errors.New("the strategy took a first for a duplicate, or the other way around")

func first(ok bool) error {
	if ok {
		return nil
	}
	return errWrongDecision
}

// claim returns nil as well if Redis does not answer in time: the measured time is then the claim's
// whole budget, after which its caller goes on to the database.
func claim(ctx context.Context, claims *dedup.Claims, key string) error {
	_, err := claims.Claim(ctx, key, 5*time.Second)
	if late, ok := errors.AsType[net.Error](err); ok && late.Timeout() && ctx.Err() == nil {
		return nil
	}
	return err
}

func key(run string, n int) string { return run + "-" + strconv.Itoa(n) }

func latencySubject(run string) string { return "lab." + run + ".latency" }

// insertKey fails unless the key is new exactly when it should be.
func (s *servers) insertKey(ctx context.Context, key string, isNew bool) error {
	inserted, err := s.Naive.Exec(ctx, "INSERT INTO decisions (key) VALUES ($1) ON CONFLICT DO NOTHING", key)
	if err != nil {
		return err
	}
	return first((inserted.RowsAffected() == 1) == isNew)
}

func (s *servers) openLatencyStream(ctx context.Context, run string) (*dedup.Stream, error) {
	config := jetstream.StreamConfig{Name: "LAB-LATENCY-" + run, Subjects: []string{latencySubject(run)},
		Duplicates: time.Minute, MaxAge: time.Hour}
	if _, err := s.JS.CreateStream(ctx, config); err != nil {
		return nil, fmt.Errorf("open the stream for latencies: %w", err)
	}
	return dedup.NewStream(s.JS, config.Name), nil
}

func (s *servers) forgetLatency(ctx context.Context, run string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := s.Naive.Exec(ctx, "DELETE FROM decisions WHERE key LIKE $1 || '-%'", run)
	if err = errors.Join(err, s.JS.DeleteStream(ctx, "LAB-LATENCY-"+run)); err != nil {
		s.log.WarnContext(ctx, "a measurement's traces were left behind", "run", run, "error", err)
	}
}

func newRunName() string { return rand.Text()[:8] }
