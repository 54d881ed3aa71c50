// Package cards recognizes payment card numbers, so that a shop which must never hold one can
// refuse what somebody typed into the wrong field.
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

// In reports whether the text holds a card number: 13 to 19 digits, in one piece or with a space or
// a dash between groups, of a known issuer and with the right check digit. Part of a word, of a
// UUID, of a phone number or of a decimal fraction is none, nor is a trade item number (GTIN).
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

// endOfRun is where groups of digits end that begin at a place, with one separator between two of
// them.
func endOfRun(text string, at int) int {
	end := at
	for end < len(text) && (isDigit(text[end]) || isSeparator(text[end]) && end+1 < len(text) && isDigit(text[end+1])) {
		end++
	}
	return end
}

// standsAlone is false for the digits of longer words, such as hashes.
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

// inRun looks for a card number that begins and ends with groups of the run; its expiry date or
// another number may be beside it.
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

// issuers are ranges of a number's first six digits, with the lengths of their numbers.
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

// isTradeItem recognizes what is printed as a bar code and serves as a SKU: a tenth of them would
// pass for cards.
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
