package orders_test

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const header = "delivery_id,line,sku,quantity\n"

// imported is what one of many imports came to.
type imported struct {
	report orders.ImportReport
	err    error
}

func importFile(ctx context.Context, shop *orders.Service, lines string, keepGood bool) imported {
	report, err := shop.Import(ctx, strings.NewReader(header+lines), "acme", keepGood)
	return imported{report, err}
}

func (b *bundle) importFile(t testing.TB, lines string, keepGood bool) orders.ImportReport {
	t.Helper()
	result := importFile(t.Context(), b.shop, lines, keepGood)
	if result.err != nil {
		t.Fatal(result.err)
	}
	return result.report
}

// counts is a report in short: booked, repeated, seen in memory, units, bad.
func counts(r orders.ImportReport) [5]int {
	return [5]int{r.Booked, r.Repeated, r.SeenInMemory, int(r.Units), len(r.Bad)}
}

func TestImportRaisesStockOnce(t *testing.T) {
	t.Parallel()
	for _, keepGood := range []bool{false, true} {
		t.Run(fmt.Sprint("keep good ", keepGood), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			const repeated = "D1,1,CUP,10\nD1,2,POT,5\nD1,1,CUP,10\nD2,1,CUP,10\nD1,2,POT,5\nD1,1,CUP,10\n"
			for i, step := range []struct {
				file string
				want [5]int
			}{
				{repeated, [5]int{3, 3, 3, 25, 0}},
				{repeated, [5]int{0, 6, 3, 0, 0}},
				{"D2,1,CUP,10\nD2,2,CUP,1\nD1,2,POT,5\n", [5]int{1, 2, 0, 1, 0}},
				{"", [5]int{}},
			} {
				if got := counts(b.importFile(t, step.file, keepGood)); got != step.want {
					t.Errorf("file %d: booked, repeated, seen, units, bad: %v, want %v", i, got, step.want)
				}
			}
			if cup, pot := b.available(t, "CUP"), b.available(t, "POT"); cup != 21 || pot != 5 {
				t.Errorf("available: %d cups, %d pots, want 21 and 5", cup, pot)
			}
			if _, err := b.shop.Import(t.Context(), strings.NewReader(header+repeated), "another supplier",
				keepGood); err != nil {
				t.Fatal(err)
			}
			if cup := b.available(t, "CUP"); cup != 41 {
				t.Errorf("another supplier's D1 and D2: %d cups, want 41", cup)
			}
		})
	}
}

func TestImportSameFileAtOnce(t *testing.T) {
	t.Parallel()
	for _, keepGood := range []bool{false, true} {
		t.Run(fmt.Sprint("keep good ", keepGood), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			nodes := []*orders.Service{b.shop, b.node(t)}
			var lines []string // more than one batch
			for i := range 1500 {
				lines = append(lines, fmt.Sprintf("D%d,%d,%s,2\n", i%7, i+1, []string{"CUP", "POT", "TEA"}[i%3]))
			}
			forth := strings.Join(lines, "")
			slices.Reverse(lines)
			back := strings.Join(lines, "") // locks in the other direction
			results := shoptest.Race(4, func(i int) imported {
				return importFile(t.Context(), nodes[i%2], []string{forth, back}[i/2], keepGood)
			})
			booked, repeated := 0, 0
			for i, r := range results {
				if r.err != nil || len(r.report.Bad) != 0 {
					t.Errorf("import %d: %v, %v", i, r.err, r.report.Bad)
				}
				booked += r.report.Booked
				repeated += r.report.Repeated
			}
			if n := b.deadlocks(t); n != 0 {
				t.Errorf("Postgres had to break %d deadlocks", n)
			}
			if booked != 1500 || repeated != 4500 {
				t.Errorf("booked %d and repeated %d lines, want 1500 and 4500", booked, repeated)
			}
			for _, sku := range []string{"CUP", "POT", "TEA"} {
				if got := b.available(t, sku); got != 1000 {
					t.Errorf("%s: %d, want 1000", sku, got)
				}
			}
		})
	}
}

