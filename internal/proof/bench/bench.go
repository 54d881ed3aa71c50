// Package bench measures the shop beside a naive twin in one run, and believes no figure before the
// books agree with the answers.
package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
)

// MinDuration is the shortest run whose rounds are long enough to tell anything.
const MinDuration = 20 * time.Second

const (
	// rounds is how often each side is measured, in turn; the median counts. What slows the machine
	// for a second or two, such as a checkpoint, then does not decide.
	rounds = 5
	// minRound is the shortest round, also when there is no time: then there is one.
	minRound = 10 * time.Millisecond
	// besides is what a scenario takes beside its rounds: reading the books, analyzing, waiting for
	// the last answers.
	besides = 400 * time.Millisecond
	// shareOfRounds is what is left of the rest beside warming up.
	shareOfRounds = 0.85
)

// callerCounts are how many call at once. Crowds show the peak, and what queueing costs a caller.
var (
	callerCounts = []int{1, 8, maxCallers}
	crowds       = []int{1, 8, maxCallers, 256, 1024}
)

// maxCallers is the number of buyers, too. In a crowd, several callers act for one of them.
const maxCallers = 64

// weight is how many rounds of usual length a round takes: each of a crowd has to call a few times.
func weight(callers int) int { return 1 + callers/256 }

// Config says what a run works with.
type Config struct {
	// DB is a pool on the database. The run keeps to schemas of its own there, and drops them.
	DB *pgxpool.Pool
	// Broker is a connection to a NATS server with JetStream. It may be nil: the relay is left out
	// then.
	Broker *nats.Conn
	// Provider starts a simulated payment provider and returns its URL. Only Run calls it, once for
	// each shop.
	Provider func() (url string, stop func(), err error)
	// Duration is how long the whole run should take.
	Duration time.Duration
	// Progress is told what is being measured, and which of how many steps it is. It may be nil.
	Progress func(doing string, step, steps int)
}

// Run measures everything. It is an error if the books of a twin do not agree with the answers that
// its callers got.
func Run(ctx context.Context, c Config) (report Report, err error) {
	begin := time.Now()
	if c.Progress == nil {
		c.Progress = func(string, int, int) {}
	}
	flash := flashFor(c.Duration)
	b, err := open(ctx, c.DB, c.Provider, int64(flash.Stock))
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	scenarios, notes := b.addPgbench(b.scenarios())
	scenarios, without, err := b.addRelay(ctx, c.Broker, scenarios)
	if err != nil {
		return report, err
	}
	notes = append(notes, without...)
	report = Report{Machine: b.machine(ctx), Notes: notes}
	steps := len(scenarios) + 1
	c.Progress("flash sale, verified", 0, steps)
	if report.Flash, err = b.sellOut(ctx, flash); err != nil {
		return report, err
	}
	length := roundLength(c.Duration-time.Since(begin)-pgbenchTime, scenarios)
	for i, s := range scenarios {
		c.Progress(s.name, i+1, steps)
		rows, err := b.measure(ctx, s, length)
		if err != nil {
			return report, err
		}
		report.Rows = append(report.Rows, rows...)
	}
	report.Seconds = time.Since(begin).Seconds()
	return report, b.checkOurs(ctx)
}

// scenario is what is measured on two sides, with each number of callers.
type scenario struct {
	name        string
	callers     []int
	naive, ours side
}

// roundLength is how long a round may be for all scenarios to fit into what is left.
func roundLength(left time.Duration, scenarios []scenario) time.Duration {
	measurements := 0
	for _, s := range scenarios {
		for _, callers := range s.callers {
			measurements += 2 * weight(callers)
		}
	}
	left -= time.Duration(len(scenarios)) * besides
	return max(minRound, time.Duration(float64(left)*shareOfRounds/float64(measurements*rounds)))
}

// measure runs the rounds of a scenario, the sides in turn so that drift hits both, and then
// verifies what they did.
func (s *schemas) measure(ctx context.Context, what scenario, length time.Duration) ([]Row, error) {
	rows, err := what.measure(ctx, length)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what.name, err)
	}
	return rows, s.settle(ctx)
}

func (s scenario) measure(ctx context.Context, length time.Duration) ([]Row, error) {
	sides := [2]side{s.naive, s.ours}
	var before [2]page
	for i, side := range sides {
		if side.books == nil {
			continue
		}
		var err error
		if before[i], err = side.books.readSince(ctx, side.since); err != nil {
			return nil, err
		}
	}
	calls, last := [2]int64{}, rounds
	if length == minRound {
		last = 1
	}
	var rows []Row
	for _, callers := range s.callers {
		var samples [2][]sample
		for round := -1; round < last; round++ {
			for i, side := range sides {
				took := length * time.Duration(weight(callers))
				if round < 0 { // to warm up
					if took /= 4; side.run != nil {
						continue
					}
				}
				got, err := side.load(ctx, callers, took)
				if err != nil {
					return nil, err
				}
				calls[i] += int64(got.calls)
				if round >= 0 {
					samples[i] = append(samples[i], got)
				}
			}
		}
		rows = append(rows, newRow(s.name, callers, samples[0], samples[1]))
	}
	for i, side := range sides {
		if side.books == nil {
			continue
		}
		after, err := side.books.readSince(ctx, side.since)
		if err != nil {
			return nil, err
		}
		answered := entry{Orders: side.each.Orders * calls[i], Units: side.each.Units * calls[i],
			Paid: side.each.Paid * calls[i]}
		if err := verify(before[i], after, answered); err != nil {
			return nil, fmt.Errorf("the books in the schema %s do not agree with the answers: %w",
				side.books.pool.Config().ConnConfig.RuntimeParams["search_path"], err)
		}
	}
	return rows, nil
}
