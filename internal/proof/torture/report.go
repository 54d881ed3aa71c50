package torture

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/timeline"
)

// Report is what a run has done and found. Times are in nanoseconds.
type Report struct {
	Seed    uint64 `json:"seed"`
	Command string `json:"command"`
	// Broker describes a broker that the run did not start, and what the run left out for it.
	Broker string `json:"broker,omitempty"`
	// Logs is the run's folder, if it was kept.
	Logs       string        `json:"logs,omitempty"`
	Duration   time.Duration `json:"duration_ns"`
	Operations int64         `json:"operations"`
	Retries    int64         `json:"retries"`
	Keys       int           `json:"keys"`
	// Acknowledged and lost, charged twice and oversold count keys, orders and products.
	Lost         int `json:"acknowledged_and_lost"`
	ChargedTwice int `json:"charged_twice"`
	Oversold     int `json:"oversold"`
	// Receipts are different ones, Extras further copies of them, which crashes between the mail
	// server's 250 and our record explain.
	Receipts int64 `json:"receipts"`
	Extras   int64 `json:"receipts_extra"`
	// ExtraCauses are what broke when the copy before was accepted.
	ExtraCauses map[string]int64 `json:"receipts_extra_causes"`
	Kills       int64            `json:"kills"`
	// Stalled is the longest time for which the machine gave the run no turn.
	Stalled time.Duration `json:"stalled_ns"`
	// Undecided are keys whose history was too long to judge.
	Undecided  int64                    `json:"undecided"`
	Answers    map[string]int64         `json:"answers"`
	Healing    map[string]time.Duration `json:"slowest_healing_ns"`
	Drained    time.Duration            `json:"drained_ns"`
	Happened   []Happened               `json:"happened"`
	Violations []Violation              `json:"violations"`
	// Troubles are failures of the harness. Without a violation they mean that the run proved
	// nothing.
	Troubles []string `json:"harness_troubles,omitempty"`
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

func (r *run) report(ctx context.Context, happened []Happened) Report {
	c := r.count
	report := Report{Seed: r.Seed, Command: fmt.Sprintf("shop torture --seed %d --duration %s", r.Seed, r.Duration),
		Broker: r.brokerLine(), Duration: r.Duration,
		Operations: c.operations.Load(), Retries: c.retries.Load(), Keys: len(r.world.intents),
		Receipts: c.receipts.Load(), Extras: c.extras.Load(), ExtraCauses: c.causes,
		Undecided: c.undecided.Load(), Lost: int(c.lost.Load()), Answers: c.answers, Healing: c.slowest,
		Drained: r.drained, Stalled: c.stalled, Happened: happened,
		Violations: r.violations, Troubles: r.troubles}
	for _, n := range c.crashes {
		report.Kills += n
	}
	for kind, n := range c.faults {
		if strings.HasSuffix(kind, ".kill") || strings.HasSuffix(kind, ".immediate") {
			report.Kills += n
		}
	}
	for i := range report.Violations {
		v := &report.Violations[i]
		switch v.Invariant {
		case "I5":
			report.ChargedTwice++
		case "I7":
			report.Oversold++
		}
		if i < mostTimelines {
			v.Timeline = r.timelineOf(ctx, v.Order)
		}
	}
	return report
}

// mostTimelines bounds the report of a run in which everything went wrong.
const mostTimelines = 10

// timelineOf tells what happened to the order, or to the order of the charge, refund or event.
func (r *run) timelineOf(ctx context.Context, about string) []string {
	id, err := uuid.Parse(about)
	if err != nil {
		return nil
	}
	pool := r.servers.postgres.direct()
	var order uuid.UUID
	err = pool.QueryRow(ctx, `SELECT coalesce((SELECT order_id FROM charges WHERE id = $1), (SELECT order_id
		FROM outbox WHERE id = $1),
		(SELECT c.order_id FROM refunds r JOIN charges c ON c.id = r.charge_id WHERE r.id = $1), $1)`, id).Scan(&order)
	if err != nil {
		return []string{"no timeline: " + err.Error()}
	}
	events, _, err := timeline.New(pool).Of(ctx, order, 1000)
	if err != nil {
		return []string{"no timeline: " + err.Error()}
	}
	lines := []string{"order " + order.String()}
	for _, e := range events {
		lines = append(lines, fmt.Sprintf("%s  %s  %s  %s", e.At.Format("15:04:05.000"), e.Layer, e.Decision, e.Detail))
	}
	return lines
}

// Write writes the report for people.
func (r Report) Write(out io.Writer) {
	fmt.Fprintf(out, "\n%s\n\n", r.Command)
	if r.Broker != "" {
		fmt.Fprintf(out, "%s\n\n", r.Broker)
	}
	for _, line := range []struct {
		n    int64
		what string
	}{
		{r.Operations, "operations: requests of clients"}, {r.Retries, "of them retries"},
		{int64(r.Keys), "idempotency keys"}, {r.Kills, "kills of processes"},
		{int64(r.Lost), "acknowledged and lost"}, {int64(r.ChargedTwice), "charged twice"},
		{int64(r.Oversold), "oversold"},
		{r.Receipts, "receipts"}, {r.Extras, "further copies of them, after crashes"},
		{r.Undecided, "keys whose history was too long to judge"},
		{int64(len(r.Violations)), "VIOLATIONS"},
	} {
		fmt.Fprintf(out, "  %8d  %s\n", line.n, line.what)
	}
	if r.Stalled > time.Second {
		fmt.Fprintf(out, "\nThis machine was so busy with other things that the run stood still for up to %s.\n",
			r.Stalled.Round(time.Second))
	}
	fmt.Fprintf(out, "\nQuiet %s after the last fault. From a fault's end until the shop said yes again, at most:\n",
		r.Drained.Round(time.Millisecond))
	for _, kind := range slices.SortedFunc(maps.Keys(r.Healing), func(a, b string) int {
		return int(r.Healing[b] - r.Healing[a])
	}) {
		fmt.Fprintf(out, "  %8s  %s\n", r.Healing[kind].Round(time.Millisecond), kind)
	}
	section(out, "Further copies of receipts, by what broke when the one before was accepted", r.ExtraCauses)
	section(out, "Answers", r.Answers)
	fmt.Fprintln(out, "\nWhat must have happened")
	short := false
	for _, h := range r.Happened {
		mark := ""
		if h.Times < h.Least {
			mark = fmt.Sprintf("  (NOT MET: %d wanted)", h.Least)
			if r.Duration < demanding {
				mark = fmt.Sprintf("  (run too short: %d wanted)", h.Least)
				short = true
			}
		}
		fmt.Fprintf(out, "  %8d  %s%s\n", h.Times, h.What, mark)
	}
	if short {
		fmt.Fprintf(out, "\nThis run was too short for everything to happen: --duration %s or more is long enough.\n",
			demanding)
	}
	for _, trouble := range r.Troubles {
		fmt.Fprintf(out, "\nTROUBLE of the harness: %s\n", trouble)
	}
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
		fmt.Fprintf(out, "  %8d  %s\n", counts[name], name)
	}
}
