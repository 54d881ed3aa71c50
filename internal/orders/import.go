package orders

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/problem"
)

const (
	importBatch = 1000
	// importSeen is how many lines a run remembers. The database recognizes the others.
	importSeen    = 100_000
	importSeenFor = time.Hour
)

var importColumns = []string{"delivery_id", "line", "sku", "quantity"}

// ErrBadLines reports that a file had bad lines and nothing of it was imported.
var ErrBadLines = errors.New("orders: the file has bad lines, nothing was imported")

// ImportReport is the outcome of an import, in lines of the file.
type ImportReport struct {
	Booked int
	// Repeated lines were in this file or an earlier one. SeenInMemory of them needed no query.
	Repeated     int
	SeenInMemory int
	Units        int64
	Bad          []BadLine
}

// BadLine is a line that cannot be imported, and why. The header is line 1.
type BadLine struct {
	Line   int
	Reason string
}

// deliveryLine is a line of the file. Its line number in the file is at.
type deliveryLine struct {
	at         int
	deliveryID string
	line       int32
	sku        string
	quantity   int64
}

func (l deliveryLine) key() string {
	return fmt.Sprintf("%q %d %q %d", l.deliveryID, l.line, l.sku, l.quantity)
}

// importRun is one pass over a file.
type importRun struct {
	supplier string
	seen     *dedup.Seen
	known    []string
	raise    map[string]int64
	report   ImportReport
}

// Import books a supplier's delivery file into stock: CSV with the columns delivery_id, line, sku
// and quantity. A line raises stock once, however often it is read. With keepGood, Import commits
// the good lines batch by batch. Without it, a file with a bad line is not imported at all
// (ErrBadLines). The report is complete in both cases.
func (s *Service) Import(ctx context.Context, file io.ReadSeeker, supplier string, keepGood bool) (ImportReport,
	error) {
	supplier, ok := visible(supplier)
	if !ok || supplier == "" {
		return ImportReport{}, problem.InvalidError{Field: "supplier", Reason: "must be a name that can be seen"}
	}
	run := &importRun{supplier: supplier}
	if keepGood {
		err := s.importAll(ctx, file, run, func(batch []deliveryLine) error {
			before := run.report
			before.Bad = slices.Clip(before.Bad)
			return pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
				run.report, run.raise = before, map[string]int64{}
				if err := run.bookTx(ctx, tx, batch); err != nil {
					return err
				}
				return raiseStockTx(ctx, ordersdb.New(tx), run.raise)
			})
		})
		return run.report, err
	}
	err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		run.raise = map[string]int64{}
		err := s.importAll(ctx, file, run, func(batch []deliveryLine) error { return run.bookTx(ctx, tx, batch) })
		if err == nil && len(run.report.Bad) > 0 {
			err = ErrBadLines
		}
		if err != nil {
			return err
		}
		return raiseStockTx(ctx, ordersdb.New(tx), run.raise)
	})
	return run.report, err
}

// importAll reads the file from its start and calls book with batches of new lines.
func (s *Service) importAll(ctx context.Context, file io.ReadSeeker, run *importRun,
	book func([]deliveryLine) error) error {
	run.report, run.seen = ImportReport{}, dedup.NewSeen(importSeen, importSeenFor)
	defer run.seen.Close()
	products, err := s.Products(ctx)
	if err != nil {
		return err
	}
	run.known = run.known[:0]
	for _, p := range products {
		run.known = append(run.known, p.SKU)
	}
	slices.Sort(run.known)
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read the file from its start: %w", err)
	}
	return run.read(file, book)
}

