package app

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What is no terminal gets plain lines, and few of them.
func TestProgressWithoutATerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	now := time.Unix(0, 0)
	p := newProgress(&out, IsTerminal(&out), func() time.Time { return now })
	for done := range int64(120) {
		p.Show("importing", done, 120)
		now = now.Add(100 * time.Millisecond)
	}
	p.Finish()
	if want := "importing: 41%\nimporting: 83%\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func TestProgressOnATerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := newProgress(&out, true, time.Now)
	p.Show("importing", 1, 2)
	p.Finish()
	if !strings.Contains(out.String(), "\r") || !strings.Contains(out.String(), "importing") {
		t.Errorf("no bar: %q", out.String())
	}
}

func TestIsTerminal(t *testing.T) {
	t.Parallel()
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if IsTerminal(file) || IsTerminal(&bytes.Buffer{}) {
		t.Error("a file or a buffer is taken for a terminal")
	}
}
