// Package cards recognizes payment card numbers. The shop must never store one, so it rejects input
// that contains one.
package cards

import (
	"regexp"
	"unicode"
	"unicode/utf8"
)

const (
	shortest = 13
	longest  = 19
)

// In reports whether the text contains a card number: 13 to 19 digits of any script, with or
// without one separator between groups, with the prefix of a known issuer and a valid check digit.
// Digits in a UUID, a hash, a timestamp, a phone number or a decimal fraction do not count. Neither
// does a trade item number (GTIN). The time grows with the length of the text, whatever is in it.
func In(text string) bool {
	if !mayHold(text) {
		return false
	}
	digits := run{next: begins}
	for at := 0; at < len(text); {
		if id := idAt(text, at); id > 0 {
			if digits.endWithCard() {
				return true
			}
			digits.begin(0)
			at += id
			continue
		}
		c, size := rune(text[at]), 1
		if c >= utf8.RuneSelf {
			c, size = utf8.DecodeRuneInString(text[at:])
		}
		at += size
		if value, ok := digitOf(c); ok {
			digits.add(value)
			continue
		}
		if digits.endWithCard() {
			return true
		}
		if digits.open() && isSeparator(c) {
			digits.next = begins
			if c == '.' {
				digits.next |= fraction
			}
			continue
		}
		digits.begin(0)
		if c == '+' {
			digits.begin(phone)
		}
	}
	return digits.endWithCard()
}

// mayHold is a quick look: most texts have too few digits.
func mayHold(text string) bool {
	digits := 0
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf || text[i] >= '0' && text[i] <= '9' {
			digits++
		}
	}
	return digits >= shortest
}

// The flags of a digit, beside its value in the lower four bits.
const (
	begins   = 1 << (4 + iota) // the first digit of a group
	fraction                   // and a digit and a point stand before it
	phone                      // and a plus stands before it
)

// run is the end of a row of groups of digits. It holds more digits than a card number has.
type run struct {
	digits [4 * longest]byte
	len    int
	// next are the flags of the next digit. They are zero inside a group.
	next byte
}

// open reports whether the last character was a digit.
func (r *run) open() bool { return r.len > 0 && r.next == 0 }

// begin drops the digits. The flags are those of the next one.
func (r *run) begin(flags byte) { r.len, r.next = 0, begins|flags }

func (r *run) add(value byte) {
	if r.len == len(r.digits) {
		r.len = copy(r.digits[:], r.digits[r.len-longest:])
	}
	r.digits[r.len] = value | r.next
	r.len, r.next = r.len+1, 0
}

// endWithCard reports whether the last groups are a card number. The groups before them may be its
// expiry date or another number.
func (r *run) endWithCard() bool {
	if r.len < shortest || !r.open() {
		return false
	}
	sum, groups := 0, 0
	for n := 1; n <= min(r.len, longest); n++ {
		first := r.digits[r.len-n]
		sum += luhn(int(first&0xf), n%2 == 0)
		if first&begins == 0 {
			continue
		}
		groups++
		if n < shortest || sum%10 != 0 || first&phone != 0 {
			continue
		}
		digits := r.digits[r.len-n : r.len]
		if isIssued(digits) && (groups > 1 || first&fraction == 0 && !isTradeItem(digits)) {
			return true
		}
	}
	return false
}

