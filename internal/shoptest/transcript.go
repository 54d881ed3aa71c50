package shoptest

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
)

// Transcript keeps what is written to it: a log, or what a process says. A test may read it
// meanwhile.
type Transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write never fails.
func (t *Transcript) Write(text []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.Write(text)
}

// String returns everything so far.
func (t *Transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

// Count returns how often the text was written so far.
func (t *Transcript) Count(text string) int { return strings.Count(t.String(), text) }

// Has reports whether the text was written so far.
func (t *Transcript) Has(text string) bool { return t.Count(text) > 0 }

// Logger returns a logger that writes lines of text into the transcript.
func (t *Transcript) Logger() *slog.Logger { return slog.New(slog.NewTextHandler(t, nil)) }
