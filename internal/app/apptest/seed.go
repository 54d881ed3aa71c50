package apptest

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/orders"
)

// products are what the tests buy. A fork's catalog does not change them.
var products = []orders.Product{
	{SKU: "MUG-ONCE", Name: "The Once Mug", Currency: "EUR", UnitPrice: 1400,
		Description: "Stoneware, 350 ml. Fill it as often as you like; it was only made once."},
	{SKU: "TEE-ONCE", Name: "Exactly-Once Tee", Currency: "EUR", UnitPrice: 2400,
		Description: "Heavy organic cotton. Wash it repeatedly: the effect stays the same."},
	{SKU: "PIN-KEY", Name: "Idempotency Key Pin", Currency: "EUR", UnitPrice: 650},
	{SKU: "NOTE-LOG", Name: "Append-Only Notebook", Currency: "EUR", UnitPrice: 980},
	{SKU: "LAMP-LEASE", Name: "Lease Lamp", Currency: "EUR", UnitPrice: 7900},
	{SKU: "LAST-ONE", Name: "The Last One", Currency: "EUR", UnitPrice: 12000},
}

// stock is a delivery of them.
const stock = `delivery_id,line,sku,quantity
opening,1,MUG-ONCE,1000
opening,2,TEE-ONCE,1000
opening,3,PIN-KEY,5000
opening,4,NOTE-LOG,1000
opening,5,LAMP-LEASE,200
opening,6,LAST-ONE,1
`

// Seed adds the demo's customers, products and stock.
func Seed(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	if err := accounts.New(pool, true).SeedDemo(t.Context()); err != nil {
		t.Fatal(err)
	}
	shop := orders.New(pool, orders.DefaultExpiry, time.Now, Log(t))
	for position, product := range products {
		if err := shop.AddProduct(t.Context(), product, position); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := shop.Import(t.Context(), strings.NewReader(stock), "onceshop-demo", false); err != nil {
		t.Fatal(err)
	}
}
