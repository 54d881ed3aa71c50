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

	"github.com/google/uuid"
)

// Errors of a request whose Idempotency-Key header cannot be used.
var (
	ErrKeyMissing = errors.New("dedup: the idempotency key is missing")
	ErrKeyInvalid = errors.New("dedup: the idempotency key is not 1 to 255 visible ASCII characters")
)

// Key is a client's name for one intent. It is unique within one customer and one operation: the
// other columns and the table of the UNIQUE constraint.
type Key string

// ParseKey reads an Idempotency-Key header: the bare key, or a structured-field string (RFC 9651).
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

// unquote follows RFC 9651, section 3.3.3: a backslash escapes only a quote or a backslash.
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

// Hash identifies the key in logs. The key itself is secret: with it a client can read the answer.
func (k Key) Hash() string {
	sum := sha256.Sum256(append(make([]byte, 0, 255), k...))
	return hex.EncodeToString(sum[:6])
}

// Fingerprint identifies what a request asks for. The first byte is the fingerprintVersion, the
// others are of a hash.
type Fingerprint [sha256.Size]byte

// fingerprintVersion must change when a request gets another hash than before, or retries across
// the deployment would be taken for other requests. A new field does not need that if it has the
// JSON option omitzero: a request without it keeps its hash. TestFingerprintsStay in package app
// fails for a change that needs a new version.
const fingerprintVersion = 1

// matches reports whether the stored fingerprint may be of the same request. One of another version
// cannot be compared: the key alone decides then.
func (f Fingerprint) matches(stored []byte) bool {
	return bytes.Equal(stored, f[:]) || len(stored) == len(f) && stored[0] != f[0]
}

// FingerprintOf hashes a decoded command, not the bytes of the request: the order of JSON keys and
// white space do not count. The command must marshal to JSON deterministically, as structs do.
func FingerprintOf(command any) Fingerprint {
	w := writers.Get().(*writer)
	w.canonical.Reset()
	if err := w.Encode(command); err != nil {
		panic(fmt.Sprintf("dedup: a command that cannot be marshaled: %v", err))
	}
	// Fingerprints are of json.Marshal's output, which does not end with a line break.
	sum := sha256.Sum256(bytes.TrimSuffix(w.canonical.Bytes(), []byte("\n")))
	writers.Put(w)
	sum[0] = fingerprintVersion
	return sum
}

// writer is reused, because every request needs a fingerprint.
type writer struct {
	canonical bytes.Buffer
	*json.Encoder
}

var writers = sync.Pool{New: func() any {
	w := &writer{}
	w.Encoder = json.NewEncoder(&w.canonical)
	return w
}}

// RequestID identifies a request by customer, operation, key and fingerprint. A key that is used
// with two meanings has two ids, so that the second reaches the database, which refuses it.
type RequestID [sha256.Size]byte

// RequestIDOf returns the id of a request.
func RequestIDOf(operation string, customer uuid.UUID, key Key, meaning Fingerprint) RequestID {
	parts := make([]byte, 0, 512) // on the stack, with room for the longest key
	parts = append(parts, customer[:]...)
	parts = append(parts, meaning[:]...)
	parts = append(parts, operation...)
	parts = append(parts, '\n') // neither an operation nor a key contains a line break
	parts = append(parts, key...)
	return sha256.Sum256(parts)
}
