package web

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
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
	lasts := true
	select {
	case w.Streams <- struct{}{}:
		defer func() { <-w.Streams }()
	default:
		lasts = false
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), streamFor)
	defer cancel()
	s := startStream(c)
	if err := w.followOrder(ctx, s, order.ID, lasts); err != nil && ctx.Err() == nil {
		// The page keeps its content and reconnects.
		w.Log.WarnContext(ctx, "a stream ended", "order_id", order.ID, "error", err)
	}
	return nil
}

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
	view, err := w.viewOrder(ctx, order)
	if err != nil {
		return "", false, err
	}
	var page bytes.Buffer
	if err := orderPage.ExecuteTemplate(&page, "news", view); err != nil {
		return "", false, fmt.Errorf("render the news: %w", err)
	}
	return page.String(), view.Live, nil
}
