package orders

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/onceshop/onceshop/internal/money"
	"github.com/onceshop/onceshop/internal/problem"
)

// Limits of a request. With the schema's price limit they keep every total within an int64.
const (
	maxLines    = 100
	maxQuantity = 1_000_000
	maxEmail    = 254
	// maxLocalPart is the limit of RFC 5321 for what stands before the @.
	maxLocalPart = 64
)

// Validate returns problem.InvalidError for a request that Place refuses without a look at the
// database.
func (c PlaceOrder) Validate() error {
	if !mailable(c.Email) {
		return problem.InvalidError{Field: "email",
			Reason: "must be an email address such as alice@example.com, at most 254 ASCII characters"}
	}
	if c.Currency != "" && !money.Valid(c.Currency) {
		return problem.InvalidError{Field: "currency", Reason: "must be an ISO 4217 code such as EUR"}
	}
	return validateLines(c.Lines, maxLines)
}

// accepts returns PriceChangedError if the buyer was shown another price.
func (c PlaceOrder) accepts(total int64, currency string) error {
	if c.ExpectedTotal != nil && *c.ExpectedTotal != total || c.Currency != "" && c.Currency != currency {
		return PriceChangedError{Total: total, Currency: currency}
	}
	return nil
}

const (
	atom  = "[A-Za-z0-9!#$%&'*+/=?^_{|}~`-]+"
	label = "[A-Za-z0-9-]{0,61}[A-Za-z0-9]"
)

var (
	localPart = regexp.MustCompile(`^` + atom + `(\.` + atom + `)*$`)
	// domainName has two labels or more. The last one is no number: that would be an address.
	domainName = regexp.MustCompile(`^([A-Za-z0-9](` + label + `)?\.)+[A-Za-z](` + label + `)?$`)
)

// mailable reports whether s is an address on the Internet that every mail server on the way to the
// buyer can carry (RFC 5321), without the forms that only a mail server's operator uses: quoted
// names, comments, IP addresses and hosts without a domain.
func mailable(s string) bool {
	local, domain, _ := strings.Cut(s, "@")
	return len(s) <= maxEmail && len(local) <= maxLocalPart && localPart.MatchString(local) &&
		domainName.MatchString(domain)
}

// storable reports whether s can be a Postgres text value.
func storable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

// visible returns s without the space around it, in one Unicode form. It reports whether two
// results that look alike are equal: s then has no character that cannot be seen, and between words
// one plain blank or line break.
func visible(s string) (string, bool) {
	s = norm.NFC.String(strings.TrimFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || unseen(r) && !unicode.IsControl(r)
	}))
	words := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\n' })
	apart := len(s) - len(strings.Join(words, "")) // every separator has one byte
	return s, utf8.ValidString(s) && apart <= max(0, len(words)-1) &&
		!slices.ContainsFunc(words, func(word string) bool { return strings.ContainsFunc(word, unseen) })
}

// unseen reports whether r is space, or nothing, on a page or in a spreadsheet.
func unseen(r rune) bool {
	const brailleBlank = '\u2800'
	return r == ' ' || r == brailleBlank || !unicode.IsPrint(r) ||
		unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

func validateLines(lines []LineRequest, most int) error {
	if len(lines) < 1 || len(lines) > most {
		return problem.InvalidError{Field: "lines", Reason: fmt.Sprintf("must have 1 to %d lines", most)}
	}
	for i, line := range lines {
		if seen, ok := visible(line.SKU); line.SKU == "" || !ok || seen != line.SKU {
			return problem.InvalidError{Field: fmt.Sprintf("lines[%d].sku", i), Reason: "must name a product of " +
				"GET /v1/products, without space around it or characters that cannot be seen"}
		}
		if line.Quantity < 1 || line.Quantity > maxQuantity {
			return problem.InvalidError{Field: fmt.Sprintf("lines[%d].quantity", i),
				Reason: fmt.Sprintf("must be a whole number from 1 to %d", maxQuantity)}
		}
	}
	return nil
}
