package pages

import (
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/proof/lab"
)

var funcs = template.FuncMap{
	"pieces": pieces,
	"short":  func(d time.Duration) string { return lab.Rounded(d).String() },
	"since": func(d time.Duration) string {
		if d < time.Second {
			return fmt.Sprintf("%.3g ms", float64(d.Round(100*time.Microsecond).Microseconds())/1000)
		}
		return fmt.Sprintf("%.2f s", d.Seconds())
	},
}

// refreshAfter is how long a page without JavaScript waits, in seconds, before it looks whether its
// run has ended.
const refreshAfter = "2"

// twinView is one side of an experiment. Effects are what is known while there is no outcome.
type twinView struct {
	Side    lab.Side
	Title   string
	Actors  []lab.Actor
	Running bool
	Outcome *lab.Outcome
	Effects []lab.Effect
	Code    []lab.Source
}

// Steps are the lines of the diagram.
func (t twinView) Steps() []stepView {
	if t.Outcome == nil {
		return nil
	}
	steps := make([]stepView, len(t.Outcome.Steps))
	for i, step := range t.Outcome.Steps {
		steps[i] = stepOf(t, step)
	}
	return steps
}

// effectView is a line of the counters.
type effectView struct {
	lab.Effect
	// Wrong while a run lasts is only what happened too often: the rest may still come.
	Wrong bool
}

// Counts are the counters, during a run or after it.
func (t twinView) Counts() []effectView {
	effects, ended := t.Effects, t.Outcome != nil
	if ended {
		effects = t.Outcome.Effects
	}
	views := make([]effectView, len(effects))
	for i, e := range effects {
		views[i] = effectView{e, e.Got > e.Want || ended && e.Got != e.Want}
	}
	return views
}

// stepView is a line of a diagram: From and To are the columns of its actors, counted from 1.
type stepView struct {
	lab.Step
	Side     lab.Side
	From, To int
	// Right is the direction of an arrow.
	Right bool
	// Lean is the side of the diagram where the words have room: "left" is beside the left end of
	// the arrow.
	Lean string
}

func stepOf(t twinView, step lab.Step) stepView {
	v := stepView{Step: step, Side: t.Side, From: slices.Index(t.Actors, step.From) + 1,
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

// Sentence begins what a screen reader says: who does what to whom.
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

// find returns the experiment of the path.
func find(c echo.Context) (lab.Experiment, error) {
	e, err := lab.Find(c.Param("id"))
	if errors.Is(err, lab.ErrNotFound) {
		return e, echo.ErrNotFound
	}
	return e, err
}

// experimentView is the page of one experiment.
type experimentView struct {
	lab.Experiment
	HasLab bool
	// Run is the id of the run to watch, or "".
	Run string
	// Failure is why the last run could not be set up.
	Failure        string
	Left, Right    twinView
	Previous, Next *lab.Experiment
}

func (p *Pages) showExperiment(c echo.Context) error {
	e, err := find(c)
	if err != nil {
		return err
	}
	view := experimentView{Experiment: e, HasLab: p.lab != nil}
	r := p.latestOf(e.ID)
	switch {
	case r != nil && !r.ended():
		view.Run = r.id
		p.refresh(c)
	case r != nil && c.QueryParam("watch") == r.id:
		view.Run = r.id // most runs end before the page of whoever started them is there to draw them
	case r != nil && r.err != nil:
		view.Failure = sorry(r.err)
	}
	if view.Left, err = viewTwin(e, lab.NaiveSide, e.Naive, r, view.Run != ""); err != nil {
		return err
	}
	if view.Right, err = viewTwin(e, lab.GuardedSide, e.Guarded, r, view.Run != ""); err != nil {
		return err
	}
	all := lab.Experiments()
	at := slices.IndexFunc(all, func(other lab.Experiment) bool { return other.ID == e.ID })
	if at > 0 {
		view.Previous = &all[at-1]
	}
	if at < len(all)-1 {
		view.Next = &all[at+1]
	}
	return p.shop.Render(c, http.StatusOK, experimentPage, e.Fault, view)
}

// refresh has a page without JavaScript, which says so in its address, look again.
func (p *Pages) refresh(c echo.Context) {
	if c.QueryParams().Has("wait") {
		c.Response().Header().Set("Refresh", refreshAfter)
	}
}

// viewTwin shows one side of the run. The side of a run to watch is empty: it is filled while it is
// watched.
func viewTwin(e lab.Experiment, side lab.Side, twin lab.Twin, r *run, watched bool) (twinView, error) {
	view := twinView{Side: side, Title: twin.Title, Actors: e.Actors, Running: watched}
	if !watched {
		view.Outcome = r.outcome(side)
	}
	for _, ref := range twin.Code {
		source, err := lab.Code(ref)
		if err != nil {
			return view, err
		}
		view.Code = append(view.Code, source)
	}
	return view, nil
}

// row is a line of the matrix.
type row struct {
	lab.Experiment
	NaiveCell, GuardedCell cell
}

// cell is a verdict of the matrix.
type cell struct {
	ID      string
	Outcome *lab.Outcome
	Failed  bool
}

func rowOf(e lab.Experiment, r *run) row {
	failed := r != nil && r.ended() && r.err != nil
	return row{e, cell{e.ID + "-naive", r.outcome(lab.NaiveSide), failed},
		cell{e.ID + "-guarded", r.outcome(lab.GuardedSide), failed}}
}

// group is the part of the matrix that belongs to one strategy.
type group struct {
	Strategy strategy
	Rows     []row
}

type overviewView struct {
	HasLab    bool
	Running   bool
	Groups    []group
	TradeOffs []tradeOff
	Total     int
}

func (p *Pages) showOverview(c echo.Context) error {
	view := overviewView{HasLab: p.lab != nil}
	var latency []lab.Latency
	if r := p.lastRound(); r != nil {
		ended := r.ended()
		view.Running = !ended || c.QueryParams().Has("watch")
		if ended {
			latency = r.latency
		} else {
			p.refresh(c)
		}
	}
	view.TradeOffs = tradeOffs(latency)
	for _, s := range strategies {
		g := group{Strategy: s}
		for _, e := range lab.Experiments() {
			if e.Strategy == s.ID {
				g.Rows = append(g.Rows, rowOf(e, p.latestOf(e.ID)))
				view.Total++
			}
		}
		view.Groups = append(view.Groups, g)
	}
	return p.shop.Render(c, http.StatusOK, overviewPage, "The duplicates lab", view)
}