func luhn(digit int, double bool) int {
	if double {
		digit *= 2
	}
	return digit/10 + digit%10
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

func isIssued(digits []byte) bool {
	prefix := 0
	for _, digit := range digits[:6] {
		prefix = 10*prefix + int(digit&0xf)
	}
	for _, i := range issuers {
		if prefix >= i.first && prefix <= i.last && len(digits) >= i.shortest && len(digits) <= i.longest {
			return true
		}
	}
	return false
}

// isTradeItem reports whether the digits are a valid GTIN, the number of a bar code. Shops use them
// as SKUs, and a tenth of them would pass as card numbers.
func isTradeItem(digits []byte) bool {
	if len(digits) > 14 {
		return false
	}
	sum := 0
	for i := range digits {
		weight := 1
		if i%2 == 1 {
			weight = 3
		}
		sum += weight * int(digits[len(digits)-1-i]&0xf)
	}
	return sum%10 == 0
}

// idAt returns the length of the UUID, timestamp or hash at a position, or 0. Clients make their
// keys and ids of them, and some have the digits of a card number.
func idAt(text string, at int) int {
	if isUUID(text[at:]) {
		return uuidLength
	}
	if at == 0 || !isDigit(text[at-1]) {
		if length := timeLength(text[at:]); length > 0 {
			return length
		}
	}
	if at > 0 && isAlphanumeric(text[at-1]) {
		return 0
	}
	return hashLength(text[at:])
}

const uuidLength = 36

func isUUID(text string) bool {
	if len(text) < uuidLength || text[8] != '-' {
		return false
	}
	for i := range uuidLength {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if text[i] != '-' {
				return false
			}
		} else if !isHex(text[i]) {
			return false
		}
	}
	return true
}

// moment is a date and a time of day, or a time of day alone if its separators are colons. It may
// have a fraction of up to nine digits.
var moment = regexp.MustCompile(`^(?:(?:19|20)\d\d[-./_:](?:0[1-9]|1[0-2])[-./_:](?:0[1-9]|[12]\d|3[01])[-./_: Tt]` +
	`(?:[01]\d|2[0-3])[-._:][0-5]\d[-._:][0-6]\d|(?:[01]\d|2[0-3]):[0-5]\d:[0-6]\d)(?:[-.,_:]\d{1,9})?`)

// timeLength returns the length of the time that the text begins with, or 0.
func timeLength(text string) int {
	if len(text) < len("18:57:40") || !isDigit(text[0]) || !isDigit(text[1]) {
		return 0
	}
	found := moment.FindStringIndex(text[:min(len(text), len("2006-01-02 15:04:05.123456789")+1)])
	if found == nil || found[1] < len(text) && isDigit(text[found[1]]) {
		return 0
	}
	return found[1]
}

// hashLength returns the length of the hash that the text begins with, or 0. A hash is a word of
// hexadecimal digits of a usual size. In a short one, a few letters beside a card number do not
// make it a hash.
func hashLength(text string) int {
	length, letters, digits, row := 0, 0, 0, 0
	for length < len(text) && isHex(text[length]) {
		row++
		if text[length] > '9' {
			letters++
			row = 0
		}
		digits = max(digits, row)
		length++
	}
	if letters == 0 || length < len(text) && isAlphanumeric(text[length]) {
		return 0
	}
	switch length {
	case 16, 20:
		if letters >= 3 || digits < shortest {
			return length
		}
	case 24, 32, 40, 48, 56, 64, 96, 128:
		return length
	}
	return 0
}

// digitOf returns the value of a decimal digit of any script, such as the full-width digits.
func digitOf(c rune) (value byte, ok bool) {
	if c < utf8.RuneSelf {
		return byte(c - '0'), c >= '0' && c <= '9' //nolint:gosec // a digit
	}
	if !unicode.IsDigit(c) {
		return 0, false
	}
	// Unicode keeps the ten digits of a script together, in order.
	for _, digits := range unicode.Nd.R16 {
		if low := rune(digits.Lo); c >= low && c <= rune(digits.Hi) {
			return byte((c - low) % 10), true //nolint:gosec // below ten
		}
	}
	for _, digits := range unicode.Nd.R32 {
		if low := rune(digits.Lo); c >= low && c <= rune(digits.Hi) { //nolint:gosec // a code point
			return byte((c - low) % 10), true //nolint:gosec // below ten
		}
	}
	return 0, false
}

// isSeparator reports whether people or programs put c between the groups of a number.
func isSeparator(c rune) bool {
	switch c {
	case ' ', '-', '.', '/', '_', ',', ':', '|', '\\', '\t', '·', '•':
		return true
	}
	return c >= utf8.RuneSelf && unicode.In(c, unicode.Zs, unicode.Pd, unicode.Cf)
}

func isDigit(c byte) bool        { return c >= '0' && c <= '9' }
func isHex(c byte) bool          { return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f' }
func isAlphanumeric(c byte) bool { return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' }
