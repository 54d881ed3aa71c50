package psp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
)

// appendLog is a file of lines that only grows.
type appendLog struct {
	file *os.File
	err  error // the first failure: from then on nobody knows what is on disk
}

// openLog opens or creates the log and hands each line to replay. What follows the last line
// break is a write that a crash cut short and nobody was told of: it is dropped with a warning.
func openLog(path string, logger *slog.Logger, replay func(line []byte) error) (*appendLog, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("psp: create the log's directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("psp: open the log: %w", err)
	}
	whole, torn, err := readLines(f, replay)
	if err == nil && torn > 0 {
		logger.Warn("provider log ends in a torn line: dropped", "path", path, "bytes", torn)
		err = f.Truncate(whole)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("psp: read the log %s (move it away to start an empty provider): %w", path,
			err), f.Close())
	}
	return &appendLog{file: f}, nil
}

// readLines returns how many bytes are whole lines and how many follow the last line break.
func readLines(r io.Reader, replay func(line []byte) error) (whole, torn int64, err error) {
	lines := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return whole, int64(len(line)), nil
		}
		if err == nil {
			err = replay(line)
		}
		if err != nil {
			return whole, 0, fmt.Errorf("line %d: %w", n, err)
		}
		whole += int64(len(line))
	}
}

// append writes a line and, when durable, returns only once it is on disk. After a failure it
// refuses for good: only a restart, which reads the file again, can tell what was kept.
func (l *appendLog) append(line []byte, durable bool) error {
	if l.err != nil {
		return l.err
	}
	_, err := l.file.Write(append(line, '\n'))
	if err == nil && durable {
		err = l.file.Sync()
	}
	if err != nil {
		l.err = fmt.Errorf("psp: the log cannot be written, restart the provider: %w", err)
	}
	return l.err
}

func (l *appendLog) close() error {
	if l.err == nil {
		l.err = errors.New("psp: the provider is closed")
	}
	if err := l.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("psp: close the log: %w", err)
	}
	return nil
}
