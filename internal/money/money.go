// Package money keeps an amount and its currency together, and formats them. Amounts are whole
// minor units everywhere (cents for EUR, yen for JPY, fils for BHD). Only formatted text has a
// decimal point.
package money

import (
	"fmt"

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
