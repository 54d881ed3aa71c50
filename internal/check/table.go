package check

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// WriteTable writes a line for every invariant and, below the table, the first findings.
func (r Report) WriteTable(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "INVARIANT\tBY\tSAYS\tROWS\tRESULT")
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
