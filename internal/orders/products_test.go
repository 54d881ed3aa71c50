package orders_test

import (
	"errors"
	"regexp"
	"testing"

	"github.com/onceshop/onceshop/internal/money"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/problem"
)

// A product in a currency that cannot be printed would be paid for and get no receipt.
func TestTableTakesTheCurrenciesThatCanBePrinted(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var check string
	const constraint = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'products_currency'"
	if err := b.pool.QueryRow(t.Context(), constraint).Scan(&check); err != nil {
		t.Fatal(err)
	}
	taken := map[string]bool{}
	for _, found := range regexp.MustCompile(`'([A-Z]{3})'`).FindAllStringSubmatch(check, -1) {
		taken[found[1]] = true
	}
	for i := range 26 * 26 * 26 {
		code := string([]byte{'A' + byte(i/676), 'A' + byte(i/26%26), 'A' + byte(i%26)})
		if taken[code] != money.Valid(code) {
			t.Errorf("%s: in the table %t, can be printed %t", code, taken[code], money.Valid(code))
		}
	}
	for _, code := range []string{"XYZ", "eur", "", "EURO", "XXX", "BTC"} {
		if _, err := b.pool.Exec(t.Context(), "UPDATE products SET currency = $1", code); err == nil {
			t.Errorf("the table took %q", code)
		}
	}
}

// However a product comes into the table, a delivery raises its stock.
func TestProductHasItsStock(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(t, `INSERT INTO products (sku, name, description, currency, unit_price, position)
		VALUES ('NEW', 'New', 'By hand.', 'EUR', 100, 9)`)
	b.deliver(t, line("NEW", 3))
	if n := b.available(t, "NEW"); n != 3 {
		t.Errorf("%d units, want 3", n)
	}
	b.place(t, b.order("k1", line("NEW", 2)))
	if _, err := b.pool.Exec(t.Context(), "DELETE FROM stock WHERE sku = 'CUP'"); err == nil {
		t.Error("a product lost its row of stock")
	}
}

func TestSaveProduct(t *testing.T) {
	t.Parallel()
	b := setup(t)
	name, text := "Saucer", "Goes under a cup."
	save := func(c orders.SaveProduct) (added bool) {
		t.Helper()
		added, err := b.shop.Save(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return added
	}
	whole := orders.SaveProduct{SKU: "SAUCER", Name: &name, Price: &money.Money{Minor: 150, Currency: "EUR"}}
	if !save(whole) || save(whole) {
		t.Error("the product was not added once")
	}
	if save(orders.SaveProduct{SKU: "SAUCER", Description: &text, Price: &money.Money{Minor: 20, Currency: "JPY"}}) {
		t.Error("the product was added again")
	}
	products, err := b.shop.Products(t.Context())
	want := orders.Product{SKU: "SAUCER", Name: name, Description: text, Currency: "JPY", UnitPrice: 20}
	if err != nil || products[len(products)-1] != want {
		t.Errorf("got %v %v, want %v at the end", products, err, want)
	}
	if _, err := b.shop.Save(t.Context(), orders.SaveProduct{SKU: "LID", Name: &name}); !errors.Is(err,
		orders.ErrNewProduct) {
		t.Errorf("without a price: %v", err)
	}
	empty, broken := " ", "two\nlines"
	for what, c := range map[string]orders.SaveProduct{
		"no sku": {Name: &name}, "a blank in the sku": {SKU: "A B", Name: &name}, "no name": {SKU: "A", Name: &empty},
		"two lines": {SKU: "A", Name: &broken}, "free": {SKU: "A", Price: &money.Money{Currency: "EUR"}},
		"too dear": {SKU: "A", Price: &money.Money{Minor: 10_000_000_001, Currency: "EUR"}},
	} {
		_, err := b.shop.Save(t.Context(), c)
		if _, ok := errors.AsType[problem.InvalidError](err); !ok {
			t.Errorf("%s: %v", what, err)
		}
	}
}
