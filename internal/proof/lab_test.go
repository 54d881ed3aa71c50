package proof

import (
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/proof/lab"
)

// A guarded twin that does not hold ends the command with an error that names it; a naive one that
// goes wrong as expected does not.
func TestLabError(t *testing.T) {
	t.Parallel()
	naive := lab.Outcome{Verdict: lab.Duplicates, Expected: lab.Duplicates}
	fine := lab.Result{Experiment: "fine", Naive: naive, Guarded: lab.Outcome{Verdict: lab.Holds, Expected: lab.Holds}}
	if err := labError(lab.Report{Results: []lab.Result{fine}}); err != nil {
		t.Error(err)
	}
	broken := lab.Result{Experiment: "broken", Naive: naive,
		Guarded: lab.Outcome{Verdict: lab.Loses, Expected: lab.Holds}}
	if err := labError(lab.Report{Results: []lab.Result{fine, broken}}); err == nil ||
		!strings.Contains(err.Error(), "broken: the guarded twin loses") || strings.Contains(err.Error(), "fine:") {
		t.Errorf("%v", err)
	}
}
