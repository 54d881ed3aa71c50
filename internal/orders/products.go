package orders

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/onceshop/onceshop/internal/money"
	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
	"github.com/onceshop/onceshop/internal/problem"
)

// AddProduct puts a product on sale, without stock. It leaves an existing product as it is.
func (s *Service) AddProduct(ctx context.Context, p Product, position int) error {
	_, err := s.db.InsertProduct(ctx, ordersdb.InsertProductParams{Sku: p.SKU, Name: p.Name, Description: p.Description,
		Currency: p.Currency, UnitPrice: p.UnitPrice, Position: int32(position)}) //nolint:gosec // a catalog is small
	if err != nil {
		return fmt.Errorf("add product %s: %w", p.SKU, err)
	}
	return nil
}

// SaveProduct is a request to put a product on sale, or to change one. What is nil stays as it is.
type SaveProduct struct {
	SKU         string
	Name        *string
	Description *string
	Price       *money.Money
}

// maxPrice is the schema's limit, in minor units.
const maxPrice = 10_000_000_000

// plainSKU is the schema's rule.
var plainSKU = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// ErrNewProduct reports a new product without a name or a price.
var ErrNewProduct = errors.New("orders: a new product needs a name and a price")

// Save adds the product at the end of the catalog, without stock, or changes it. Orders that were
// placed before keep their names and prices. Save reports whether the product is new.
func (s *Service) Save(ctx context.Context, c SaveProduct) (added bool, err error) {
	if err := c.validate(); err != nil {
		return false, err
	}
	changes := ordersdb.UpdateProductParams{Sku: c.SKU, Name: c.Name, Description: c.Description}
	if c.Price != nil {
		changes.Currency, changes.UnitPrice = &c.Price.Currency, &c.Price.Minor
	}
	switch changed, err := s.db.UpdateProduct(ctx, changes); {
	case err != nil:
		return false, fmt.Errorf("change product %s: %w", c.SKU, err)
	case changed == 1:
		return false, nil
	case c.Name == nil || c.Price == nil:
		return false, ErrNewProduct
	}
	position, err := s.db.NextPosition(ctx)
	if err != nil {
		return false, fmt.Errorf("find the end of the catalog: %w", err)
	}
	product := Product{SKU: c.SKU, Name: *c.Name, Currency: c.Price.Currency, UnitPrice: c.Price.Minor}
	if c.Description != nil {
		product.Description = *c.Description
	}
	return true, s.AddProduct(ctx, product, int(position))
}

func (c SaveProduct) validate() error {
	if !plainSKU.MatchString(c.SKU) {
		return problem.InvalidError{Field: "sku",
			Reason: "must have 1 to 64 letters, digits, dots, hyphens and underscores; the first is no sign"}
	}
	if c.Name != nil && (strings.TrimSpace(*c.Name) == "" || !printable(*c.Name)) {
		return problem.InvalidError{Field: "name", Reason: "must be one line of text"}
	}
	if c.Description != nil && !printable(*c.Description) {
		return problem.InvalidError{Field: "description", Reason: "must be one line of text"}
	}
	if c.Price != nil && (c.Price.Minor < 1 || c.Price.Minor > maxPrice) {
		return problem.InvalidError{Field: "price", Reason: fmt.Sprintf("must be above 0 and at most %s",
			money.Format(maxPrice, c.Price.Currency))}
	}
	return nil
}

// printable reports whether s is text without control characters.
func printable(s string) bool { return storable(s) && !strings.ContainsFunc(s, unicode.IsControl) }
