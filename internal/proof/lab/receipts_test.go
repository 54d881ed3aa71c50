package lab

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/onceshop/onceshop/internal/shoptest"
)

// What must be seen of the experiments with receipts: how often each effect of the naive twin
// happens, and, in this order, what both diagrams tell.
var expectedOfReceipts = []struct {
	experiment     string
	effects        []int
	naive, guarded []string
}{
	{"redis-two-nodes", []int{1},
		[]string{"NX: 1", "slow", "250"},
		[]string{"NX: OK", "NX: nil", "busy elsewhere", "250", "record it as sent", "stopped GET"}},
	{"redis-crash-before-expire", []int{0},
		[]string{"NX: 1", "dies before EXPIRE", "NX: 0", "sends nothing", "-1 (never expires)"},
		[]string{"NX: OK", "dies right after its claim", "busy elsewhere", "has expired", "NX: OK", "250"}},
	{"redis-marked-before-the-work", []int{0},
		[]string{"NX: 1", "dies before it sends", "NX: 0", "sends nothing"},
		[]string{"NX: OK", "receipt's row: 1", "dies before it sends", "busy elsewhere", "has expired",
			"row's lease has ended", "receipt's row: 1", "250"}},
	{"redis-ttl-shorter-than-the-work", []int{2},
		[]string{"PX 300 NX: 1", "slow", "has expired", "PX 300 NX: 1", "250", "answers again", "250"},
		[]string{"receipt's row: 1", "slow", "has expired", "NX: OK", "stopped claim the receipt's row: 0",
			"busy elsewhere", "250", "record it as sent", "done: 0", "stopped claim the receipt's row: 0"}},
	{"redis-flushall", []int{2},
		[]string{"NX: 1", "250", "FLUSHALL", "NX: 1", "250"},
		[]string{"NX: OK", "250", "done: 1", "FLUSHALL", "NX: OK", "stopped claim the receipt's row: 0"}},
	{"redis-down", []int{2},
		[]string{"down", "lost SET", "250", "lost SET", "250"},
		[]string{"down", "lost SET", "receipt's row: 1", "slow", "lost SET", "stopped claim the receipt's row: 0",
			"busy elsewhere", "250", "lost SET", "stopped claim the receipt's row: 0"}},
	{"broker-inside-the-window", []int{1, 1},
		[]string{"publish", "stored as seq 1", "dies before it marks", "delivery 1", "250", "ack", "publish",
			"stopped PubAck: duplicate of seq 1", "UPDATE"},
		[]string{"publish", "stored as seq 1", "dies before it marks", "delivery 1", "250", "ack",
			"claim the unsent event", "publish", "stopped PubAck: duplicate of seq 1", "mark it as published"}},
	{"broker-after-the-window", []int{2, 2},
		[]string{"stored as seq 1", "dies before it marks", "250", "the id is forgotten", "stored as seq 2", "250"},
		[]string{"stored as seq 1", "dies before it marks", "250", "the id is forgotten", "stored as seq 2", "2 times",
			"delivery 2", "stopped GET", "ack"}},
	{"broker-fresh-id", []int{2, 2},
		[]string{"stored as seq 1", "dies before it marks", "250", "stored as seq 2", "250"},
		[]string{"stored as seq 1", "dies before it marks", "250", "stopped PubAck: duplicate of seq 1"}},
	{"broker-dies-before-ack", []int{2},
		[]string{"seq 1, delivery 1", "250", "dies before its ack", "seq 1, delivery 2", "250", "ack"},
		[]string{"delivery 1", "250", "dies before its ack", "delivery 2", "stopped GET", "ack"}},
	{"broker-all-layers", []int{2},
		[]string{"stored as seq 1", "250", "the id is forgotten", "stored as seq 2", "restarts", "NX: 0",
			"dies before its ack", "FLUSHALL", "seq 2, delivery 2", "NX: 1", "250"},
		[]string{"stored as seq 1", "250", "the id is forgotten", "stored as seq 2", "restarts", "stopped GET",
			"dies before its ack", "FLUSHALL", "delivery 3", "NX: OK", "stopped claim the receipt's row: 0", "ack"}},
}

//nolint:tparallel // a lab runs few experiments at a time
func TestDiagramsOfReceipts(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for _, want := range expectedOfReceipts { //nolint:paralleltest // see above
		t.Run(want.experiment, func(t *testing.T) {
			result := runOf(t, l, want.experiment)
			var effects []int
			for _, effect := range result.Naive.Effects {
				effects = append(effects, effect.Got)
			}
			if !slices.Equal(effects, want.effects) {
				t.Errorf("the naive twin's effects happened %v times, want %v", effects, want.effects)
			}
			wantSteps(t, NaiveSide, result.Naive.Steps, want.naive)
			wantSteps(t, GuardedSide, result.Guarded.Steps, want.guarded)
		})
	}
}

// wantSteps expects the texts in steps, in their order.
func wantSteps(t *testing.T, side Side, steps []Step, texts []string) {
	t.Helper()
	next := 0
	var told strings.Builder
	for _, step := range steps {
		line := string(step.Kind) + " " + step.Text
		told.WriteString("\n\t" + line)
		if next < len(texts) && strings.Contains(line, texts[next]) {
			next++
		}
	}
	if next < len(texts) {
		t.Errorf("%s: no %q at its place in%s", side, texts[next], told.String())
	}
	if len(steps) > 28 {
		t.Errorf("%s: %d steps are too many to follow", side, len(steps))
	}
}

// Relays and consumers take whatever they find: those of one run must not find what is another's.
func TestRelaysDoNotDisturbEachOther(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	l := setup(t)
	var group sync.WaitGroup
	for i := range maxRuns {
		group.Go(func() { runOf(t, l, []string{"broker-after-the-window", "broker-all-layers"}[i%2]) })
	}
	group.Wait()
}
