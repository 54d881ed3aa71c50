package pages

import (
	"errors"
	"net/http"
	"slices"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/proof/lab"
)

// refreshAfter is how long a page waits, in seconds, before it looks whether its run has ended.
const refreshAfter = "2"

// experimentView is the page of one experiment. It asks for a prediction first, then offers the
// run, and then shows it.
type experimentView struct {
	lab.Experiment
	HasLab bool
	Guess  *guessView
	// Shown reports that the address asks for a run. Last is the id of the last one, if the page
	// does not show it.
	Shown bool
	Last  string
	// Failure is why the run could not be set up.
	Failure        string
	Running        bool
	Left, Right    twinView
	Sources        []sourcesView
	Previous, Next *lab.Experiment
}

// guessView is a reader's prediction. Got is what came, and nil before the run.
type guessView struct {
	Effect string
	Guess  int
	Got    *int
}

// Right reports that the prediction came true.
func (g guessView) Right() bool { return *g.Got == g.Guess }

// sourcesView is a kind of source, of both twins.
type sourcesView struct {
	ID, Title, Note string
	Left, Right     []lab.Source
}

// find returns the experiment of the path.
func find(c echo.Context) (lab.Experiment, error) {
	e, err := lab.Find(c.Param("id"))
	if errors.Is(err, lab.ErrNotFound) {
		return e, echo.ErrNotFound
	}
	return e, err
}

func (p *Pages) showExperiment(c echo.Context) error {
	e, err := find(c)
	if err != nil {
		return err
	}
	view := experimentView{Experiment: e, HasLab: p.lab != nil, Guess: guessOf(c, e)}
	r := p.latestOf(e.ID)
	view.Shown = r != nil && c.QueryParam("run") != ""
	switch {
	case !view.Shown && r != nil && r.ended():
		view.Last = r.id
	case view.Shown:
		p.showRun(c, &view, r)
	}
	if view.Sources, err = sourcesOf(e); err != nil {
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

// guessOf reads the prediction from the address. What is not a choice is none.
func guessOf(c echo.Context, e lab.Experiment) *guessView {
	n, err := strconv.Atoi(c.QueryParam("guess"))
	if err != nil || !slices.Contains(e.Predict.Choices, n) {
		return nil
	}
	return &guessView{Effect: e.Predict.Effect, Guess: n}
}

// showRun adds a run to the page, as far as it has come.
func (p *Pages) showRun(c echo.Context, view *experimentView, r *run) {
	if !r.ended() {
		view.Running = true
		p.refresh(c)
		return
	}
	if r.err != nil {
		view.Failure = sorry(r.err)
		return
	}
	e, naive, guarded := view.Experiment, &r.result.Naive, &r.result.Guarded
	view.Left = twinView{Side: lab.NaiveSide, Title: e.Naive.Title, Actors: e.Actors, Outcome: naive}
	view.Right = twinView{Side: lab.GuardedSide, Title: e.Guarded.Title, Actors: e.Actors, Outcome: guarded}
	if naive.PartsAt > 0 && guarded.PartsAt > 0 {
		view.Left.Parting, view.Right.Parting = partings[naive.Verdict], partings[guarded.Verdict]
	}
	at := slices.IndexFunc(naive.Effects, func(effect lab.Effect) bool { return effect.Name == e.Predict.Effect })
	if view.Guess != nil && at >= 0 && naive.Failure == "" {
		view.Guess.Got = &naive.Effects[at].Got
	}
}

// Alike reports that both twins hold.
func (v experimentView) Alike() bool {
	return v.Left.Outcome != nil && v.Left.Outcome.Verdict == lab.Holds && v.Right.Outcome.Verdict == lab.Holds
}

// Query is the query of an address that keeps the prediction.
func (v experimentView) Query() string {
	if v.Guess == nil {
		return ""
	}
	return "?guess=" + strconv.Itoa(v.Guess.Guess)
}

// refresh has a page that waits for its run load itself again.
func (p *Pages) refresh(c echo.Context) {
	if c.QueryParams().Has("wait") {
		c.Response().Header().Set("Refresh", refreshAfter)
	}
}

// sourcesOf returns the constraints, statements and code of both twins.
func sourcesOf(e lab.Experiment) ([]sourcesView, error) {
	bound := "What the database refuses"
	if e.Strategy != lab.Unique {
		bound += ", and what bounds the memory in front of it"
	}
	all := []sourcesView{
		{ID: "constraint", Title: "The constraint", Note: bound + "."},
		{ID: "statement", Title: "The statement", Note: "What meets the constraint."},
		{ID: "code", Title: "The Go code", Note: "The functions that just ran."},
	}
	for i, refs := range [][2][]string{{e.Naive.Constraint, e.Guarded.Constraint},
		{e.Naive.Statement, e.Guarded.Statement}, {e.Naive.Code, e.Guarded.Code}} {
		var err error
		if all[i].Left, err = sources(refs[0]); err != nil {
			return nil, err
		}
		if all[i].Right, err = sources(refs[1]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func sources(refs []string) ([]lab.Source, error) {
	all := make([]lab.Source, len(refs))
	for i, ref := range refs {
		var err error
		if all[i], err = lab.SourceOf(ref); err != nil {
			return nil, err
		}
	}
	return all, nil
}
