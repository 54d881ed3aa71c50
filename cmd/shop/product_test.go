package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestProduct(t *testing.T) {
	t.Parallel()
	database := shoptest.DatabaseURL(t)
	for _, step := range []struct {
		args string
		code int
		says string
	}{
		{"SAUCER --name=Saucer", exitWrongUse, "new product"},
		{"SAUCER --name=Saucer --price=1.50", exitWrongUse, "--currency"},
		{"SAUCER --name=Saucer --price=1.50 --currency=XYZ", exitWrongUse, "ISO 4217"},
		{"SAUCER --name=Saucer --price=1.505 --currency=EUR", exitWrongUse, "decimal places"},
		{"SAUCER --name=Saucer --price=0 --currency=EUR", exitWrongUse, "price"},
		{"SAUCER --name=Saucer --price=1.50 --currency=EUR", exitFine, "SAUCER is on sale"},
		{"SAUCER --price=150 --currency=JPY --description=Flat.", exitFine, "SAUCER is changed"},
	} {
		var out bytes.Buffer
		code := run(t.Context(), append([]string{"product"}, strings.Fields(step.args)...),
			[]string{"DATABASE_URL=" + database, "SHOP_DATA_DIR=" + t.TempDir()}, &out, &out)
		if code != step.code || !strings.Contains(out.String(), step.says) {
			t.Errorf("%s: code %d, %s", step.args, code, out.String())
		}
	}
	var row string
	err := shoptest.Pool(t, database).QueryRow(t.Context(), `SELECT concat_ws('|', sku, name, description, currency,
		unit_price, available) FROM products JOIN stock USING (sku) WHERE sku = 'SAUCER'`).Scan(&row)
	if want := "SAUCER|Saucer|Flat.|JPY|150|0"; err != nil || row != want {
		t.Errorf("got %s %v, want %s", row, err, want)
	}
}
