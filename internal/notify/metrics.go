package notify

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/onceshop/onceshop/internal/gauge"
	"github.com/onceshop/onceshop/internal/notify/internal/notifydb"
)

// openMost is the highest number that a scrape counts.
const openMost = 100_000

var openReceipts = prometheus.NewDesc("onceshop_receipts_open",
	"Receipts that are not sent, counted up to 100000: waiting for their next try, or dead.", []string{"state"}, nil)

// OpenMetrics returns a metrics collector of the receipts that are not sent.
func OpenMetrics(pool *pgxpool.Pool) prometheus.Collector {
	db := notifydb.New(pool)
	return gauge.New(func(ctx context.Context, set gauge.Set) error {
		row, err := db.CountOpen(ctx, openMost)
		set(openReceipts, float64(row.Waiting), "waiting")
		set(openReceipts, float64(row.Dead), "dead")
		return err
	}, openReceipts)
}
