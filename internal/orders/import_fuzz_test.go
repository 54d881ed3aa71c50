package orders_test

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/onceshop/onceshop/internal/orders"
)

// unlike are spellings of D1 that look like it or cannot be told from it at the end of a cell.
var unlike = []string{"D1 ", " D1", "D1\u00a0", "D1\t", "D1\u200b", "\ufeffD1", "D1\u2060", "D1\u3000", "D1\u2800",
	"D1\u3164", "D1\ufe0f", "D1\u00ad", "D1\u034f", "D1\U000e0020", "\u202dD1", "D1\r", "D1\u2028"}

func TestIdsThatLookAlikeAreOne(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.importFile(t, "D1,1,CUP,10\n", false)
	for _, id := range unlike {
		if got := counts(b.importFile(t, `"`+id+`",1,CUP,10`+"\n", false)); got != [5]int{0, 1, 0, 0, 0} {
			t.Errorf("%q: booked, repeated, seen, units, bad: %v", id, got)
		}
		inside := "D" + strings.Trim(id, "D1") + "1"
		if inside == "D 1" {
			continue // a blank can be seen
		}
		file := strings.NewReader(header + `"` + inside + `",1,CUP,10` + "\n")
		report, err := b.shop.Import(t.Context(), file, "acme", true)
		if err != nil || len(report.Bad) != 1 || report.Bad[0].Line != 2 || report.Booked != 0 {
			t.Errorf("%q: %+v %v", inside, report, err)
		}
	}
	b.importFile(t, "D\u00e9,1,CUP,10\n", false)
	if got := counts(b.importFile(t, "De\u0301,1,CUP\u00a0,\t10\n", false)); got != [5]int{0, 1, 0, 0, 0} {
		t.Errorf("another form of é: %v", got)
	}
	again := strings.NewReader(header + "D1,1,CUP,10\n")
	if _, err := b.shop.Import(t.Context(), again, "acme\u200b", false); err != nil {
		t.Error(err)
	}
	if n := b.available(t, "CUP"); n != 20 {
		t.Errorf("%d cups, want 20", n)
	}
}

func TestHeadersOfSpreadsheets(t *testing.T) {
	t.Parallel()
	for _, header := range []string{"\ufeffdelivery_id,line,sku,quantity",
		"\ufeff\"delivery_id\",\"line\",\"sku\",\"quantity\"",
		"\"delivery_id\",line,sku,\"quantity\"\r", "delivery_id ,line,\u00a0sku,quantity"} {
		ids, report, err := orders.ReadDeliveries(strings.NewReader(header+"\nD1,1,CUP,2\n"), "CUP")
		if err != nil || len(ids) != 1 || len(report.Bad) != 0 {
			t.Errorf("%q: %v %+v %v", header, ids, report, err)
		}
	}
}

// FuzzImportFile bounds the time by the length of the file, and looks at the ids that are accepted.
func FuzzImportFile(f *testing.F) {
	for _, id := range unlike {
		f.Add([]byte(header + `"` + id + `",1,CUP,10` + "\n"))
	}
	f.Add([]byte("\ufeff" + header + "D1,1,CUP,10\nD1,1,CUP,10\n"))
	f.Add([]byte(header + strings.Repeat("\"", 5000)))
	f.Add([]byte(header + strings.Repeat("a,", 5000) + "\n"))
	f.Add([]byte(header + strings.Repeat("\n\"", 5000)))
	f.Add([]byte(header + strings.Repeat("e\u0301\u0316", 5000) + ",1,CUP,1\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		bound := 50*time.Millisecond + time.Duration(len(file))*10*time.Microsecond
		var took time.Duration
		for range 3 { // other processes may run in between
			begin := time.Now()
			ids, _, _ := orders.ReadDeliveries(bytes.NewReader(file), "CUP")
			for _, id := range ids {
				if id != strings.TrimSpace(id) || strings.Contains(id, "  ") ||
					strings.ContainsFunc(id, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
					t.Fatalf("accepted the delivery %q", id)
				}
			}
			if took = time.Since(begin); took < bound {
				return
			}
		}
		t.Errorf("%d bytes took %s, want at most %s", len(file), took, bound)
	})
}
