package app

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progressEvery is the time between two lines of progress where there is no terminal.
const progressEvery = 5 * time.Second

// Progress shows how far a command has come: as a bar on a terminal, and elsewhere as a plain line
// every few seconds. It is for one goroutine.
type Progress struct {
	out   io.Writer
	bar   *progressbar.ProgressBar // nil where there is no terminal
	now   func() time.Time
	shown time.Time
}

// NewProgress returns a progress on out, which shows nothing yet.
func NewProgress(out io.Writer) *Progress { return newProgress(out, IsTerminal(out), time.Now) }

func newProgress(out io.Writer, terminal bool, now func() time.Time) *Progress {
	p := &Progress{out: out, now: now, shown: now()}
	if terminal {
		p.bar = progressbar.NewOptions(1, progressbar.OptionSetWriter(out), progressbar.OptionSetPredictTime(false),
			progressbar.OptionSetElapsedTime(false), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish())
	}
	return p
}

// Show shows what the command is doing, and that done parts of total are done.
func (p *Progress) Show(doing string, done, total int64) {
	if p.bar != nil {
		p.bar.Describe(doing)
		p.bar.ChangeMax64(max(total, 1))
		_ = p.bar.Set64(done) // a bar that cannot be drawn is no failure
		return
	}
	if now := p.now(); now.Sub(p.shown) >= progressEvery {
		p.shown = now
		fmt.Fprintf(p.out, "%s: %d%%\n", doing, 100*done/max(total, 1))
	}
}

// Finish removes the bar.
func (p *Progress) Finish() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}

// IsTerminal reports whether a person looks at what is written to out, so that it may move the
// cursor and use color.
func IsTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	return ok && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(file.Fd()))
}
