package orders

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/mail"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/problem"
)

// Limits of a request. Together with the price limit of the schema they keep every total inside an int64.
const (
	maxLines    = 100
	maxQuantity = 1_000_000
	maxEmail    = 254
)

// rereadTimeout bounds the look at the key after a commit whose answer was lost.
const rereadTimeout = 3 * time.Second

// PlaceOrder is the wish to buy. The exported JSON fields are what it means; customer and key are its scope.
type PlaceOrder struct {
	CustomerID uuid.UUID `json:"-"`
	Key        dedup.Key `json:"-"`

	Email string        `json:"email"`
	Lines []LineRequest `json:"lines"`
}

// LineRequest asks for units of a product.
type LineRequest struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}

// Fingerprint is what the command means.
func (c PlaceOrder) Fingerprint() dedup.Fingerprint { return dedup.FingerprintOf(c) }

// Place creates the order and reserves its stock, or finds that the key did so before. It returns the stored answer, 201
// with the order, byte for byte the same for every call with this key and meaning. Errors: problem.InvalidError, UnknownSKUError
// and OutOfStockError leave the key unused; dedup.ErrKeyReused; anything for which pg.IsUnavailable holds may have happened.
func (s *Service) Place(ctx context.Context, c PlaceOrder) (dedup.Answer, error) {
	if err := c.validate(); err != nil {
		return dedup.Answer{}, err
	}
	if answer, found, err := s.findPlaced(ctx, s.db, c); found || err != nil {
		return answer, err
	}
	var answer dedup.Answer
	err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) (err error) {
		answer, err = s.placeTx(ctx, tx, c)
		return err
	})
	if errors.Is(err, pg.ErrCommitUnknown) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rereadTimeout)
		defer cancel()
		if answer, found, rereadErr := s.findPlaced(ctx, s.db, c); found && rereadErr == nil {
			return answer, nil
		}
	}
	if err != nil {
		return dedup.Answer{}, err
	}
	return answer, nil
}

// placeTx inserts the order before it locks stock: twins meet at the unique key, and the stock rows that
// other buyers wait for are held only for the last statements.
func (s *Service) placeTx(ctx context.Context, tx pgx.Tx, c PlaceOrder) (dedup.Answer, error) {
	db := ordersdb.New(tx)
	order, err := s.price(ctx, db, c)
	if err != nil {
		return dedup.Answer{}, err
	}
	body, err := json.Marshal(order)
	if err != nil {
		return dedup.Answer{}, fmt.Errorf("encode the order: %w", err)
	}
	fingerprint := c.Fingerprint()
	inserted, err := db.InsertOrder(ctx, ordersdb.InsertOrderParams{
		ID: order.ID, CustomerID: c.CustomerID, IdempotencyKey: string(c.Key), Fingerprint: fingerprint[:], Answer: body,
		Email: order.Email, Currency: order.Currency, Total: order.Total, CreatedAt: order.CreatedAt, Expiry: s.expiry,
	})
	if err != nil {
		return dedup.Answer{}, fmt.Errorf("insert the order: %w", err)
	}
	if inserted == 0 {
		answer, found, err := s.findPlaced(ctx, db, c)
		if err == nil && !found {
			err = errors.New("the order that holds the key is gone")
		}
		return answer, err
	}
	if err := s.reserveTx(ctx, db, order); err != nil {
		return dedup.Answer{}, err
	}
	if err := s.enqueueTx(ctx, tx, EventPlaced, order); err != nil {
		return dedup.Answer{}, err
	}
	return placedAnswer(order.ID, body), nil
}

// price turns the wish into an order at today's prices.
func (s *Service) price(ctx context.Context, db *ordersdb.Queries, c PlaceOrder) (Order, error) {
	wanted := units(c.Lines)
	rows, err := db.GetProducts(ctx, slices.Sorted(maps.Keys(wanted)))
	if err != nil {
		return Order{}, fmt.Errorf("read the products: %w", err)
	}
	products := make(map[string]ordersdb.GetProductsRow, len(rows))
	for _, row := range rows {
		products[row.Sku] = row
		delete(wanted, row.Sku)
	}
	if len(wanted) > 0 {
		return Order{}, UnknownSKUError{SKUs: slices.Sorted(maps.Keys(wanted))}
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Order{}, fmt.Errorf("make an order id: %w", err)
	}
	order := Order{ID: id, CustomerID: c.CustomerID, Status: Placed, Email: c.Email, Currency: rows[0].Currency, CreatedAt: s.timestamp()}
	for i, line := range c.Lines {
		p := products[line.SKU]
		if p.Currency != order.Currency {
			return Order{}, problem.InvalidError{Field: fmt.Sprintf("lines[%d].sku", i),
				Reason: fmt.Sprintf("%s is sold in %s, the products before it in %s; place one order per currency", p.Sku, p.Currency, order.Currency)}
		}
		amount := p.UnitPrice * line.Quantity
		order.Lines = append(order.Lines, Line{SKU: p.Sku, Name: p.Name, Quantity: line.Quantity, UnitPrice: p.UnitPrice, Amount: amount})
		order.Total += amount
	}
	return order, nil
}

