package torture

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/onceshop/onceshop/internal/crash"
)

// Report is what a run has done and found.
type Report struct {
	Seed       uint64                `json:"seed"`
	Duration   time.Duration         `json:"duration_ns"`
	Operations int64                 `json:"operations"`
	Retries    int64                 `json:"retries"`
	Answers    map[string]int64      `json:"answers"`
	Crashes    map[crash.Point]int64 `json:"crashes"`
	Faults     map[string]int64      `json:"faults"`
	Violations []Violation           `json:"violations"`
}

func answerKind(c call) string {
	switch {
	case c.status == 0:
		return "no answer"
	case c.replayed:
		return fmt.Sprintf("%d replayed", c.status)
	case c.code != "":
		return fmt.Sprintf("%d %s", c.status, c.code)
	default:
		return fmt.Sprint(c.status)
	}
}

func (r *run) report() Report {
	return Report{Seed: r.Seed, Duration: r.Duration, Operations: r.count.operations.Load(), Retries: r.count.retries.Load(),
		Answers: r.count.answers, Crashes: r.count.crashes, Faults: r.count.faults, Violations: r.violations}
}

// Write writes the report for people.
func (r Report) Write(out io.Writer) {
	fmt.Fprintf(out, "\nTorture with --seed %d for %s: %d operations, of them %d retries\n", r.Seed, r.Duration, r.Operations, r.Retries)
	section(out, "Answers", r.Answers)
	crashes := map[string]int64{}
	for _, p := range crash.Points() {
		crashes[string(p)] = r.Crashes[p]
	}
	section(out, "Crashes", crashes)
	section(out, "Faults", r.Faults)
	for _, v := range r.Violations {
		fmt.Fprintf(out, "\nVIOLATED %s %s: %s\n", v.Invariant, v.Order, v.Says)
		for _, line := range v.Timeline {
			fmt.Fprintln(out, "  "+line)
		}
	}
}

func section(out io.Writer, title string, counts map[string]int64) {
	fmt.Fprintf(out, "\n%s\n", title)
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(out, "  %7d  %s\n", counts[name], name)
	}
}
