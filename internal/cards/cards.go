// Package cards recognizes payment card numbers. The shop must never store one, so it rejects input
// that contains one.
package cards

import (
	"regexp"
	"strconv"
	"strings"
)

const (
	shortest = 13
	longest  = 19
)

// In reports whether the text contains a card number: 13 to 19 digits, with or without spaces or
// dashes between groups, with the prefix of a known issuer and a valid check digit. Digits in a
// word, a UUID, a phone number or a decimal fraction do not count. Neither does a trade item number
// (GTIN).
func In(text string) bool {
	for at := 0; at < len(text); {
		if !isDigit(text[at]) {
			at++
			continue
		}
		end := endOfRun(text, at)
		if end-at >= shortest && standsAlone(text, at, end) && inRun(text, at, end) {
			return true
		}
		at = end
	}
	return false
}

// endOfRun returns the end of the groups of digits that begin at a position, with one separator
// between two groups.
func endOfRun(text string, at int) int {
	end := at
	for end < len(text) && (isDigit(text[end]) || isSeparator(text[end]) && end+1 < len(text) && isDigit(text[end+1])) {
		end++
	}
	return end
}

// standsAlone reports whether the digits are not part of a longer word, such as a hash.
func standsAlone(text string, from, to int) bool {
	if to < len(text) && isLetter(text[to]) {
		return false
	}
	if from == 0 {
		return true
	}
	before := text[from-1]
	fraction := before == '.' && from > 1 && isDigit(text[from-2])
	return !isLetter(before) && before != '+' && !fraction
}

// inRun reports whether some consecutive groups of the run are a card number. The others may be its
// expiry date or another number.
func inRun(text string, from, to int) bool {
	for start := from; start < to; start++ {
		if !isDigit(text[start]) || start > from && !isSeparator(text[start-1]) {
			continue
		}
		digits := make([]byte, 0, longest)
		for i := start; i < to && len(digits) <= longest; i++ {
			if isDigit(text[i]) {
				digits = append(digits, text[i])
			}
			endsGroup := i+1 == to || isSeparator(text[i+1])
			if isDigit(text[i]) && endsGroup && isCard(string(digits)) && !isTradeItem(text[start:i+1]) &&
				!inUUID(text, start, i+1) {
				return true
			}
		}
	}
	return false
}

// issuers are ranges of the first six digits, with the lengths of their card numbers.
var issuers = []struct{ first, last, shortest, longest int }{
	{400000, 499999, 13, 13}, {400000, 499999, 16, 19}, // Visa
	{222100, 272099, 16, 16}, {510000, 559999, 16, 16}, // Mastercard
	{340000, 349999, 15, 15}, {370000, 379999, 15, 15}, // American Express
	{601100, 601199, 16, 19}, {644000, 659999, 16, 19}, // Discover
	// Diners Club
	{300000, 305999, 14, 19}, {309500, 309599, 14, 19}, {360000, 369999, 14, 19}, {380000, 399999, 14, 19},
	{352800, 358999, 16, 19},                           // JCB
	{620000, 629999, 16, 19}, {810000, 817199, 16, 19}, // UnionPay
	{500000, 509999, 13, 19}, {560000, 589999, 13, 19}, {630000, 639999, 13, 19}, {670000, 679999, 13, 19}, // Maestro
	{220000, 220499, 16, 19}, // Mir
}

func isCard(digits string) bool {
	if len(digits) < shortest || len(digits) > longest || !passesLuhn(digits) {
		return false
	}
	prefix, err := strconv.Atoi(digits[:6])
	if err != nil {
		return false
	}
	for _, i := range issuers {
		if prefix >= i.first && prefix <= i.last && len(digits) >= i.shortest && len(digits) <= i.longest {
			return true
		}
	}
	return false
}

func passesLuhn(digits string) bool {
	sum := 0
	for i := range len(digits) {
		d := int(digits[len(digits)-1-i] - '0')
		if i%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}

// isTradeItem reports whether the digits are a valid GTIN, the number of a bar code. Shops use them
// as SKUs, and a tenth of them would pass as card numbers.
func isTradeItem(digits string) bool {
	if len(digits) != 13 && len(digits) != 14 || strings.ContainsAny(digits, " -") {
		return false
	}
	sum := 0
	for i := range len(digits) {
		d := int(digits[len(digits)-1-i] - '0')
		if i%2 == 1 {
			d *= 3
		}
		sum += d
	}
	return sum%10 == 0
}

var uuids = regexp.MustCompile(`[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}`)

func inUUID(text string, from, to int) bool {
	for _, found := range uuids.FindAllStringIndex(text, -1) {
		if from < found[1] && to > found[0] {
			return true
		}
	}
	return false
}

func isDigit(c byte) bool     { return c >= '0' && c <= '9' }
func isSeparator(c byte) bool { return c == ' ' || c == '-' }
func isLetter(c byte) bool    { return c|0x20 >= 'a' && c|0x20 <= 'z' }
