// Package restock delivers The Last One again after it has been sold out for a while, so that each
// visitor of the demo can race for it.
package restock

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/web"
)

const (
	sku       = "LAST-ONE"
	soldOut   = time.Minute
	lookEvery = 10 * time.Second
)

// Section returns a section without pages, which restocks while the shop runs.
func Section() app.Section {
	return app.Section{Section: web.Section{Path: "/demo/restock"}, Start: start}
}

func start(_ *echo.Echo, shop *web.Web, node app.Node) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := RunOnce(ctx, shop.Orders, shop.Accounts, soldOut); err != nil && ctx.Err() == nil {
					node.Log.Log(ctx, slog.LevelWarn, "The Last One was not restocked", "error", err)
				}
			}
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

// RunOnce delivers one unit if the product has been sold out for that long. The delivery's key is
// made of the movement that took the last unit, so that nodes and repeats deliver once.
func RunOnce(ctx context.Context, shop *orders.Service, customers *accounts.Service, after time.Duration) error {
	products, err := shop.Products(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(products, func(p orders.Product) bool { return p.SKU == sku && p.Available == 0 }) {
		return nil
	}
	last, _, err := shop.Movements(ctx, sku, 1, nil)
	if err != nil || len(last) == 0 || last[0].Delta > 0 || time.Since(last[0].At) < after {
		return err // after a delivery, another node was faster
	}
	admin, err := customers.Authenticate(ctx, accounts.DemoAdmin)
	if err != nil {
		return err
	}
	_, err = shop.Receive(ctx, orders.ReceiveDelivery{CustomerID: admin.ID,
		Key:   dedup.Key("restock-" + sku + "-" + strconv.FormatInt(last[0].ID, 10)),
		Lines: []orders.LineRequest{{SKU: sku, Quantity: 1}}})
	return err
}
