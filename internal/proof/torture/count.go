package torture

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/proof/kill"
)

// counters are what happened, for the report and for the claims that it must have.
type counters struct {
	operations, retries, peeps, lost, receipts, extras, undecided atomic.Int64
	decisions, outside                                            atomic.Int64

	// lastGood is when the latest call began that the shop said yes to.
	lastGood atomic.Int64

	mu      sync.Mutex
	answers map[string]int64 // by status and code
	crashes map[crash.Point]int64
	faults  map[string]int64
	slowest map[string]time.Duration // healing after each kind of fault
	causes  map[string]int64         // of further copies of receipts
	stalled time.Duration            // the longest time for which this machine gave us no turn
}

func newCounters() *counters {
	return &counters{answers: map[string]int64{}, crashes: map[crash.Point]int64{}, faults: map[string]int64{},
		slowest: map[string]time.Duration{}, causes: map[string]int64{}}
}

func (c *counters) healed(kind string, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slowest[kind] = max(c.slowest[kind], took)
}

func (c *counters) answer(made call) {
	c.operations.Add(1)
	for good := c.lastGood.Load(); made.bound() && int64(made.at) > good; good = c.lastGood.Load() {
		if c.lastGood.CompareAndSwap(good, int64(made.at)) {
			break
		}
	}
	kind := answerKind(made)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers[kind]++
}

func (c *counters) crash(p crash.Point) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.crashes[p]++
}

// met reports whether nodes have died so often at each point.
func (c *counters) met(least int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !slices.ContainsFunc(kill.Points(), func(p crash.Point) bool { return c.crashes[p] < least })
}

func (c *counters) fault(kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults[kind]++
}

func (c *counters) extra(cause string) { c.causes[cause]++ }

// watch tells how it goes, until ctx ends.
func (r *run) watch(ctx context.Context) {
	var before int64
	const every = 5 * time.Second
	for asleep := time.Now(); sleep(ctx, every); asleep = time.Now() {
		r.count.stalled = max(r.count.stalled, time.Since(asleep)-every)
		n := r.count.operations.Load()
		r.count.mu.Lock()
		var crashes, faults int64
		for _, times := range r.count.crashes {
			crashes += times
		}
		for _, times := range r.count.faults {
			faults += times
		}
		r.count.mu.Unlock()
		r.tell("%d operations, %d a second; %d crashes, %d faults", n, (n-before)/int64(every/time.Second), crashes,
			faults)
		before = n
	}
}
