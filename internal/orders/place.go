package orders

import (
	"context"
	"fmt"
	"net/http"
	"net/mail"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
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
	w := &wish{PlaceOrder: c, fingerprint: c.Fingerprint()}
	if _, err := s.looking.Do(ctx, w); err != nil {
		return dedup.Answer{}, err
	}
	if w.done {
		return w.Answer, w.Err
	}
	return s.placing.Do(ctx, w)
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
