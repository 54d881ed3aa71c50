package pages

import (
	"fmt"
	"html/template"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/proof/lab"
	"github.com/onceshop/onceshop/internal/proof/lab/brokers"
)

// funcs are what the pages need besides what the layout has.
var funcs = template.FuncMap{
	"highlighted": highlighted,
	"inline":      inline,
	"labAsset":    assets.Address,
	"times":       times,
	"short":       func(d time.Duration) string { return lab.Rounded(d).String() },
	"since": func(d time.Duration) string {
		if d < time.Second {
			return fmt.Sprintf("%.3g ms", float64(d.Round(100*time.Microsecond).Microseconds())/1000)
		}
		return fmt.Sprintf("%.2f s", d.Seconds())
	},
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
	Brokers   brokersTable
	Total     int
}

func (p *Pages) showOverview(c echo.Context) error {
	view := overviewView{HasLab: p.lab != nil, Total: len(lab.Experiments())}
	var latency []lab.Latency
	var answers map[string]brokers.Answer
	if r := p.lastRound(); r != nil {
		ended := r.ended()
		view.Running = !ended || c.QueryParams().Has("watch")
		if ended {
			latency, answers = r.latency, r.brokers
		} else {
			p.refresh(c)
		}
	}
	view.TradeOffs, view.Brokers = tradeOffs(latency), brokerTable(answers)
	for _, s := range strategies {
		g := group{Strategy: s}
		for _, e := range lab.Experiments() {
			if e.Strategy == s.ID {
				g.Rows = append(g.Rows, rowOf(e, p.latestOf(e.ID)))
			}
		}
		view.Groups = append(view.Groups, g)
	}
	return p.shop.Render(c, http.StatusOK, overviewPage, "The duplicates lab", view)
}
