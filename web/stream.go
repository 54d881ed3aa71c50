package web

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/ratelimit"
)

const (
	// pollInterval is the time between a stream's queries for changes.
	pollInterval = time.Second
	// beatAfter is how long a stream may be silent before it sends a heartbeat. Proxies may cut a
	// silent connection.
	beatAfter = 15 * time.Second
	// streamFor bounds a stream. The page then opens another one.
	streamFor = 2 * time.Minute
	// writeWithin bounds the write of one message.
	writeWithin = 10 * time.Second
	// askAgainAfter is the retry interval of a page whose node has too many streams. Such a page
	// gets a single message per request.
	askAgainAfter = 5 * time.Second
)

// stream is a stream of server-sent events.
type stream struct {
	response *echo.Response
	control  *http.ResponseController
	silent   time.Time // since when
}

func startStream(c echo.Context) *stream {
	header := c.Response().Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("X-Accel-Buffering", "no") // or nginx buffers the events
	return &stream{response: c.Response(), control: http.NewResponseController(c.Response()), silent: time.Now()}
}

// send writes one event, whose lines begin with a field's name.
func (s *stream) send(event string) error {
	// The server's timeouts are too short for a stream.
	if err := s.control.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("let the stream last: %w", err)
	}
	if err := s.control.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
		return fmt.Errorf("let the stream last: %w", err)
	}
	if _, err := s.response.Write([]byte(event + "\n\n")); err != nil {
		return fmt.Errorf("write to the stream: %w", err)
	}
	s.silent = time.Now()
	if err := s.control.Flush(); err != nil {
		return fmt.Errorf("write to the stream: %w", err)
	}
	return nil
}

// asData returns the data field of an event with the HTML for the page.
func asData(html string) string {
	return "data: " + strings.ReplaceAll(strings.TrimSpace(html), "\n", "\ndata: ")
}

// streamOrder sends the order's page whenever it changes, until it cannot change any more.
func (w *Web) streamOrder(c echo.Context) error {
	order, err := w.ownOrder(c)
	if err != nil {
		return err
	}
	address := ratelimit.Network(c.RealIP())
	lasts := w.Streams.take(order.CustomerID, address)
	if lasts {
		defer w.Streams.release(order.CustomerID, address)
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), streamFor)
	defer cancel()
	s := startStream(c)
	if err := w.followOrder(ctx, s, order.ID, lasts); err != nil && ctx.Err() == nil {
		// The page keeps its content and reconnects.
		w.Log.InfoContext(ctx, "a stream ended", "order_id", order.ID, "error", err)
	}
	return nil
}

// followOrder sends the page's news until there can be none, or, unless the stream lasts, once.
func (w *Web) followOrder(ctx context.Context, s *stream, id uuid.UUID, lasts bool) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	shown := ""
	for {
		html, more, err := w.orderNews(ctx, id)
		if err != nil {
			return err
		}
		if html != shown {
			if err := s.send(asData(html)); err != nil {
				return err
			}
			shown = html
		}
		switch {
		case !more:
			return s.send("event: done\ndata:")
		case !lasts:
			return s.send(fmt.Sprintf("retry: %d\nevent: full\ndata:", askAgainAfter.Milliseconds()))
		case time.Since(s.silent) > beatAfter:
			if err := s.send(":"); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.Draining:
			return nil
		case <-tick.C:
		}
	}
}

// orderNews renders the part of the order's page that can change. It reports whether it still can.
func (w *Web) orderNews(ctx context.Context, id uuid.UUID) (html string, more bool, err error) {
	order, err := w.Orders.Get(ctx, id)
	if err != nil {
		return "", false, err
	}
	view, err := w.viewOrder(ctx, order, 1)
	if err != nil {
		return "", false, err
	}
	var page bytes.Buffer
	if err := orderPage.ExecuteTemplate(&page, "news", view); err != nil {
		return "", false, fmt.Errorf("render the news: %w", err)
	}
	return page.String(), view.Live, nil
}

// One guest, and one address, may hold a share of the streams: the rest is for others.
const (
	streamsPerGuest   = 4
	streamsPerAddress = 20
)

// Streams counts the open streams: all of them, and those of each guest and address.
type Streams struct {
	mu     sync.Mutex
	max    int
	open   int
	shares map[any]int
}

// NewStreams allows this many streams at once.
func NewStreams(limit int) *Streams { return &Streams{max: limit, shares: make(map[any]int)} }

// Open returns the number of open streams.
func (s *Streams) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

func (s *Streams) take(guest uuid.UUID, address netip.Prefix) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open >= s.max || s.shares[guest] >= streamsPerGuest || s.shares[address] >= streamsPerAddress {
		return false
	}
	s.open++
	s.shares[guest]++
	s.shares[address]++
	return true
}

func (s *Streams) release(guest uuid.UUID, address netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	for _, key := range []any{guest, address} {
		if s.shares[key]--; s.shares[key] == 0 {
			delete(s.shares, key)
		}
	}
}
