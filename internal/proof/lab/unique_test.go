package lab

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/onceshop/onceshop/internal/shoptest"
)

// How often each effect of the naive twin happens, and who stops the guarded one's duplicates.
var expectedOfUnique = []struct {
	experiment string
	naive      []int
	stoppedBy  []Actor
}{
	{"unique-double-click", []int{2, 2}, []Actor{Database}},
	{"unique-answer-lost", []int{2, 2}, []Actor{Database}},
	{"unique-crash-after-charge", []int{2, 2, 2}, []Actor{Database}},
	{"unique-two-tabs", []int{2}, []Actor{Database}},
	{"unique-other-basket", []int{1}, []Actor{Database}},
	{"unique-select-then-insert", []int{3}, []Actor{Database}},
	{"memory-one-process", []int{1}, []Actor{NodeA}},
	{"memory-restart", []int{6}, []Actor{NodeA, Database}},
	{"memory-second-node", []int{2}, []Actor{Database}},
	{"memory-ttl-passed", []int{2}, []Actor{Database}},
	{"memory-evicted", []int{6}, nil}, // the memory evicts in its own time
}

// What a diagram says of the guarded twin is what the story promises, and it tells of nothing
// before its cause.
//
//nolint:tparallel // a lab runs few experiments at a time
func TestDiagrams(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for _, want := range expectedOfUnique { //nolint:paralleltest // see above
		t.Run(want.experiment, func(t *testing.T) {
			result := runOf(t, l, want.experiment)
			var got []int
			for _, effect := range result.Naive.Effects {
				got = append(got, effect.Got)
			}
			if !slices.Equal(got, want.naive) {
				t.Errorf("the naive twin's effects happened %v times, want %v", got, want.naive)
			}
			steps := result.Guarded.Steps
			stops := map[Actor]bool{}
			for _, step := range steps {
				if step.Kind == Stopped {
					stops[step.From] = true
				}
			}
			for _, actor := range want.stoppedBy {
				if !stops[actor] {
					t.Errorf("stopped by %v, want %v", slices.Collect(maps.Keys(stops)), want.stoppedBy)
				}
			}
			if len(steps) < 6 || len(steps) > 22 {
				t.Errorf("%d steps", len(steps))
			}
			stopped := slices.IndexFunc(steps, func(s Step) bool { return s.Kind == Stopped })
			committed := slices.IndexFunc(steps, func(s Step) bool { return strings.HasPrefix(s.Text, "COMMIT") })
			if stopped < committed {
				t.Errorf("step %d, %q, comes before the first commit, %d", stopped, steps[stopped].Text, committed)
			}
		})
	}
}

// Reconcilers meet the charges of other runs, and races share the connections.
func TestRunsDoNotDisturbEachOther(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	l := setup(t)
	var group sync.WaitGroup
	for i := range maxRuns {
		group.Go(func() { runOf(t, l, []string{"unique-crash-after-charge", "unique-select-then-insert"}[i%2]) })
	}
	group.Wait()
}

func runOf(t *testing.T, l *Lab, id string) Result {
	t.Helper()
	e, err := Find(id)
	if err != nil {
		t.Error(err)
		return Result{}
	}
	result, err := l.Run(t.Context(), e)
	if err != nil {
		t.Error(err)
	}
	for side, outcome := range map[Side]Outcome{NaiveSide: result.Naive, GuardedSide: result.Guarded} {
		if outcome.Failure != "" || outcome.Verdict != outcome.Expected {
			t.Errorf("%s: %q, want %q; failure %q; effects %+v", side, outcome.Verdict, outcome.Expected,
				outcome.Failure, outcome.Effects)
		}
	}
	wantPrediction(t, e, result)
	return result
}

// wantPrediction expects that a reader can choose what came, and that the twins part at a step
// unless both hold.
func wantPrediction(t *testing.T, e Experiment, result Result) {
	t.Helper()
	at := slices.IndexFunc(result.Naive.Effects, func(effect Effect) bool { return effect.Name == e.Predict.Effect })
	if at < 0 || !slices.Contains(e.Predict.Choices, result.Naive.Effects[at].Got) {
		t.Errorf("%s of %v: the naive twin's effects are %+v", e.Predict.Effect, e.Predict.Choices,
			result.Naive.Effects)
	}
	if naive := result.Naive; (naive.PartsAt == 0) != (e.Naive.Expect == Holds) || naive.PartsAt > len(naive.Steps) {
		t.Errorf("the naive twin parts at %d of %d steps", naive.PartsAt, len(naive.Steps))
	}
	if guarded := result.Guarded; guarded.PartsAt > len(guarded.Steps) ||
		guarded.PartsAt > 0 && guarded.Steps[guarded.PartsAt-1].Kind != Stopped {
		t.Errorf("the guarded twin parts at step %d", guarded.PartsAt)
	}
}