// read calls book with batches of the file's new lines.
func (run *importRun) read(file io.Reader, book func([]deliveryLine) error) error {
	buffered := bufio.NewReader(file)
	if mark, _, err := buffered.ReadRune(); err == nil && mark != '\ufeff' { // a byte order mark, from spreadsheets
		_ = buffered.UnreadRune()
	}
	reader := csv.NewReader(buffered)
	reader.ReuseRecord = true
	header, err := reader.Read()
	for i := range header {
		header[i], _ = visible(header[i])
	}
	if err != nil || !slices.Equal(header, importColumns) {
		return fmt.Errorf("the file's first line must be %q", "delivery_id,line,sku,quantity")
	}
	batch := make([]deliveryLine, 0, importBatch)
	for {
		record, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if line, ok := run.accept(reader, record, err); ok {
			batch = append(batch, line)
		}
		var syntax *csv.ParseError
		if err != nil && !errors.As(err, &syntax) {
			return fmt.Errorf("read the file: %w", err)
		}
		if len(batch) == importBatch {
			if err := book(batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return book(batch)
}

// accept checks one record. It drops a record that this run has seen.
func (run *importRun) accept(reader *csv.Reader, record []string, err error) (deliveryLine, bool) {
	var syntax *csv.ParseError
	if errors.As(err, &syntax) {
		run.bad(syntax.StartLine, syntax.Err.Error())
		return deliveryLine{}, false
	}
	if err != nil {
		return deliveryLine{}, false
	}
	at, _ := reader.FieldPos(0)
	line, reason := parseDeliveryLine(record)
	line.at = at
	if reason == "" {
		if _, known := slices.BinarySearch(run.known, line.sku); !known {
			reason = fmt.Sprintf("unknown sku %q", line.sku)
		}
	}
	if reason != "" {
		run.bad(at, reason)
		return deliveryLine{}, false
	}
	if !run.seen.First(line.key()) {
		run.report.Repeated++
		run.report.SeenInMemory++
		return deliveryLine{}, false
	}
	return line, true
}

// parseDeliveryLine compares cells as a person sees them: what a spreadsheet adds to an id must not
// make it another one.
func parseDeliveryLine(record []string) (deliveryLine, string) {
	for i, cell := range record {
		seen, ok := visible(cell)
		if !ok {
			return deliveryLine{}, fmt.Sprintf("%s has characters that cannot be seen: %q", importColumns[i], cell)
		}
		record[i] = seen
	}
	number, err := strconv.ParseInt(record[1], 10, 32)
	if err != nil || number < 1 {
		return deliveryLine{}, fmt.Sprintf("line must be a whole number from 1, not %q", record[1])
	}
	quantity, err := strconv.ParseInt(record[3], 10, 64)
	if err != nil || quantity < 1 || quantity > maxQuantity {
		return deliveryLine{}, fmt.Sprintf("quantity must be a whole number from 1 to %d, not %q", maxQuantity,
			record[3])
	}
	if record[0] == "" || len(record[0]) > 255 {
		return deliveryLine{}, "delivery_id must have 1 to 255 bytes"
	}
	return deliveryLine{deliveryID: record[0], line: int32(number), sku: record[2], quantity: quantity}, ""
}

// bookTx inserts the batch. It compares each line that the UNIQUE key refuses with the row that has
// the key: the same content is a repeat, other content is a bad line.
func (run *importRun) bookTx(ctx context.Context, tx pgx.Tx, batch []deliveryLine) error {
	type name struct {
		deliveryID string
		line       int32
	}
	params := ordersdb.InsertDeliveryLinesParams{Supplier: run.supplier}
	for _, l := range batch {
		params.DeliveryIds = append(params.DeliveryIds, l.deliveryID)
		params.Lines = append(params.Lines, l.line)
		params.Skus = append(params.Skus, l.sku)
		params.Quantities = append(params.Quantities, l.quantity)
	}
	// One import of a supplier at a time: files with the same lines in different orders would
	// deadlock.
	const lock = "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' import ' || $1::text, 0))"
	if _, err := tx.Exec(ctx, lock, run.supplier); err != nil {
		return fmt.Errorf("wait for other imports of %s: %w", run.supplier, err)
	}
	db := ordersdb.New(tx)
	inserted, err := db.InsertDeliveryLines(ctx, params)
	if err != nil {
		return fmt.Errorf("insert the lines: %w", err)
	}
	fresh := make(map[name]bool, len(inserted))
	for _, row := range inserted {
		fresh[name{row.DeliveryID, row.Line}] = true
	}
	stored, err := db.FindDeliveryLines(ctx, ordersdb.FindDeliveryLinesParams{
		Supplier: run.supplier, DeliveryIds: params.DeliveryIds, Lines: params.Lines})
	if err != nil {
		return fmt.Errorf("read the lines that were booked before: %w", err)
	}
	standing := make(map[name]ordersdb.FindDeliveryLinesRow, len(stored))
	for _, row := range stored {
		standing[name{row.DeliveryID, row.Line}] = row
	}
	for _, l := range batch {
		n := name{l.deliveryID, l.line}
		switch there := standing[n]; {
		case there.Sku != l.sku || there.Quantity != l.quantity:
			run.bad(l.at, fmt.Sprintf("line %d of delivery %s is booked already, as %d × %s",
				l.line, l.deliveryID, there.Quantity, there.Sku))
		case fresh[n]:
			delete(fresh, n)
			run.report.Booked++
			run.report.Units += l.quantity
			run.raise[l.sku] += l.quantity
		default:
			run.report.Repeated++
		}
	}
	return nil
}

func (run *importRun) bad(line int, reason string) {
	run.report.Bad = append(run.report.Bad, BadLine{Line: line, Reason: reason})
}
