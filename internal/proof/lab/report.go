package lab

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what a round of experiments found.
type Report struct {
	Results []Result  `json:"results"`
	Latency []Latency `json:"latency"`
}

// Problems lists what is wrong with the shop or with the lab, one line each. A naive twin that
// fails as expected is no problem.
func (r Report) Problems() []string {
	var problems []string
	for _, result := range r.Results {
		for _, p := range []string{result.Guarded.problem("guarded"), result.Naive.problem("naive")} {
			if p != "" {
				problems = append(problems, result.Experiment+": "+p)
			}
		}
	}
	return problems
}

func (o Outcome) problem(twin string) string {
	switch {
	case o.Failure != "":
		return fmt.Sprintf("the %s twin could not be run to its end: %s", twin, o.Failure)
	case o.Verdict != o.Expected:
		return fmt.Sprintf("the %s twin %s (%s), expected: %s", twin, o.Verdict, o.Counts(), o.Expected)
	}
	return ""
}

// Counts names the effects that went wrong, as "orders: 2 instead of 1", or all of them if none
// did.
func (o Outcome) Counts() string {
	var wrong, right []string
	for _, e := range o.Effects {
		if e.Got == e.Want {
			right = append(right, fmt.Sprintf("%s: %d", e.Name, e.Got))
		} else {
			wrong = append(wrong, fmt.Sprintf("%s: %d instead of %d", e.Name, e.Got, e.Want))
		}
	}
	if len(wrong) > 0 {
		return strings.Join(wrong, ", ")
	}
	return strings.Join(right, ", ")
}

// WriteTable writes a line for every experiment, and below them what each decision costs.
func (r Report) WriteTable(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "STRATEGY\tFAULT\tNAIVE\tGUARDED\tEXPERIMENT")
	for _, result := range r.Results {
		e, err := Find(result.Experiment)
		if err != nil {
			return err
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", e.Strategy, e.Fault, result.Naive.inTable(),
			result.Guarded.inTable(), e.ID)
	}
	if len(r.Latency) > 0 {
		fmt.Fprintln(table, "\nSTRATEGY\tDECISION\tMEDIAN\tP95")
	}
	for _, l := range r.Latency {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", l.Strategy, l.Decision, Rounded(l.Median), Rounded(l.P95))
	}
	return table.Flush()
}

func (o Outcome) inTable() string {
	switch {
	case o.Failure != "":
		return "NOT RUN"
	case o.Verdict == Holds && o.Expected == Holds:
		return string(Holds)
	default:
		return fmt.Sprintf("%s (%s)", o.Verdict, o.Counts())
	}
}

// Rounded keeps of a duration what its measurement is good for: three digits.
func Rounded(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}
