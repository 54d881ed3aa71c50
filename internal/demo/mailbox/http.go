package mailbox

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/onceshop/onceshop/internal/demo/bar"
)

//go:embed pages.html.tmpl
var pageFiles embed.FS

var pages = bar.Parse(pageFiles, template.FuncMap{"addresses": addresses}, "pages.html.tmpl")

const (
	apiLimit  = 50 // messages in one answer, unless ?limit= says otherwise; as Mailpit
	pageLimit = 100

	// No scripts at all; a message's HTML may bring its own styles and embedded pictures, is
	// kept from the network, and opens links in a window of their own.
	pagePolicy = bar.Policy + "; frame-src 'self'; form-action 'none'"
	htmlPolicy = "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; style-src " +
		"'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
)

// Handler serves the pages under /, with the demo's bar, and Mailpit's API under /api/v1/.
func (m *Mailbox) Handler(demo *bar.Bar) http.Handler {
	mux := http.NewServeMux()
	//nolint:contextcheck // the bar looks for all who ask, in the background
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { m.listPage(w, r, demo) })
	//nolint:contextcheck // likewise
	mux.HandleFunc("GET /view/{id}", func(w http.ResponseWriter, r *http.Request) { m.viewPage(w, r, demo) })
	mux.HandleFunc("GET /view/{id}/html", m.viewHTML)
	mux.HandleFunc("GET /api/v1/messages", m.listMessages)
	mux.HandleFunc("GET /api/v1/search", m.searchMessages)
	mux.HandleFunc("GET /api/v1/message/{id}", m.getMessage)
	mux.HandleFunc("DELETE /api/v1/messages", m.deleteMessages)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", pagePolicy)
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, r)
	})
}

func everything(*entry) bool { return true }

func (m *Mailbox) listMessages(w http.ResponseWriter, r *http.Request) {
	m.answerList(w, r, everything)
}

func (m *Mailbox) searchMessages(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query().Get("query")
	if strings.TrimSpace(query) == "" {
		http.Error(w, "no search query: add ?query=", http.StatusBadRequest)
		return
	}
	m.answerList(w, r, search(query))
}

func (m *Mailbox) answerList(w http.ResponseWriter, r *http.Request, match func(*entry) bool) {
	start := positive(r, "start", 0)
	found, matching, total := m.page(match, start, positive(r, "limit", apiLimit))
	m.answer(w, struct {
		Total         int       `json:"total"`          // in the mailbox
		MessagesCount int       `json:"messages_count"` // that match
		Count         int       `json:"count"`          // in this answer
		Start         int       `json:"start"`
		Messages      []summary `json:"messages"`
	}{total, matching, len(found), start, found})
}

// positive reads a number from the query; whatever is not one means the default, as in Mailpit.
func positive(r *http.Request, name string, otherwise int) int {
	if n, err := strconv.Atoi(r.URL.Query().Get(name)); err == nil && n > 0 {
		return n
	}
	return otherwise
}

func (m *Mailbox) getMessage(w http.ResponseWriter, r *http.Request) {
	if msg, _, ok := m.wanted(w, r); ok {
		m.answer(w, msg)
	}
}

// deleteMessages deletes those in {"IDs":[…]}; no body or no IDs means all, as in Mailpit.
func (m *Mailbox) deleteMessages(w http.ResponseWriter, r *http.Request) {
	var body struct{ IDs []string }
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxMessageBytes)).Decode(&body)
	if err != nil && !errors.Is(err, io.EOF) {
		http.Error(w, `body: want nothing or {"IDs":["…"]}`, http.StatusBadRequest)
		return
	}
	match := everything
	if len(body.IDs) > 0 {
		match = func(e *entry) bool { return slices.Contains(body.IDs, e.ID) }
	}
	if err := m.remove(match); err != nil {
		m.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.WriteString(w, "ok")
}

func (m *Mailbox) listPage(w http.ResponseWriter, r *http.Request, demo *bar.Bar) {
	start := positive(r, "start", 0)
	found, _, total := m.page(everything, start, pageLimit)
	top := bar.Top{Title: fmt.Sprintf("Mailbox (%d)", total), Server: "mailbox", Bar: demo.HTML()}
	m.show(w, "list", map[string]any{
		"Top":      top,
		"Messages": found,
		"Total":    total,
		"Start":    start,
		"Newer":    max(0, start-pageLimit),
		"Older":    start + pageLimit,
	})
}

func (m *Mailbox) viewPage(w http.ResponseWriter, r *http.Request, demo *bar.Bar) {
	if msg, raw, ok := m.wanted(w, r); ok {
		headers, _, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
		top := bar.Top{Title: cmp.Or(msg.Subject, "(no subject)"), Server: "mailbox", Bar: demo.HTML()}
		m.show(w, "view", map[string]any{"Top": top, "Message": msg, "Headers": string(headers)})
	}
}

func (m *Mailbox) viewHTML(w http.ResponseWriter, r *http.Request) {
	msg, _, ok := m.wanted(w, r)
	if !ok {
		return
	}
	w.Header().Set("Content-Security-Policy", htmlPolicy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = io.WriteString(w, msg.HTML)
}

// wanted reads the message that the path names; if it cannot, it has answered.
func (m *Mailbox) wanted(w http.ResponseWriter, r *http.Request) (letter, []byte, bool) {
	msg, raw, ok, err := m.read(r.PathValue("id"))
	switch {
	case err != nil:
		m.fail(w, err)
	case !ok:
		http.NotFound(w, r)
	default:
		return msg, raw, true
	}
	return letter{}, nil, false
}

func (m *Mailbox) show(w http.ResponseWriter, page string, data any) {
	var out bytes.Buffer
	if err := pages.ExecuteTemplate(&out, page, data); err != nil {
		m.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = out.WriteTo(w)
}

func (m *Mailbox) answer(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(body); err != nil {
		m.log.Warn("mailbox: answer not written", "err", err)
	}
}

func (m *Mailbox) fail(w http.ResponseWriter, err error) {
	m.log.Error("mailbox: request failed", "err", err)
	http.Error(w, "the mailbox cannot read or write its messages; its log says why", http.StatusInternalServerError)
}
