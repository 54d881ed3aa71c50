package check_test

import (
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/check"
)

func TestSummary(t *testing.T) {
	t.Parallel()
	fine, unseen := check.Result{Invariant: "I1"}, check.Result{Invariant: "I13", NotChecked: "no mailbox"}
	broken := check.Result{Invariant: "I7", Violations: check.Findings{Count: 3}}
	for want, report := range map[string]check.Report{
		"2 hold":                                {fine, fine},
		"1 hold, 1 not checked":                 {fine, unseen},
		"1 hold, 1 not checked, 1 violated: I7": {fine, unseen, broken},
		"0 hold, 2 violated: I7, I7":            {broken, broken},
	} {
		for _, color := range []bool{false, true} {
			var out strings.Builder
			if err := report.WriteSummary(&out, color); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(out.String(), want) || strings.Contains(out.String(), "\x1b") != color {
				t.Errorf("%q, want %q, color %t", out.String(), want, color)
			}
		}
	}
}
