// Package money keeps an amount and its currency together, and formats them. Amounts are whole
// minor units everywhere (cents for EUR, yen for JPY, fils for BHD). Only formatted text has a
// decimal point.
package money

import (
	"fmt"
	"regexp"

	"github.com/bojanz/currency"
)

var english = currency.NewFormatter(currency.NewLocale("en"))

// Money is an amount in minor units of a currency (ISO 4217). Compare with ==, since the same
// amount in two currencies is not equal.
type Money struct {
	Minor    int64
	Currency string
}

// String returns Format of the amount.
func (m Money) String() string { return Format(m.Minor, m.Currency) }

// Valid reports whether code is a current ISO 4217 currency, in capitals.
func Valid(code string) bool {
	return code != "" && currency.IsValid(code)
}

// Format formats an amount in minor units for English readers: "€12.50", "¥1,250", "BHD 1.250"
// (with a no-break space). An amount in a currency that is not Valid stays in minor units, "1250
// XYZ", because the place of the decimal point is unknown.
func Format(amount int64, code string) string {
	a, err := currency.NewAmountFromInt64(amount, code)
	if err != nil {
		return fmt.Sprintf("%d %s", amount, code)
	}
	return english.Format(a)
}

// Decimal formats an amount in major units as Parse reads it: "12.50".
func Decimal(amount int64, code string) string {
	a, err := currency.NewAmountFromInt64(amount, code)
	if err != nil {
		return fmt.Sprint(amount)
	}
	return a.Number()
}

// plain is an amount in major units, without a sign or a separator of thousands.
var plain = regexp.MustCompile(`^[0-9]{1,12}(\.[0-9]{1,4})?$`)

// Parse reads an amount in major units, such as "12.50", in a currency that is Valid. It is an
// error if the amount has more decimal places than the currency.
func Parse(text, code string) (Money, error) {
	if !plain.MatchString(text) {
		return Money{}, fmt.Errorf("money: %q is not an amount such as 12.50", text)
	}
	a, err := currency.NewAmount(text, code)
	if err != nil {
		return Money{}, fmt.Errorf("money: %w", err)
	}
	if !a.Round().Equal(a) {
		return Money{}, fmt.Errorf("money: %s has more decimal places than %s", text, code)
	}
	minor, err := a.Int64()
	if err != nil {
		return Money{}, fmt.Errorf("money: %w", err)
	}
	return Money{Minor: minor, Currency: code}, nil
}
