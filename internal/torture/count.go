package torture

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onceshop/onceshop/internal/crash"
)

// counters are what happened, for the report and for the claims that it must have.
type counters struct {
	operations, retries, peeps, replays atomic.Int64

	mu      sync.Mutex
	answers map[string]int64 // by status and code
	crashes map[crash.Point]int64
	faults  map[string]int64
}

func (c *counters) answer(n *node, made call) {
	c.operations.Add(1)
	if made.replayed {
		c.replays.Add(1)
	}
	kind := answerKind(made)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answers == nil {
		c.answers = map[string]int64{}
	}
	c.answers[kind]++
	_ = n
}

func (c *counters) crash(p crash.Point) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.crashes == nil {
		c.crashes = map[crash.Point]int64{}
	}
	c.crashes[p]++
}

func (c *counters) fault(kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.faults == nil {
		c.faults = map[string]int64{}
	}
	c.faults[kind]++
}

// watch tells how it goes, until ctx ends.
func (r *run) watch(ctx context.Context) {
	var before int64
	const every = 5 * time.Second
	for sleep(ctx, every) {
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
		r.tell("%d operations, %d a second; %d crashes, %d faults", n, (n-before)/int64(every/time.Second), crashes, faults)
		before = n
	}
}
