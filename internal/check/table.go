package check

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// WriteTable writes a line for every invariant and, below the table, the first findings.
func (r Report) WriteTable(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "INVARIANT\tBY\tPROMISE\tROWS\tRESULT")
	for _, result := range r {
		rows := fmt.Sprint(result.Rows)
		if result.NotChecked != "" {
			rows = "-"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", result.Invariant, result.Source, result.Says, rows, result.outcome())
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, result := range r {
		result.writeFindings(out, "VIOLATED", result.Violations)
		result.writeFindings(out, "warning", result.Warnings)
	}
	return nil
}

// Colors of the summary.
const (
	green  = "\x1b[32m"
	red    = "\x1b[31m"
	normal = "\x1b[0m"
)

// WriteSummary writes one line: how many invariants hold, and which do not.
func (r Report) WriteSummary(out io.Writer, color bool) error {
	var violated []string
	notChecked := 0
	for _, result := range r {
		switch {
		case result.NotChecked != "":
			notChecked++
		case result.Violations.Count > 0:
			violated = append(violated, result.Invariant)
		}
	}
	line := fmt.Sprintf("%d hold", len(r)-notChecked-len(violated))
	if notChecked > 0 {
		line += fmt.Sprintf(", %d not checked", notChecked)
	}
	tone := green
	if violated != nil {
		tone = red
		line += fmt.Sprintf(", %d violated: %s", len(violated), strings.Join(violated, ", "))
	}
	if color {
		line = tone + line + normal
	}
	_, err := fmt.Fprintf(out, "\n%s\n", line)
	return err
}

func (r Result) outcome() string {
	switch {
	case r.NotChecked != "":
		return "not checked: " + r.NotChecked
	case r.Violations.Count > 0:
		return fmt.Sprintf("VIOLATED (%d)", r.Violations.Count)
	case r.Warnings.Count > 0:
		return fmt.Sprintf("warning (%d)", r.Warnings.Count)
	default:
		return "ok"
	}
}

func (r Result) writeFindings(out io.Writer, what string, found Findings) {
	if found.Count == 0 {
		return
	}
	fmt.Fprintf(out, "\n%s %s (%s): %s\n", r.Invariant, what, r.Source, r.Says)
	for _, f := range found.First {
		fmt.Fprintf(out, "  %s  %s\n", f.ID, f.Says)
	}
	if more := found.Count - int64(len(found.First)); more > 0 {
		fmt.Fprintf(out, "  … and %d more\n", more)
	}
}