// badFile has lines that are good, and one of each kind that is not.
const badFile = `D1,1,CUP,10
D1,2,NONE,1
D1,3,CUP,0
D1,4,CUP,-1
D1,5,CUP,1000001
D1,6,CUP,1.5
D1,7,CUP,many
D1,0,CUP,1
D1,x,CUP,1
D1,4294967297,CUP,1
,8,CUP,1
D1,9,CUP
D1,10,CUP,1,extra
D1,11,C"UP,1
D1,12,"CUP"x,1
D1,1,CUP,11
D1,1,POT,10
D0,1,CUP,6
D0,1,CUP,5
"D2
with a line break",1,CUP,3

D2,2,cup,1
D` + "\x00" + `,1,CUP,1
D` + "\xff" + `,1,CUP,1
"D3",1,POT,4
D4,1,POT,"4
`

func TestImportNamesBadLines(t *testing.T) {
	t.Parallel()
	want := map[int]string{
		3: `unknown sku "NONE"`, 4: "quantity", 5: "quantity", 6: "quantity", 7: "quantity", 8: "quantity",
		9: "line must", 10: "line must", 11: "line must", 12: "delivery_id", 13: "wrong number of fields",
		14: "wrong number of fields",
		15: `"`, 16: `"`, 17: "booked already, as 10 × CUP", 18: "booked already, as 10 × CUP",
		19: "booked already, as 5 × CUP",
		24: `unknown sku "cup"`, 25: "delivery_id", 26: "delivery_id", 28: `"`,
	}
	check := func(t *testing.T, bad []orders.BadLine) {
		t.Helper()
		for _, line := range bad {
			if reason, ok := want[line.Line]; !ok || !strings.Contains(line.Reason, reason) {
				t.Errorf("line %d: %s; want %q", line.Line, line.Reason, reason)
			}
		}
		if len(bad) != len(want) {
			t.Errorf("%d bad lines, want %d", len(bad), len(want))
		}
	}
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		b.importFile(t, "D0,1,CUP,5\n", false)
		before := b.snapshot(t)
		result := importFile(t.Context(), b.shop, badFile, false)
		if !errors.Is(result.err, orders.ErrBadLines) {
			t.Errorf("%v, want ErrBadLines", result.err)
		}
		check(t, result.report.Bad)
		b.unchanged(t, before)
	})
	t.Run("the good ones", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		b.importFile(t, "D0,1,CUP,5\n", true)
		report := b.importFile(t, badFile, true)
		check(t, report.Bad)
		if got, want := counts(report), [5]int{3, 1, 0, 17, len(want)}; got != want {
			t.Errorf("booked, repeated, seen, units, bad: %v, want %v", got, want)
		}
		// The mended file books what was missing and nothing twice.
		if got, want := counts(b.importFile(t, "D1,1,CUP,10\nD1,2,TEA,1\n\"D3\",1,POT,4\nD4,1,POT,4\n", true)),
			[5]int{2, 2, 0, 5, 0}; got != want {
			t.Errorf("the mended file: booked, repeated, seen, units, bad: %v, want %v", got, want)
		}
		if cup, pot := b.available(t, "CUP"), b.available(t, "POT"); cup != 18 || pot != 8 {
			t.Errorf("available: %d cups, %d pots, want 18 and 8", cup, pot)
		}
	})
}

// Of lines that contradict each other inside one file, over two batches too, the first counts.
func TestImportContradictionInAnotherBatch(t *testing.T) {
	t.Parallel()
	for _, keepGood := range []bool{false, true} {
		t.Run(fmt.Sprint("keep good ", keepGood), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			var file strings.Builder
			for i := range 1200 {
				fmt.Fprintf(&file, "D1,%d,CUP,1\n", i+1)
			}
			file.WriteString("D1,7,CUP,2\n")
			result := importFile(t.Context(), b.shop, file.String(), keepGood)
			if len(result.report.Bad) != 1 || result.report.Bad[0].Line != 1202 {
				t.Errorf("bad lines %v, want line 1202", result.report.Bad)
			}
			want := 1200
			if !keepGood {
				want = 0
			}
			if (result.err != nil) == keepGood || b.available(t, "CUP") != want {
				t.Errorf("%v, %d cups, want %d", result.err, b.available(t, "CUP"), want)
			}
		})
	}
}

