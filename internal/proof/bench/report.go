package bench

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Report is what a run has measured, after the books were found to agree.
type Report struct {
	Machine Machine `json:"machine"`
	// Seconds is how long the run took.
	Seconds float64 `json:"seconds"`
	Rows    []Row   `json:"rows"`
	Flash   Flash   `json:"flash"`
	// Notes say what was left out, and why.
	Notes []string `json:"notes,omitempty"`
}

// Machine is where the figures come from: they mean nothing elsewhere, the ratios do.
type Machine struct {
	Cores             int    `json:"cores"`
	Go                string `json:"go"`
	Postgres          string `json:"postgres"`
	Fsync             string `json:"fsync"`
	SynchronousCommit string `json:"synchronous_commit"`
}

// Row is one scenario with one number of callers.
type Row struct {
	Scenario string `json:"scenario"`
	Callers  int    `json:"callers"`
	Naive    Figure `json:"naive"`
	Ours     Figure `json:"ours"`
	// Ratio is ours by naive.
	Ratio float64 `json:"ratio"`
}

// Figure is the median of a side's rounds.
type Figure struct {
	PerSecond float64 `json:"per_second"`
	// MedianMicroseconds and P99Microseconds are the time between a call and its answer. They are
	// told for one caller and for a crowd only.
	MedianMicroseconds float64 `json:"median_us,omitempty"`
	P99Microseconds    float64 `json:"p99_us,omitempty"`
}

func newRow(scenario string, callers int, naive, ours []sample) Row {
	row := Row{Scenario: scenario, Callers: callers, Naive: figure(naive), Ours: figure(ours)}
	if row.Naive.PerSecond > 0 {
		row.Ratio = row.Ours.PerSecond / row.Naive.PerSecond
	}
	return row
}

func figure(samples []sample) Figure {
	var rates []float64
	var medians, p99s []time.Duration
	for _, s := range samples {
		rates, medians, p99s = append(rates, s.rate), append(medians, s.median), append(p99s, s.p99)
	}
	return Figure{PerSecond: middle(rates), MedianMicroseconds: float64(middle(medians)) / float64(time.Microsecond),
		P99Microseconds: float64(middle(p99s)) / float64(time.Microsecond)}
}

// Write writes the report for people: the table, its bars, and what was verified.
func (r Report) Write(out io.Writer) {
	fmt.Fprint(out, r.Machine, "\n\n")
	writeTable(out, "NAIVE", "OURS", r.Rows)
	r.writeChart(out)
	fmt.Fprintf(out, "\nFlash sale over HTTP: %s\n", r.Flash)
	fmt.Fprintf(out, "Every figure is the median of %d rounds, written after the tables were found to agree with "+
		"the answers. The run took %.0f s.\n", rounds, r.Seconds)
	for _, note := range r.Notes {
		fmt.Fprintln(out, note)
	}
}

func (m Machine) String() string {
	return fmt.Sprintf("%d cores, Postgres %s (fsync %s, synchronous_commit %s), %s; callers, servers and database "+
		"share them.",
		m.Cores, m.Postgres, m.Fsync, m.SynchronousCommit, m.Go)
}

func writeTable(out io.Writer, naive, ours string, rows []Row) {
	const header, line = "%-28s %7s %8s %8s %6s %10s %10s %10s %10s\n", "%-28s %7d %8s %8s %6.2f %10s %10s %10s %10s\n"
	fmt.Fprintf(out, header, "SCENARIO", "CALLERS", naive+"/S", ours+"/S", "RATIO", naive+" P50", ours+" P50",
		naive+" P99", ours+" P99")
	for _, row := range rows {
		fmt.Fprintf(out, line, row.Scenario, row.Callers, grouped(row.Naive.PerSecond), grouped(row.Ours.PerSecond),
			row.Ratio, milliseconds(row.Naive.MedianMicroseconds), milliseconds(row.Ours.MedianMicroseconds),
			milliseconds(row.Naive.P99Microseconds), milliseconds(row.Ours.P99Microseconds))
	}
	fmt.Fprintln(out)
}

// Growth is what a run has measured of tables that have grown, after their books were found to
// agree.
type Growth struct {
	Machine Machine `json:"machine"`
	// Orders is how many orders were over when the measuring began.
	Orders int `json:"orders"`
	// Seconds is how long the measuring took.
	Seconds float64     `json:"seconds"`
	Rows    []GrowthRow `json:"rows"`
	// Notes say what was left out, and why.
	Notes []string `json:"notes,omitempty"`
}

// GrowthRow is one scenario with one number of callers, on tables that are nearly empty and on
// those that have grown.
type GrowthRow struct {
	Scenario string `json:"scenario"`
	Callers  int    `json:"callers"`
	Empty    Figure `json:"empty"`
	Grown    Figure `json:"grown"`
	// Ratio is grown by empty.
	Ratio float64 `json:"ratio"`
}

// Write writes the report for people.
func (g Growth) Write(out io.Writer) {
	fmt.Fprintf(out, "%s\nThe shop with hardly an order beside the shop with %s orders that are over.\n\n", g.Machine,
		grouped(float64(g.Orders)))
	rows := make([]Row, len(g.Rows))
	for i, row := range g.Rows {
		rows[i] = Row{Scenario: row.Scenario, Callers: row.Callers, Naive: row.Empty, Ours: row.Grown, Ratio: row.Ratio}
	}
	writeTable(out, "EMPTY", "GROWN", rows)
	fmt.Fprintf(out, "Every figure is the median of %d rounds, written after the tables were found to agree with "+
		"the answers and every invariant of the shop to hold.\n"+
		"The provider and the mailbox witnessed nothing of the orders that were written; nobody asked them. The "+
		"measuring took %.0f s.\n", rounds, g.Seconds)
	for _, note := range g.Notes {
		fmt.Fprintln(out, note)
	}
}

func milliseconds(microseconds float64) string {
	switch {
	case microseconds == 0:
		return ""
	case microseconds < 10_000:
		return fmt.Sprintf("%.3f ms", microseconds/1000)
	}
	return fmt.Sprintf("%.0f ms", microseconds/1000)
}

// chartWidth is how long the longest bar is.
const chartWidth = 50

// writeChart draws each scenario with its most callers; its longer bar is as long as another's.
func (r Report) writeChart(out io.Writer) {
	for i, row := range r.Rows {
		if i+1 < len(r.Rows) && r.Rows[i+1].Scenario == row.Scenario {
			continue
		}
		most := max(row.Naive.PerSecond, row.Ours.PerSecond)
		fmt.Fprintf(out, "%s, callers: %d\n", row.Scenario, row.Callers)
		for _, bar := range []struct {
			name   string
			figure Figure
		}{{"naive", row.Naive}, {"ours", row.Ours}} {
			length := 0
			if most > 0 {
				length = max(1, int(bar.figure.PerSecond/most*chartWidth+0.5))
			}
			fmt.Fprintf(out, "  %-5s %s %s/s\n", bar.name, strings.Repeat("#", length), grouped(bar.figure.PerSecond))
		}
	}
}

// grouped writes a number with a comma between thousands.
func grouped(n float64) string {
	digits := fmt.Sprintf("%.0f", n)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}
