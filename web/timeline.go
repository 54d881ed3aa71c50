package web

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/timeline"
)

const (
	// eventsPerPage is the number of events on a page of a timeline. A stream renders the newest
	// page again and again, so its size must not grow with what the order's buyer does.
	eventsPerPage = 100
	// timelinePages bounds what is read for one page.
	timelinePages = 10
)

// events are a page of an order's timeline.
type events struct {
	Events []timeline.Event
	// Older is the query of the page with older events, empty if there is none.
	Older string
}

// timelinePage returns the page's number in a query: 1 has the newest events.
func timelinePage(c echo.Context) int {
	number, err := strconv.Atoi(c.QueryParam("timeline"))
	if err != nil {
		return 1
	}
	return min(max(number, 1), timelinePages)
}

// readTimeline reads a page with timeline.Service's Of or ForOperators.
func readTimeline(
	ctx context.Context, id uuid.UUID, number int,
	read func(ctx context.Context, id uuid.UUID, newest int) ([]timeline.Event, bool, error),
) (events, error) {
	all, older, err := read(ctx, id, number*eventsPerPage)
	if err != nil {
		return events{}, err
	}
	page := events{Events: all[:max(0, len(all)-(number-1)*eventsPerPage)]}
	if older && number < timelinePages {
		page.Older = "?timeline=" + strconv.Itoa(number+1)
	}
	return page, nil
}

// stops are twins that were stopped alike.
type stops struct {
	// ID is the same on the next version of the page, which then changes the number in place.
	ID    string
	Layer string
	Text  string
	Times int32
	// At and IDs are of the latest.
	At  time.Time
	IDs []string
}

// Stops returns the stopped twins, those of the latest first.
func (e events) Stops() (alike []stops) {
	at := make(map[string]int)
	for _, event := range e.Events {
		if event.Kind == "" {
			continue
		}
		i, known := at[event.Text]
		if !known {
			i = len(alike)
			at[event.Text] = i
			id := fmt.Sprintf("stop-%s-%d", event.Kind, i)
			alike = append(alike, stops{ID: id, Layer: event.Layer, Text: event.Text})
		}
		alike[i].Times += event.Times
		alike[i].At, alike[i].IDs = event.At, event.IDs // the events are oldest first
	}
	slices.SortStableFunc(alike, func(a, b stops) int { return b.At.Compare(a.At) })
	return alike
}

// steps are the events of a timeline about one thing, without stopped twins.
type steps struct {
	Title  string
	Events []timeline.Event
}

// groupTitles are in the order of the page.
var groupTitles = []struct {
	group timeline.Group
	title string
}{
	{timeline.AboutOrder, "Order"},
	{timeline.AboutPayment, "Payment"},
	{timeline.AboutStock, "Stock"},
	{timeline.AboutEvents, "Events"},
	{timeline.AboutReceipt, "Receipt"},
}

// Groups returns the events by what they are about, without empty groups.
func (e events) Groups() (groups []steps) {
	for _, g := range groupTitles {
		s := steps{Title: g.title}
		for _, event := range e.Events {
			if event.Group == g.group && event.Kind == "" {
				s.Events = append(s.Events, event)
			}
		}
		if len(s.Events) > 0 {
			groups = append(groups, s)
		}
	}
	return groups
}

// layer is a step of an order's way as a page draws it.
type layer struct {
	timeline.Step
	Title, Does string
}

var layerTexts = map[timeline.StepName]struct{ title, does string }{
	timeline.StepBrowser:  {"This page", "sends a form once"},
	timeline.StepMemory:   {"Memory", "of a node: repeats the answer"},
	timeline.StepKeys:     {"UNIQUE keys", "one row for each key"},
	timeline.StepProvider: {"Provider’s key", "one capture for each charge"},
	timeline.StepOutbox:   {"Outbox", "one event for each change"},
	timeline.StepBroker:   {"Broker", "one message for each id"},
	timeline.StepRedis:    {"Redis", "one claim for each receipt"},
	timeline.StepReceipt:  {"Receipt row", "one receipt for each order"},
	timeline.StepMail:     {"Mail", "one Message-ID"},
}

// way is drawn on an order's page.
type way []layer

// Stopped returns the number of twins that all layers stopped.
func (w way) Stopped() (n int64) {
	for _, l := range w {
		n += l.Stopped
	}
	return n
}

func layers(steps []timeline.Step) way {
	drawn := make(way, len(steps))
	for i, step := range steps {
		text := layerTexts[step.Name]
		drawn[i] = layer{Step: step, Title: text.title, Does: text.does}
	}
	return drawn
}