func TestImportNeedsItsHeader(t *testing.T) {
	t.Parallel()
	b := setup(t)
	before := b.snapshot(t)
	for name, file := range map[string]string{
		"empty":             "",
		"no header":         "D1,1,CUP,10\n",
		"other order":       "line,delivery_id,sku,quantity\n1,D1,CUP,10\n",
		"a column too many": "delivery_id,line,sku,quantity,price\nD1,1,CUP,10,1\n",
		"not a CSV":         "\"",
	} {
		for _, keepGood := range []bool{false, true} {
			report, err := b.shop.Import(t.Context(), strings.NewReader(file), "acme", keepGood)
			if err == nil || !strings.Contains(err.Error(), "delivery_id,line,sku,quantity") ||
				counts(report) != [5]int{} {
				t.Errorf("%s: %v, %+v, want an error that names the columns", name, err, report)
			}
		}
	}
	b.unchanged(t, before)
	if report, err := b.shop.Import(t.Context(),
		strings.NewReader(strings.ReplaceAll(header+"D1,1,CUP,10\n", "\n", "\r\n")), "acme", false); err != nil ||
		report.Booked != 1 {
		t.Errorf("a file with Windows line ends: %+v, %v", report, err)
	}
}

func TestImportLargeFile(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var file strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&file, "D%d,%d,%s,3\n", i/100, i%100+1, []string{"CUP", "POT"}[i%2])
	}
	start := time.Now()
	if got, want := counts(b.importFile(t, file.String(), false)), [5]int{20_000, 0, 0, 60_000, 0}; got != want {
		t.Errorf("booked, repeated, seen, units, bad: %v, want %v", got, want)
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("20,000 lines took %v", took)
	}
	if got, want := counts(b.importFile(t, file.String(), true)), [5]int{0, 20_000, 0, 0, 0}; got != want {
		t.Errorf("again: booked, repeated, seen, units, bad: %v, want %v", got, want)
	}
	if cup, pot := b.available(t, "CUP"), b.available(t, "POT"); cup != 30_000 || pot != 30_000 {
		t.Errorf("available: %d cups, %d pots, want 30000 each", cup, pot)
	}
}

// However lines are repeated, shuffled and spread over files, stock rises once for each.
func TestImportOrderAndRepetitionDoNotMatter(t *testing.T) {
	t.Parallel()
	b := setup(t)
	skus := []string{"CUP", "POT", "TEA"}
	rapid.Check(t, func(r *rapid.T) {
		supplier := uuid.NewString()
		rise := map[string]int{}
		for _, sku := range skus {
			rise[sku] = -b.available(t, sku)
		}
		booked := map[int]bool{}
		for range rapid.IntRange(1, 4).Draw(r, "files") {
			var file strings.Builder
			for _, n := range rapid.SliceOfN(rapid.IntRange(0, 14), 0, 20).Draw(r, "lines") {
				fmt.Fprintf(&file, "D%d,%d,%s,%d\n", n/5, n%5+1, skus[n%3], n+1)
				booked[n] = true
			}
			keepGood := rapid.Bool().Draw(r, "keep good")
			if _, err := b.shop.Import(t.Context(), strings.NewReader(header+file.String()), supplier,
				keepGood); err != nil {
				r.Fatal(err)
			}
		}
		want := map[string]int{"CUP": 0, "POT": 0, "TEA": 0}
		for n := range booked {
			want[skus[n%3]] += n + 1
		}
		for _, sku := range skus {
			if rise[sku] += b.available(t, sku); rise[sku] != want[sku] {
				r.Fatalf("%s rose by %d, want %d", sku, rise[sku], want[sku])
			}
		}
	})
}

