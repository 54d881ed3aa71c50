// Package money keeps an amount and its currency together, and shows them. Amounts are whole minor
// units everywhere (cents for EUR, yen for JPY, fils for BHD); only a person ever sees a decimal
// point.
package money

import (
	"fmt"

	"github.com/bojanz/currency"
)

var english = currency.NewFormatter(currency.NewLocale("en"))

// Money is an amount in minor units of a currency (ISO 4217). Two are the same money only if ==
// says so: 100 of one currency are not 100 of another.
type Money struct {
	Minor    int64
	Currency string
}

// String is the amount as Format shows it.
func (m Money) String() string { return Format(m.Minor, m.Currency) }

// Valid reports whether code is a current ISO 4217 currency, in capitals.
func Valid(code string) bool {
	return code != "" && currency.IsValid(code)
}

// Format writes an amount in minor units the way an English reader expects it: "€12.50",
// "¥1,250", "BHD 1.250" (with a space that does not break). A currency that is not Valid is
// shown as bare minor units, "1250 XYZ", rather than with a guessed decimal point.
func Format(amount int64, code string) string {
	a, err := currency.NewAmountFromInt64(amount, code)
	if err != nil {
		return fmt.Sprintf("%d %s", amount, code)
	}
	return english.Format(a)
}
