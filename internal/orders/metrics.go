package orders

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/onceshop/onceshop/internal/gauge"
	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
)

// unpaidMost is how many orders a scrape counts.
const unpaidMost = 10_000

var (
	unpaidOrders = prometheus.NewDesc("onceshop_unpaid_orders",
		"Orders that are neither paid nor ended, counted up to 10000.", nil, nil)
	unpaidUnits = prometheus.NewDesc("onceshop_unpaid_units", "Units of stock that they hold.", nil, nil)
)

// UnpaidMetrics returns a metrics collector of the orders that hold stock and are not paid yet.
func UnpaidMetrics(pool *pgxpool.Pool) prometheus.Collector {
	db := ordersdb.New(pool)
	return gauge.New(func(ctx context.Context, set gauge.Set) error {
		row, err := db.CountHeld(ctx, unpaidMost)
		set(unpaidOrders, float64(row.Orders))
		set(unpaidUnits, float64(row.Units))
		return err
	}, unpaidOrders, unpaidUnits)
}
