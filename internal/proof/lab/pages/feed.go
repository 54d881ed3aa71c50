package pages

import (
	"fmt"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/web"
)

// drawEvery is the time between two steps that a browser draws: most experiments are faster than an
// eye.
const drawEvery = 130 * time.Millisecond

// lanes is the number of diagrams that a page can draw at the same time.
const lanes = 2

// message is a piece of a page. After a step, the browser gets the next one of its lane no sooner
// than drawEvery later.
type message struct {
	html string
	step bool
}

// feed is what a page is told, kept from the beginning: whoever comes late is told all of it.
type feed struct {
	mu      sync.Mutex
	lanes   [lanes][]message
	ended   bool
	changed chan struct{}
}

// position is how many messages of each lane a browser has.
type position [lanes]int

func newFeed() *feed { return &feed{changed: make(chan struct{})} }

func (f *feed) add(lane int, m message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lanes[lane] = append(f.lanes[lane], m)
	f.wake()
}

func (f *feed) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.wake()
}

func (f *feed) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// next returns for each lane what a browser draws next: a step, if it is one's turn, and what
// belongs to it. When there is nothing, either the feed has ended or changed is closed as soon as
// there is.
func (f *feed) next(at position) (next [lanes][]message, ended bool, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for lane, messages := range f.lanes {
		rest := messages[min(at[lane], len(messages)):]
		n := min(1, len(rest))
		for n < len(rest) && !rest[n].step {
			n++
		}
		next[lane] = rest[:n]
	}
	return next, f.ended, f.changed
}

// follow sends the feed to a browser, from its beginning or from where the browser lost the
// connection, until the feed ends, the browser leaves or the node stops.
func (p *Pages) follow(c echo.Context, f *feed) error {
	s := web.StartStream(c)
	at := positionOf(c.Request().Header.Get("Last-Event-ID"))
	pause := time.NewTicker(drawEvery)
	defer pause.Stop()
	for {
		next, ended, changed := f.next(at)
		sent := 0
		for lane := range next {
			for _, m := range next[lane] {
				at[lane]++
				sent++
				if err := s.SendHTML(at.String(), m.html); err != nil {
					return nil // the browser has left
				}
			}
		}
		switch {
		case sent > 0:
			if !wait(c, p, pause.C) {
				return nil
			}
		case ended:
			_ = s.Done() // a browser that does not hear it asks again
			return nil
		case !wait(c, p, changed):
			return nil
		}
	}
}

// String is the position as the id of the last message.
func (at position) String() string { return fmt.Sprintf("%d-%d", at[0], at[1]) }

// positionOf reads it. What is none is the beginning.
func positionOf(id string) position {
	var at position
	if n, err := fmt.Sscanf(id, "%d-%d", &at[0], &at[1]); n != lanes || err != nil || at[0] < 0 || at[1] < 0 {
		return position{}
	}
	return at
}

// wait reports whether something happened before the browser left or the node stopped.
func wait[T any](c echo.Context, p *Pages, happens <-chan T) bool {
	select {
	case <-happens:
		return true
	case <-c.Request().Context().Done():
	case <-p.shop.Draining:
	}
	return false
}
