package pages

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/proof/lab"
	"github.com/onceshop/onceshop/internal/proof/lab/brokers"
)

const (
	// waitFor is how long the answer to a form waits for its run to end, so that the next page
	// shows the end.
	waitFor = 25 * time.Second
	// busyPause is how long a round waits before it asks again for a place among the experiments
	// that run.
	busyPause = 200 * time.Millisecond
)

// run is an experiment that runs or ran. Result and err are set when done is closed.
type run struct {
	id         string
	experiment lab.Experiment
	done       chan struct{}

	result lab.Result
	err    error
}

func (r *run) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// outcome is how the run ended for one twin, nil while it has not or if it could not be set up.
func (r *run) outcome(side lab.Side) *lab.Outcome {
	switch {
	case r == nil || !r.ended() || r.err != nil:
		return nil
	case side == lab.NaiveSide:
		return &r.result.Naive
	default:
		return &r.result.Guarded
	}
}

// open returns the run of the experiment that is under way, or a new one that the caller has to
// execute.
func (p *Pages) open(e lab.Experiment) (r *run, isNew bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.latest[e.ID]; r != nil && !r.ended() {
		return r, false
	}
	r = &run{id: rand.Text(), experiment: e, done: make(chan struct{})}
	p.latest[e.ID] = r
	return r, true
}

func (p *Pages) latestOf(experiment string) *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.latest[experiment]
}

// execute runs the experiment to its end.
func (p *Pages) execute(r *run) {
	defer close(r.done)
	r.result, r.err = p.lab.Run(p.ctx, r.experiment)
	if r.err != nil {
		p.log.WarnContext(p.ctx, "experiment could not be set up", "experiment", r.experiment.ID, "error", r.err)
	}
}

// sorry explains to a visitor why an experiment did not run.
func sorry(err error) string {
	switch {
	case errors.Is(err, lab.ErrBusy):
		return "Too many experiments are running right now. Please try again in a moment."
	case errors.Is(err, lab.ErrNoWitnesses):
		return "This program is built without the demo, whose payment provider and mailbox the experiments use. " +
			"Open the lab on one that is built with it."
	default:
		return "The lab could not be set up. The shop's log says why."
	}
}

// startRun runs an experiment, or joins the run that is under way: a second click of the button
// starts nothing.
func (p *Pages) startRun(c echo.Context) error {
	e, err := find(c)
	if err != nil {
		return err
	}
	r, isNew := p.open(e)
	if isNew {
		p.running.Go(func() { p.execute(r) })
	}
	to := url.Values{"run": {r.id}}
	if guess := c.QueryParam("guess"); guess != "" {
		to.Set("guess", guess)
	}
	return p.see(c, "/lab/"+e.ID, to, "run", r.done)
}

// see sends a browser on to the page that shows what it asked for when it is done.
func (p *Pages) see(c echo.Context, path string, query url.Values, fragment string, done <-chan struct{}) error {
	patience := time.NewTimer(waitFor)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
		query.Set("wait", "")
	case <-p.shop.Draining:
	case <-c.Request().Context().Done():
	}
	to := url.URL{Path: path, RawQuery: query.Encode(), Fragment: fragment}
	return c.Redirect(http.StatusSeeOther, to.String())
}

// round is all experiments, one after another.
type round struct {
	feed *feed
	done chan struct{}

	// Latency, brokers and err are set when done is closed.
	latency []lab.Latency
	brokers map[string]brokers.Answer
	err     error
}

func (r *round) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// startRound runs all experiments, or joins the round that is under way.
func (p *Pages) startRound(c echo.Context) error {
	p.mu.Lock()
	r := p.round
	if r == nil || r.ended() {
		r = &round{feed: newFeed(), done: make(chan struct{})}
		p.round = r
		p.running.Go(func() { p.executeAll(r) })
	}
	p.mu.Unlock()
	if c.FormValue("watch") != "" { // from the script, which follows the round
		return c.Redirect(http.StatusSeeOther, "/lab?watch#matrix")
	}
	return p.see(c, "/lab", url.Values{}, "matrix", r.done)
}

func (p *Pages) followRound(c echo.Context) error {
	if r := p.lastRound(); r != nil {
		return p.follow(c, r.feed)
	}
	nothing := newFeed()
	nothing.end()
	return p.follow(c, nothing)
}

func (p *Pages) lastRound() *round {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.round
}

func (p *Pages) executeAll(r *round) {
	defer r.feed.end()
	defer close(r.done)
	all := lab.Experiments()
	for i, e := range all {
		r.feed.add(p.part("live-progress", fmt.Sprintf("%d of %d: %s …", i+1, len(all), e.Fault)))
		one := p.runInTurn(e)
		if p.ctx.Err() != nil {
			return
		}
		r.feed.add(p.part("live-row", rowOf(e, one)))
	}
	r.feed.add(p.part("live-progress", "Measuring how long each decision takes …"))
	if r.latency, r.err = p.lab.Latency(p.ctx); r.err != nil {
		p.log.WarnContext(p.ctx, "the latency could not be measured", "error", r.err)
	}
	r.feed.add(p.part("live-latency", tradeOffs(r.latency)))
	r.feed.add(p.part("live-progress", "Asking the broker what it remembers …"))
	p.askBroker(r)
	r.feed.add(p.part("live-progress", fmt.Sprintf("All %d have run.", len(all))) + p.part("live-button", len(all)))
}

// runInTurn runs an experiment when there is a place for it, and returns after its end.
func (p *Pages) runInTurn(e lab.Experiment) *run {
	for {
		r, isNew := p.open(e)
		if isNew {
			p.execute(r)
		}
		select {
		case <-r.done:
		case <-p.ctx.Done():
			return r
		}
		if !errors.Is(r.err, lab.ErrBusy) {
			return r
		}
		select {
		case <-time.After(busyPause):
		case <-p.ctx.Done():
			return r
		}
	}
}