// reserveTx writes the lines and takes their units out of what is available, or says what is short.
func (s *Service) reserveTx(ctx context.Context, db *ordersdb.Queries, order Order) error {
	lines := ordersdb.InsertOrderLinesParams{OrderID: order.ID}
	for i, line := range order.Lines {
		lines.Lines = append(lines.Lines, int32(i+1))
		lines.Skus = append(lines.Skus, line.SKU)
		lines.Names = append(lines.Names, line.Name)
		lines.Quantities = append(lines.Quantities, line.Quantity)
		lines.UnitPrices = append(lines.UnitPrices, line.UnitPrice)
	}
	if err := db.InsertOrderLines(ctx, lines); err != nil {
		return fmt.Errorf("insert the order's lines: %w", err)
	}
	wanted := make(map[string]int64, len(order.Lines))
	for _, line := range order.Lines {
		wanted[line.SKU] += line.Quantity
	}
	stock, err := db.LockStock(ctx, slices.Sorted(maps.Keys(wanted)))
	if err != nil {
		return fmt.Errorf("lock the stock: %w", err)
	}
	var short []Shortage
	for _, row := range stock {
		if row.Available < wanted[row.Sku] {
			short = append(short, Shortage{SKU: row.Sku, Requested: wanted[row.Sku], Available: row.Available})
		}
	}
	if len(short) > 0 {
		return OutOfStockError{Items: short}
	}
	if err := db.MoveStockForOrder(ctx, ordersdb.MoveStockForOrderParams{OrderID: order.ID, Kind: "reserved"}); err != nil {
		return fmt.Errorf("reserve the stock: %w", err)
	}
	return nil
}

func (s *Service) findPlaced(ctx context.Context, db *ordersdb.Queries, c PlaceOrder) (dedup.Answer, bool, error) {
	row, err := db.FindOrderByKey(ctx, ordersdb.FindOrderByKeyParams{CustomerID: c.CustomerID, IdempotencyKey: string(c.Key)})
	if errors.Is(err, pgx.ErrNoRows) {
		return dedup.Answer{}, false, nil
	}
	if err != nil {
		return dedup.Answer{}, false, fmt.Errorf("find the order by its key: %w", err)
	}
	answer, err := dedup.Replay(row.Fingerprint, c.Fingerprint(), placedAnswer(row.ID, row.Answer))
	return answer, true, err
}

func placedAnswer(id uuid.UUID, body []byte) dedup.Answer {
	return dedup.Answer{ID: id, Status: http.StatusCreated, Body: body, Final: true}
}

// units sums what the lines ask for, per SKU.
func units(lines []LineRequest) map[string]int64 {
	sum := make(map[string]int64, len(lines))
	for _, line := range lines {
		sum[line.SKU] += line.Quantity
	}
	return sum
}

func (c PlaceOrder) validate() error {
	address, err := mail.ParseAddress(c.Email)
	if err != nil || address.Address != c.Email || len(c.Email) > maxEmail || !ascii(c.Email) {
		return problem.InvalidError{Field: "email", Reason: "must be an email address such as alice@example.com, at most 254 ASCII characters"}
	}
	return validateLines(c.Lines, maxLines)
}

// ascii is what every mail server on the way to the buyer can carry.
func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII })
}

// storable reports whether Postgres can keep s as text, or compare it with one.
func storable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

func validateLines(lines []LineRequest, most int) error {
	if len(lines) < 1 || len(lines) > most {
		return problem.InvalidError{Field: "lines", Reason: fmt.Sprintf("must have 1 to %d lines", most)}
	}
	for i, line := range lines {
		if line.SKU == "" || !storable(line.SKU) {
			return problem.InvalidError{Field: fmt.Sprintf("lines[%d].sku", i), Reason: "must name a product of GET /v1/products"}
		}
		if line.Quantity < 1 || line.Quantity > maxQuantity {
			return problem.InvalidError{Field: fmt.Sprintf("lines[%d].quantity", i), Reason: fmt.Sprintf("must be a whole number from 1 to %d", maxQuantity)}
		}
	}
	return nil
}
