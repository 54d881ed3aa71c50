package app

import (
	"context"

	"github.com/onceshop/onceshop/internal/orders"
)

// catalog has the products of a new shop.
var catalog = []orders.Product{
	{SKU: "MUG-ONCE", Name: "The Once Mug", Currency: "EUR", UnitPrice: 1400,
		Description: "Stoneware, 350 ml. Fill it as often as you like; it was only made once."},
	{SKU: "TEE-ONCE", Name: "Exactly-Once Tee", Currency: "EUR", UnitPrice: 2400,
		Description: "Heavy organic cotton. Wash it repeatedly: the effect stays the same."},
	{SKU: "PIN-KEY", Name: "Idempotency Key Pin", Currency: "EUR", UnitPrice: 650,
		Description: "Enamel on brass. Wear the key, and nobody can order you twice."},
	{SKU: "NOTE-LOG", Name: "Append-Only Notebook", Currency: "EUR", UnitPrice: 980,
		Description: "192 dotted pages, thread-bound. What is written stays written."},
	{SKU: "LAMP-LEASE", Name: "Lease Lamp", Currency: "EUR", UnitPrice: 7900,
		Description: "Dims after thirty minutes unless you touch it, so no light burns for ever."},
	{SKU: "LAST-ONE", Name: "The Last One", Currency: "EUR", UnitPrice: 12000,
		Description: "A numbered print, 1 of 1. However many buyers press at once, one gets it."},
}

// AddCatalog adds the catalog, without stock. It does not change products that exist.
func AddCatalog(ctx context.Context, shop *orders.Service) error {
	for position, product := range catalog {
		if err := shop.AddProduct(ctx, product, position); err != nil {
			return err
		}
	}
	return nil
}
