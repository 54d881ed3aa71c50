package demo

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"log/slog"
	"time"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/pg"
)

// The opening stock is a supplier's file: a restart of the demo imports it again, and nothing
// happens.
//
//go:embed seed.csv
var openingStock []byte

// seed migrates the database and adds the demo's customers, products and opening stock, each once.
func seed(ctx context.Context, databaseURL string) error {
	pool, err := pg.Open(ctx, databaseURL, 2)
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := pg.Migrate(ctx, pool); err != nil {
		return err
	}
	if err := accounts.New(pool, true).SeedDemo(ctx); err != nil {
		return err
	}
	shop := orders.New(pool, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
	if err := app.AddCatalog(ctx, shop); err != nil {
		return err
	}
	if _, err := shop.Import(ctx, bytes.NewReader(openingStock), "onceshop-demo", false); err != nil {
		return fmt.Errorf("import the opening stock: %w", err)
	}
	return nil
}
