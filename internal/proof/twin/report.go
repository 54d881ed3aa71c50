package twin

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Verdict is the judgment about one question.
type Verdict string

const (
	// Passed means that the service does what the rule says.
	Passed Verdict = "ok"
	// NoRule means that the norm is silent, and that nothing was harmed.
	NoRule Verdict = "no rule"
	// Differs means that the service does something else, without harm.
	Differs Verdict = "differs"
	// Twice means that an effect took place more often than it should.
	Twice Verdict = "TWICE"
	// Lost means that an effect did not take place, and the client cannot get it with this key.
	Lost Verdict = "LOST"
	// Leaked means that a customer got the answer of another one.
	Leaked Verdict = "LEAKED"
	// NotAsked means that something is missing for the question.
	NotAsked Verdict = "not asked"
)

// Harm reports whether the verdict is about an effect that happened twice or got lost, or about
// another customer's answer.
func (v Verdict) Harm() bool { return v == Twice || v == Lost || v == Leaked }

// Line is the result of one question.
type Line struct {
	Question string  `json:"question"`
	Sent     string  `json:"sent"`
	Expected string  `json:"expected"`
	Rule     string  `json:"rule,omitempty"`
	Outcome  string  `json:"outcome,omitempty"`
	Got      string  `json:"got"`
	Effects  int     `json:"effects"`
	Want     int     `json:"effects_wanted"`
	Verdict  Verdict `json:"verdict"`
	Advice   string  `json:"advice"`
}

// Report is the result of a run.
type Report struct {
	URL      string    `json:"url"`
	Also     string    `json:"also,omitempty"`
	Method   string    `json:"method"`
	Path     string    `json:"path"`
	Rules    string    `json:"rules"`
	Source   string    `json:"source"` // of the rules
	Begun    time.Time `json:"begun"`
	Seconds  float64   `json:"seconds"`
	Requests int       `json:"requests"`
	Lines    []Line    `json:"lines"`
}

// Count returns how many lines have one of the verdicts.
func (r Report) Count(verdicts ...Verdict) int {
	n := 0
	for _, line := range r.Lines {
		if slices.Contains(verdicts, line.Verdict) {
			n++
		}
	}
	return n
}

// Harm returns how many lines have harm.
func (r Report) Harm() int { return r.Count(Twice, Lost, Leaked) }

// Summary is the closing line.
func (r Report) Summary() string {
	return fmt.Sprintf("%d requests in %.0f s by the rules of %s: %d with harm, %d differ, %d ok, %d without a rule, "+
		"%d not asked", r.Requests, r.Seconds, r.Rules, r.Harm(), r.Count(Differs), r.Count(Passed), r.Count(NoRule),
		r.Count(NotAsked))
}

// WriteJSON writes the report as one document.
func (r Report) WriteJSON(out io.Writer) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(r)
}

// WriteTable writes a line for each question, below them what to do about some, and a closing line.
func (r Report) WriteTable(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "By the rules of %s: %s.\n\n", r.Rules, r.Source)
	fmt.Fprintln(table, "VERDICT\tQUESTION\tEXPECTED\tRULE\tGOT\tEFFECTS")
	for _, line := range r.Lines {
		got, effects := line.Got, ""
		if line.Verdict != NotAsked {
			got, effects = line.Outcome+" ("+line.Got+")", fmt.Sprintf("%d of %d", line.Effects, line.Want)
		}
		section := strings.TrimSpace(strings.TrimPrefix(line.Rule, r.Source))
		if line.Rule != "" && section == "" {
			section = r.Rules
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", line.Verdict, line.Question, line.Expected, section, got,
			effects)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, line := range r.Lines {
		if line.Verdict != Differs && !line.Verdict.Harm() {
			continue
		}
		rule := ""
		if line.Rule != "" {
			rule = " (" + line.Rule + ")"
		}
		fmt.Fprintf(out, "\n%s: %s. Sent: %s. Expected: %s%s.\n  → %s\n", line.Question, line.Verdict, line.Sent,
			line.Expected, rule, line.Advice)
	}
	_, err := fmt.Fprintf(out, "\n%s.\n", r.Summary())
	return err
}
