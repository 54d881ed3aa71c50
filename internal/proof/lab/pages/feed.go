package pages

import (
	"strconv"
	"sync"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/web"
)

// feed has the news for open pages, kept from the beginning, so that a late page gets all of them.
type feed struct {
	mu      sync.Mutex
	pieces  []string // of HTML, for the elements with the same ids
	ended   bool
	changed chan struct{}
}

func newFeed() *feed { return &feed{changed: make(chan struct{})} }

func (f *feed) add(html string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pieces = append(f.pieces, html)
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

// after returns the pieces that follow the first n. When there are none, either the feed has ended
// or changed is closed as soon as there are.
func (f *feed) after(n int) (pieces []string, ended bool, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pieces[min(max(n, 0), len(f.pieces)):], f.ended, f.changed
}

// follow sends the feed to a browser, from its beginning or from where the browser lost the
// connection, until the feed ends, the browser leaves or the node stops.
func (p *Pages) follow(c echo.Context, f *feed) error {
	s := web.StartStream(c)
	sent, _ := strconv.Atoi(c.Request().Header.Get("Last-Event-ID")) // from the beginning without one
	for {
		pieces, ended, changed := f.after(sent)
		for _, html := range pieces {
			sent++
			if err := s.SendHTML(strconv.Itoa(sent), html); err != nil {
				return nil //nolint:nilerr // the browser has left
			}
		}
		switch {
		case len(pieces) > 0:
		case ended:
			_ = s.Done() // a browser that does not get it asks again
			return nil
		default:
			select {
			case <-changed:
			case <-c.Request().Context().Done():
				return nil
			case <-p.shop.Draining:
				return nil
			}
		}
	}
}