// FuzzImport feeds any bytes as a file: the import reports or refuses them, the database never
// does, stock stays the sum of its movements, and the same bytes again change nothing.
func FuzzImport(f *testing.F) {
	f.Add([]byte(header + badFile))
	f.Add([]byte(header + "D1,1,CUP,10\nD1,1,CUP,10\n"))
	f.Add([]byte(strings.ReplaceAll(header+"D1,1,CUP,10\n\"D\n1\",2,POT,1\n", "\n", "\r\n")))
	f.Add([]byte(header + "D1,2147483647,CUP,1000000\n"))
	b := setup(f)
	f.Fuzz(func(t *testing.T, file []byte) {
		supplier := uuid.NewString()
		run := func(keepGood bool) imported {
			report, err := b.shop.Import(t.Context(), strings.NewReader(string(file)), supplier, keepGood)
			var refused *pgconn.PgError
			if errors.As(err, &refused) {
				t.Fatalf("Postgres refused what the import let through: %v", err)
			}
			return imported{report, err}
		}
		before := b.count(t, "SELECT sum(available) FROM stock")
		whole := run(false)
		if whole.err != nil && b.count(t, "SELECT sum(available) FROM stock") != before {
			t.Fatalf("%v, and yet stock changed", whole.err)
		}
		good := run(true)
		if whole.err == nil && good.report.Booked != 0 {
			t.Fatalf("the second run booked %d lines again", good.report.Booked)
		}
		if again := run(true); again.report.Booked != 0 || len(again.report.Bad) != len(good.report.Bad) {
			t.Fatalf("the same file again: %+v, before: %+v", again.report, good.report)
		}
		rose := b.count(t, "SELECT sum(available) FROM stock") - before
		if reported := int(whole.booked() + good.report.Units); rose != reported {
			t.Fatalf("stock rose by %d, the reports say %d", rose, reported)
		}
		b.tells(t, file, supplier, whole, good)
		checkInvariants(t, b.pool)
	})
}

// tells checks the reports against the file and the database: every record is accounted for, every
// bad one by a line of the file that is not blank, and what was booked, written as a file again, is
// the same delivery.
func (b *bundle) tells(t *testing.T, file []byte, supplier string, whole, good imported) {
	t.Helper()
	kept := max(good.report.Booked, good.report.Repeated-good.report.SeenInMemory)
	if n := b.count(t, "SELECT count(*) FROM stock_movements WHERE supplier = $1", supplier); good.err == nil &&
		n != kept {
		t.Fatalf("%d lines are kept, the reports say %+v, then %+v", n, whole.report, good.report)
	}
	lines := strings.Split(string(file), "\n")
	for _, bad := range good.report.Bad {
		if bad.Line < 2 || bad.Line > len(lines) || bad.Reason == "" ||
			strings.TrimRight(lines[bad.Line-1], "\r") == "" {
			t.Fatalf("%+v names no line of %q", bad, file)
		}
	}
	if good.err != nil {
		return
	}
	var again strings.Builder
	rows, err := b.pool.Query(t.Context(),
		"SELECT delivery_id, line, sku, quantity FROM stock_movements WHERE supplier = $1", supplier)
	if err != nil {
		t.Fatal(err)
	}
	out := csv.NewWriter(&again)
	record := make([]string, 4)
	var number, quantity int64
	if _, err := pgx.ForEachRow(rows, []any{&record[0], &number, &record[2], &quantity}, func() error {
		record[1], record[3] = fmt.Sprint(number), fmt.Sprint(quantity)
		return out.Write(record)
	}); err != nil {
		t.Fatal(err)
	}
	out.Flush()
	if strings.Contains(again.String(), "\r") {
		return // encoding/csv takes \r\n for \n, also inside quotes
	}
	if report := importAs(t, b, again.String(), supplier); report.Repeated != kept ||
		report.Booked+len(report.Bad) != 0 {
		t.Fatalf("%q was booked as %q, which reads as %+v", file, again.String(), report)
	}
}

func importAs(t *testing.T, b *bundle, lines, supplier string) orders.ImportReport {
	t.Helper()
	report, err := b.shop.Import(t.Context(), strings.NewReader(header+lines), supplier, true)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// booked is how many units were kept.
func (i imported) booked() int64 {
	if i.err != nil {
		return 0
	}
	return i.report.Units
}

// Spreadsheets write a byte order mark before the header.
func TestImportOfASpreadsheet(t *testing.T) {
	t.Parallel()
	b := setup(t)
	report, err := b.shop.Import(t.Context(), strings.NewReader("\ufeff"+header+"D1,1,CUP,10\n"), "acme", false)
	if err != nil || report.Booked != 1 || b.available(t, "CUP") != 10 {
		t.Errorf("%+v, %v, %d cups", report, err, b.available(t, "CUP"))
	}
}
