package orders

import (
	"fmt"
	"net/mail"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/onceshop/onceshop/internal/problem"
)

// Limits of a request. With the schema's price limit they keep every total within an int64.
const (
	maxLines    = 100
	maxQuantity = 1_000_000
	maxEmail    = 254
)

func (c PlaceOrder) validate() error {
	address, err := mail.ParseAddress(c.Email)
	if err != nil || address.Address != c.Email || len(c.Email) > maxEmail || !ascii(c.Email) {
		return problem.InvalidError{Field: "email",
			Reason: "must be an email address such as alice@example.com, at most 254 ASCII characters"}
	}
	return validateLines(c.Lines, maxLines)
}

// ascii reports whether every mail server on the way to the buyer can carry s.
func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII })
}

// storable reports whether s can be a Postgres text value.
func storable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

func validateLines(lines []LineRequest, most int) error {
	if len(lines) < 1 || len(lines) > most {
		return problem.InvalidError{Field: "lines", Reason: fmt.Sprintf("must have 1 to %d lines", most)}
	}
	for i, line := range lines {
		if line.SKU == "" || !storable(line.SKU) {
			return problem.InvalidError{Field: fmt.Sprintf("lines[%d].sku", i),
				Reason: "must name a product of GET /v1/products"}
		}
		if line.Quantity < 1 || line.Quantity > maxQuantity {
			return problem.InvalidError{Field: fmt.Sprintf("lines[%d].quantity", i),
				Reason: fmt.Sprintf("must be a whole number from 1 to %d", maxQuantity)}
		}
	}
	return nil
}
