package orders

import (
	"encoding/base32"
	"encoding/hex"
	"strings"

	"github.com/google/uuid"
)

// numberBytes is how many of an id's last bytes make its number. All 40 bits are random in a UUID
// of version 7. Among n orders, n²/2⁴¹ pairs are expected to share a number: one pair among 1.5
// million orders. A number is for people, who also have a name and a date, and never a key.
const numberBytes = 5

// crockford is base 32 without letters that look like a digit.
var crockford = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

// Number returns the number for people, such as "7K3M-9QXD", of an order. It also serves charges
// and refunds, whose ids are made alike.
func Number(id uuid.UUID) string {
	text := crockford.EncodeToString(id[len(id)-numberBytes:])
	return text[:4] + "-" + text[4:]
}

// Number returns the order's number for people.
func (o Order) Number() string { return Number(o.ID) }

// asTyped reads what people type for a letter or between the letters.
var asTyped = strings.NewReplacer("O", "0", "I", "1", "L", "1", "-", "", " ", "", "#", "")

// numberEnd returns the hexadecimal digits at the end of the ids with the number that the text is.
func numberEnd(text string) (end string, ok bool) {
	text = asTyped.Replace(strings.ToUpper(text))
	found, err := crockford.DecodeString(text)
	return hex.EncodeToString(found), err == nil && len(text) == 8 && len(found) == numberBytes
}
