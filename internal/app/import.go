package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/orders"
)

// mostBadLines is how many bad lines of a file are listed.
const mostBadLines = 20

// ImportFile books a delivery file, or, with the path "-", the standard input. It shows on progress
// how far it is, and writes the report to out. A file with bad lines is an error even if its good
// lines were kept.
func ImportFile(
	ctx context.Context, config Config, path, supplier string, keepGood bool, out, progress io.Writer,
) error {
	return withDatabase(ctx, config, func(pool *pgxpool.Pool) error {
		file, err := openDeliveries(path)
		if err != nil {
			return err
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return err
		}
		shown := NewProgress(progress)
		service := orders.New(pool, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
		tracked := &trackedFile{File: file, size: info.Size(), progress: shown}
		report, err := service.Import(ctx, tracked, supplier, keepGood)
		shown.Finish()
		for _, bad := range report.Bad[:min(len(report.Bad), mostBadLines)] {
			fmt.Fprintf(out, "%s:%d: %s\n", path, bad.Line, bad.Reason)
		}
		if more := len(report.Bad) - mostBadLines; more > 0 {
			fmt.Fprintf(out, "… and %d more bad lines\n", more)
		}
		if errors.Is(err, orders.ErrBadLines) {
			return fmt.Errorf("nothing was imported: %d lines are bad; correct them, or import the others with "+
				"--keep-good", len(report.Bad))
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%d lines booked (%d units), %d repeated lines stopped (%d of them in memory), %d bad lines\n",
			report.Booked, report.Units, report.Repeated, report.SeenInMemory, len(report.Bad))
		if len(report.Bad) > 0 {
			return fmt.Errorf("%d bad lines were left out", len(report.Bad))
		}
		return nil
	})
}

// openDeliveries opens a file that can be read more than once. It copies what comes through a pipe.
func openDeliveries(path string) (*os.File, error) {
	from := os.Stdin
	if path != "-" {
		var err error
		if from, err = os.Open(path); err != nil {
			return nil, err
		}
		if info, err := from.Stat(); err != nil || info.Mode().IsRegular() {
			return from, err
		}
		defer from.Close()
	}
	to, err := os.CreateTemp("", "onceshop-import-")
	if err != nil {
		return nil, fmt.Errorf("keep a copy of what %s has: %w", path, err)
	}
	err = os.Remove(to.Name()) // the open file stays until it is closed
	if err == nil {
		_, err = io.Copy(to, from)
	}
	if err != nil {
		_ = to.Close()
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return to, nil
}

// trackedFile shows how much of the file has been read.
type trackedFile struct {
	*os.File
	read, size int64
	progress   *Progress
}

func (f *trackedFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	f.read += int64(n)
	f.progress.Show("importing", f.read, f.size)
	return n, err
}

func (f *trackedFile) Seek(offset int64, whence int) (int64, error) {
	f.read = 0
	return f.File.Seek(offset, whence)
}
