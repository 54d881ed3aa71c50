package dedup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
)

// Errors of a request whose Idempotency-Key header cannot be used.
var (
	ErrKeyMissing = errors.New("dedup: the idempotency key is missing")
	ErrKeyInvalid = errors.New("dedup: the idempotency key is not 1 to 255 visible ASCII characters")
)

// Key is the name a client gave to one intent. It means something only within its scope:
// one customer and one operation, which are the other columns of the UNIQUE constraint.
type Key string

// ParseKey reads an Idempotency-Key header: the key itself, or a structured-field string
// (RFC 9651) that quotes it.
func ParseKey(header string) (Key, error) {
	if header == "" {
		return "", ErrKeyMissing
	}
	key := header
	if strings.HasPrefix(header, `"`) {
		var err error
		if key, err = unquote(header); err != nil {
			return "", err
		}
	}
	if len(key) < 1 || len(key) > 255 {
		return "", ErrKeyInvalid
	}
	for _, c := range []byte(key) {
		if c < 0x21 || c > 0x7e {
			return "", ErrKeyInvalid
		}
	}
	return Key(key), nil
}

// unquote follows RFC 9651, section 3.3.3: only the quote and the backslash are escaped.
func unquote(s string) (string, error) {
	if end := len(s) - 1; end > 0 && s[end] == '"' && !strings.ContainsAny(s[1:end], `"\`) {
		return s[1:end], nil
	}
	var out strings.Builder
	out.Grow(len(s))
	for i := 1; i < len(s); i++ {
		switch c := s[i]; c {
		case '"':
			if i != len(s)-1 {
				return "", ErrKeyInvalid
			}
			return out.String(), nil
		case '\\':
			i++
			if i == len(s) || (s[i] != '"' && s[i] != '\\') {
				return "", ErrKeyInvalid
			}
			out.WriteByte(s[i])
		default:
			out.WriteByte(c)
		}
	}
	return "", ErrKeyInvalid
}

// Hash identifies the key in logs without giving it away: the key of a request is all it takes to read its answer.
func (k Key) Hash() string {
	sum := sha256.Sum256(append(make([]byte, 0, 255), k...))
	return hex.EncodeToString(sum[:6])
}

// Fingerprint is what a request means, so that a key cannot be used for two meanings.
type Fingerprint [sha256.Size]byte

// FingerprintOf hashes a decoded command, not the bytes it came in: JSON key order and white space of
// the request do not count. The command must marshal to JSON deterministically, as structs do.
func FingerprintOf(command any) Fingerprint {
	w := writers.Get().(*writer)
	w.canonical.Reset()
	if err := w.Encode(command); err != nil {
		panic(fmt.Sprintf("dedup: a command that cannot be marshaled: %v", err))
	}
	// The fingerprints in the database are those of json.Marshal, which writes no line break at the end.
	sum := sha256.Sum256(bytes.TrimSuffix(w.canonical.Bytes(), []byte("\n")))
	writers.Put(w)
	return sum
}

// writer keeps its buffer, as every request takes a fingerprint.
type writer struct {
	canonical bytes.Buffer
	*json.Encoder
}

var writers = sync.Pool{New: func() any {
	w := &writer{}
	w.Encoder = json.NewEncoder(&w.canonical)
	return w
}}
