package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/onceshop/onceshop/internal/redisclient"
)

const (
	// runTimeout bounds one experiment.
	runTimeout = 60 * time.Second
	// maxRuns is how many experiments one process runs at the same time.
	maxRuns = 4
)

// ErrBusy reports that as many experiments are running as may.
var ErrBusy = errors.New("lab: too many experiments are running: try again in a moment")

// Witnesses start the lab's own payment provider and mail server, which count what really happened
// there. Each function returns where its server answers and what stops it.
type Witnesses struct {
	Provider func() (url string, stop func(), err error)
	Mailbox  func() (smtpURL, pageURL string, stop func(), err error)
}

// ErrNoWitnesses reports a program that cannot start them.
var ErrNoWitnesses = errors.New("this program is built without internal/demo and has no payment provider and no " +
	"mailbox for the lab: run the lab with a program that is built with it")

// Lab runs experiments against the servers of a shop.
type Lab struct {
	shop  *pgxpool.Pool
	redis redisclient.Client
	nats  *nats.Conn
	log   *slog.Logger

	witnesses Witnesses

	slots *semaphore.Weighted
	mu    sync.Mutex
	bench *servers // nil until the first experiment
}

// New returns a lab on the servers of a shop. It leaves them alone, and starts no witness, until
// the first experiment, which fails with ErrNoWitnesses when there are none. The caller closes the
// clients after Close.
func New(shop *pgxpool.Pool, redis redisclient.Client, nats *nats.Conn, witnesses Witnesses, log *slog.Logger) *Lab {
	return &Lab{shop: shop, redis: redis, nats: nats, witnesses: witnesses, log: log,
		slots: semaphore.NewWeighted(maxRuns)}
}

// Close ends the lab's own servers. No experiment may be running.
func (l *Lab) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bench != nil {
		l.bench.close()
		l.bench = nil
	}
}

// Run injects the fault of the experiment into both twins at the same time and returns the result.
// An error means that the experiment could not be set up.
func (l *Lab) Run(ctx context.Context, e Experiment) (Result, error) {
	if !l.slots.TryAcquire(1) {
		return Result{}, ErrBusy
	}
	defer l.slots.Release(1)
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	servers, err := l.servers(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("set up the lab: %w", err)
	}
	result := Result{Experiment: e.ID}
	run := strings.ToLower(rand.Text()[:8])
	var twins errgroup.Group
	twins.Go(func() error {
		result.Naive = servers.run(ctx, e.Naive, NaiveSide, run)
		return nil
	})
	twins.Go(func() error {
		result.Guarded = servers.run(ctx, e.Guarded, GuardedSide, run)
		return nil
	})
	return result, twins.Wait()
}

// run runs one twin and counts what it did.
func (s *servers) run(ctx context.Context, twin Twin, side Side, run string) Outcome {
	b := &Bench{servers: s, Name: run + "-" + string(side), side: side, begin: time.Now()}
	defer b.cleanUp()
	err := safely(func() error { return twin.Run(ctx, b) })
	if err == nil {
		err = b.recount(ctx)
	}
	outcome := b.outcome(twin, err)
	if err != nil {
		s.log.WarnContext(ctx, "experiment failed", "run", b.Name, "error", err)
	}
	return outcome
}

// safely turns a panic into an error: an experiment must not take the shop with it.
func safely(run func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return run()
}

func (l *Lab) servers(ctx context.Context) (*servers, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.witnesses.Provider == nil || l.witnesses.Mailbox == nil {
		return nil, ErrNoWitnesses
	}
	if l.bench == nil {
		js, err := jetstream.New(l.nats)
		if err != nil {
			return nil, fmt.Errorf("use the broker: %w", err)
		}
		all, ok := l.redis.(redis.UniversalClient)
		if !ok {
			return nil, fmt.Errorf("the lab cannot work with a Redis client of the type %T", l.redis)
		}
		if l.bench, err = startServers(ctx, l.shop, all, js, l.witnesses, l.log); err != nil {
			return nil, err
		}
	}
	return l.bench, nil
}
