package torture

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// fault is something that goes wrong for a while. The schedule's file holds one a line.
type fault struct {
	At   time.Duration `json:"at_ns"`
	For  time.Duration `json:"for_ns"`
	Kind string        `json:"kind"`
	// Node is whose line it happens to; "" means both nodes'.
	Node string `json:"node,omitempty"`
}

const (
	// In a window some faults happen together, all over before it ends. A quarter of the windows
	// has none.
	shortestWindow, longestWindow = 3 * time.Second, 7 * time.Second
	mostTogether                  = 4
	// lull is how long the shop is left alone before the run ends.
	lull = time.Second
)

// schedule is what will go wrong, decided by the seed, the duration and the kinds alone. It holds
// each kind leastFaults times.
func schedule(seed uint64, duration time.Duration, kinds []kind) []fault {
	random := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // replayed from the seed
	for {
		all := draw(random, duration, kinds)
		times := map[string]int{}
		for _, f := range all {
			times[f.Kind]++
		}
		// In time for a copy of the database that misses something.
		outage := slices.ContainsFunc(all, func(f fault) bool {
			return (f.Kind == "postgres.kill" || f.Kind == "postgres.immediate") && f.At > duration/backupAfter &&
				f.At < duration*3/4
		})
		if (outage || duration < demanding) &&
			!slices.ContainsFunc(kinds, func(k kind) bool { return times[k.name] < leastFaults(duration) }) {
			return all
		}
	}
}

// leastFaults is how often each kind of fault must happen in a run.
func leastFaults(duration time.Duration) int {
	switch {
	case duration >= long:
		return 20
	case duration >= demanding:
		return 1
	default:
		return 0
	}
}

// draw fills one window after the other. Kinds come in shuffled decks, so that each comes about as
// often as the others.
func draw(random *rand.Rand, duration time.Duration, kinds []kind) []fault {
	var all []fault
	var deck []int
	calm := 0
	for at, n := time.Duration(0), 0; ; n++ {
		length := shortestWindow + time.Duration(random.Int64N(int64(longestWindow-shortestWindow)))
		if at+length+lull > duration {
			return all
		}
		if n%4 == 0 {
			calm = n + random.IntN(4)
		}
		if n != calm {
			var together []fault
			for range 1 + random.IntN(mostTogether) {
				if len(deck) == 0 {
					deck = random.Perm(len(kinds))
				}
				k := kinds[deck[0]]
				if hits(together, k.target) {
					continue // next time
				}
				deck = deck[1:]
				together = append(together, one(random, k, at, length))
			}
			all = append(all, together...)
		}
		at += length
	}
}

// one draws when, for how long and to whom a fault happens.
func one(random *rand.Rand, k kind, at, window time.Duration) fault {
	begin := time.Duration(random.Int64N(int64(window / 3)))
	f := fault{At: at + begin, For: window/6 + time.Duration(random.Int64N(int64(window/3))), Kind: k.name}
	who := random.IntN(3)
	if k.target == "node" {
		who %= 2
	}
	if who < 2 {
		f.Node = nodeNames[who]
	}
	return f
}

func hits(faults []fault, target string) bool {
	for _, f := range faults {
		if kindOf(f.Kind).target == target {
			return true
		}
	}
	return false
}

// writeSchedule keeps what will happen in the run's folder.
func (r *run) writeSchedule(all []fault) error {
	file, err := os.Create(filepath.Join(r.dir, "schedule.jsonl"))
	if err != nil {
		return fmt.Errorf("write the schedule: %w", err)
	}
	defer file.Close()
	encoder := json.NewEncoder(file)
	for _, f := range all {
		if err := encoder.Encode(f); err != nil {
			return fmt.Errorf("write the schedule: %w", err)
		}
	}
	return nil
}
