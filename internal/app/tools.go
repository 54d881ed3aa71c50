package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/schollz/progressbar/v3"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/pg"
)

// withDatabase calls run with the database of DATABASE_URL, or of the demo that runs on
// SHOP_DATA_DIR.
func withDatabase(ctx context.Context, config Config, run func(*pgxpool.Pool) error) error {
	config, err := config.WithDemo()
	if err != nil {
		return err
	}
	pool, err := pg.Open(ctx, config.DatabaseURL, 4)
	if err != nil {
		return UsageError{err}
	}
	defer pool.Close()
	if err := pool.Ping(ctx); err != nil {
		return fmt.Errorf("the database of DATABASE_URL (or of the demo on SHOP_DATA_DIR) does not answer: %w", err)
	}
	return run(pool)
}

// MigrateUp applies the missing migrations and lists them on out. If the shop has no products, it
// adds the catalog, without stock.
func MigrateUp(ctx context.Context, config Config, out io.Writer) error {
	return withDatabase(ctx, config, func(pool *pgxpool.Pool) error {
		applied, err := pg.Migrate(ctx, pool)
		if err != nil {
			return err
		}
		for _, version := range applied {
			fmt.Fprintf(out, "applied %05d\n", version)
		}
		if len(applied) == 0 {
			fmt.Fprintln(out, "up to date")
		}
		shop := orders.New(pool, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
		products, err := shop.Products(ctx)
		if err != nil || len(products) > 0 {
			return err
		}
		fmt.Fprintf(out, "added %d products; raise their stock with `shop import` or POST /v1/deliveries\n",
			len(catalog))
		return AddCatalog(ctx, shop)
	})
}

// MigrateStatus lists every migration on out.
func MigrateStatus(ctx context.Context, config Config, out io.Writer) error {
	return withDatabase(ctx, config, func(pool *pgxpool.Pool) error {
		all, err := pg.MigrationStatus(ctx, pool)
		if err != nil {
			return err
		}
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		for _, m := range all {
			state := "pending"
			if m.Applied {
				state = "applied"
			}
			fmt.Fprintf(table, "%s\t%s\n", m.File, state)
		}
		return table.Flush()
	})
}

// IssueToken creates a token and prints it on out. Only its hash is stored, so it cannot be shown
// again.
func IssueToken(ctx context.Context, config Config, email string, admin bool, out io.Writer) error {
	return withDatabase(ctx, config, func(pool *pgxpool.Pool) error {
		token, err := accounts.New(pool, false).IssueToken(ctx, email, admin)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(out, token)
		return err
	})
}

// ImportFile books a delivery file. It draws a progress bar on progress and writes the report to
// out. A file with bad lines is an error even if its good lines were kept.
func ImportFile(
	ctx context.Context, config Config, path, supplier string, keepGood bool, out, progress io.Writer,
) error {
	return withDatabase(ctx, config, func(pool *pgxpool.Pool) error {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return err
		}
		bar := progressbar.NewOptions64(info.Size(),
			progressbar.OptionSetWriter(progress),
			progressbar.OptionSetDescription("importing"),
			progressbar.OptionShowBytes(true),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish())
		service := orders.New(pool, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
		report, err := service.Import(ctx, &trackedFile{File: file, bar: bar}, supplier, keepGood)
		_ = bar.Finish() // failing to draw the bar does not matter
		for _, bad := range report.Bad {
			fmt.Fprintf(out, "%s:%d: %s\n", path, bad.Line, bad.Reason)
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

// trackedFile shows on the bar how much of the file has been read.
type trackedFile struct {
	*os.File
	bar *progressbar.ProgressBar
}

func (f *trackedFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	_ = f.bar.Add(n)
	return n, err
}

func (f *trackedFile) Seek(offset int64, whence int) (int64, error) {
	f.bar.Reset()
	return f.File.Seek(offset, whence)
}
