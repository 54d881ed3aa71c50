package pages

import (
	"fmt"
	"slices"
	"strings"

	"github.com/onceshop/onceshop/internal/proof/lab"
)

// twinView is one side of a run.
type twinView struct {
	Side    lab.Side
	Title   string
	Actors  []lab.Actor
	Outcome *lab.Outcome
	// Parting is the line at the point where the twins part, or "" if they do not.
	Parting string
}

// partings are the lines at the point where the twins part, by the verdict on this side.
var partings = map[lab.Verdict]string{
	lab.Duplicates: "Here they part: the duplicate gets through",
	lab.Loses:      "Here they part: the real thing is lost",
	lab.Holds:      "Here they part: the duplicate is stopped",
}

// Steps are the lines of the diagram.
func (t twinView) Steps() []stepView {
	steps := make([]stepView, len(t.Outcome.Steps))
	for i, step := range t.Outcome.Steps {
		steps[i] = stepOf(t, step)
		if i+1 == t.Outcome.PartsAt {
			steps[i].Parting = t.Parting
		}
	}
	return steps
}

// stepView is a line of a diagram: From and To are the columns of its actors, counted from 1.
type stepView struct {
	lab.Step
	From, To int
	// Right is the direction of an arrow.
	Right bool
	// Lean is the side of the diagram where the words have room: "left" is beside the left end of
	// the arrow.
	Lean string
	// Parting is the line before this step, or "".
	Parting string
}

func stepOf(t twinView, step lab.Step) stepView {
	v := stepView{Step: step, From: slices.Index(t.Actors, step.From) + 1,
		To: slices.Index(t.Actors, step.To) + 1, Lean: "left"}
	v.Right = v.From <= v.To
	roomAtLeft, roomAtRight := max(v.From, v.To), len(t.Actors)+1-min(v.From, v.To)
	if roomAtLeft > roomAtRight {
		v.Lean = "right"
	}
	return v
}

// Alone reports that an actor does something by itself.
func (v stepView) Alone() bool { return v.From == v.To }

// Sentence begins the text for a screen reader: an actor, its act and the other actor.
func (v stepView) Sentence() string {
	switch v.Kind {
	case lab.Sends:
		return fmt.Sprintf("%s to %s:", v.Step.From, v.Step.To)
	case lab.Lost:
		return fmt.Sprintf("%s to %s, lost on the way:", v.Step.From, v.Step.To)
	case lab.Fault:
		return fmt.Sprintf("Fault at %s:", v.Step.From)
	case lab.Stopped:
		return fmt.Sprintf("%s stops a duplicate:", v.Step.From)
	default:
		return fmt.Sprintf("%s:", v.Step.From)
	}
}

// times is a count with the name of an effect, which is a plural, such as "1 order".
func times(n int, effect string) string {
	if n == 1 {
		effect = strings.TrimSuffix(effect, "s")
	}
	return fmt.Sprintf("%d %s", n, effect)
}
