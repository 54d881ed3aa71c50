package lab

import (
	"context"
	"strings"

	"github.com/onceshop/onceshop/internal/orders"
)

// delivery is a supplier's file: three lines, one of them twice. Each brings ten mugs.
var delivery = []string{"D1,1", "D1,2", "D1,2", "D1,3"}

const deliveryLines = 3

func restart() Experiment {
	return Experiment{
		ID: "memory-restart", Strategy: Memory,
		Predict: Prediction{Effect: "stock movements", Choices: []int{3, 4, 6},
			Question: "A file with three lines, one of them twice, is imported twice. " +
				"How many stock movements does the naive import write?"},
		Actors: []Actor{NodeA, Database},
		Naive: Twin{Title: "memory alone", Expect: Duplicates,
			Constraint: []string{"internal/proof/lab/naive_orders.sql:stock_movements",
				"internal/proof/lab/memory_naive.go:naiveMemory"},
			Statement: []string{"internal/proof/lab/memory_naive.go:naiveShop.importDelivery~INSERT"},
			Code: []string{"internal/proof/lab/memory_naive.go:naiveShop.importDelivery",
				"internal/proof/lab/memory_naive.go:naiveMemory.first"},
			Run: naiveRestart},
		Guarded: Twin{Title: "memory before the unique row", Expect: Holds,
			Constraint: []string{"db/migrations/00002_orders.sql:stock_movements_one_per_delivery_line",
				"internal/dedup/memory.go:Seen"},
			Statement: []string{"db/queries/orders/stock.sql:InsertDeliveryLines"},
			Code: []string{"internal/orders/import.go:importRun.accept",
				"internal/orders/import.go:importRun.bookTx"},
			Run: guardedRestart},
	}
}

func naiveRestart(ctx context.Context, b *Bench) error {
	b.Count("stock movements", "table stock_movements", deliveryLines, func(ctx context.Context) (int, error) {
		return Rows(ctx, b.Naive, "SELECT count(*) FROM stock_movements WHERE run = $1", b.Name)
	})
	return b.runTwice(ctx, func(ctx context.Context) error {
		shop := b.naiveShop(NodeA).remembers(plenty, longWhile)
		booked, err := shop.importDelivery(ctx, delivery)
		if err == nil {
			b.Stops(ctx, NodeA, "lines skipped, seen in this run: %d", len(delivery)-booked)
		}
		return err
	})
}

func guardedRestart(ctx context.Context, b *Bench) error {
	b.Count("stock movements", "table stock_movements", deliveryLines, func(ctx context.Context) (int, error) {
		return Rows(ctx, b.Guarded, "SELECT count(*) FROM stock_movements WHERE supplier = $1", b.Name)
	})
	return b.runTwice(ctx, func(ctx context.Context) error {
		report, err := b.orders().Import(ctx, deliveryFile(), b.Name, false)
		if err == nil {
			b.drawImport(ctx, report)
		}
		return err
	})
}

// runTwice runs an import in one process and again in the next.
func (b *Bench) runTwice(ctx context.Context, run func(context.Context) error) error {
	b.Does(ctx, NodeA, "shop import: %d lines", len(delivery))
	if err := run(ctx); err != nil {
		return err
	}
	b.Fails(ctx, NodeA, "the process ends, and its memory with it")
	b.Does(ctx, NodeA, "shop import, again: %d lines", len(delivery))
	return run(ctx)
}

func deliveryFile() *strings.Reader {
	file := "delivery_id,line,sku,quantity\n"
	for _, line := range delivery {
		file += line + "," + sku + ",10\n"
	}
	return strings.NewReader(file)
}

func (b *Bench) drawImport(ctx context.Context, report orders.ImportReport) {
	if report.SeenInMemory > 0 {
		b.Stops(ctx, NodeA, "lines skipped, seen in this run: %d", report.SeenInMemory)
	}
	b.Says(ctx, NodeA, Database, "INSERT INTO stock_movements ON CONFLICT DO NOTHING: %s", rows(int64(report.Booked)))
	if known := report.Repeated - report.SeenInMemory; known > 0 {
		b.Stops(ctx, Database, "lines booked before: %d", known)
	}
	b.Does(ctx, Database, "stock raised by %d", report.Units)
}
