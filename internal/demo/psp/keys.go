package psp

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json"
)

// maxKey is the longest idempotency key, in characters.
const maxKey = 255

// idempotencyKey reads the Idempotency-Key header: 1 to 255 visible ASCII characters, bare or
// as a quoted structured-field string ("abc" is the key abc).
func idempotencyKey(h http.Header) (string, error) {
	values := h.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", newProblem(http.StatusBadRequest, "idempotency_key_missing", "send an Idempotency-Key header")
	}
	key, ok := strings.TrimSpace(values[0]), len(values) == 1
	if strings.HasPrefix(key, `"`) {
		var unquoted bool
		key, unquoted = unquote(key)
		ok = ok && unquoted
	}
	invisible := func(r rune) bool { return r <= ' ' || r > '~' }
	if !ok || key == "" || len(key) > maxKey || strings.ContainsFunc(key, invisible) {
		return "", newProblem(http.StatusBadRequest, "idempotency_key_invalid",
			"the Idempotency-Key must be 1 to %d visible ASCII characters, bare or in double quotes", maxKey)
	}
	return key, nil
}

// unquote reads an RFC 9651 string: only \" and \\ are escapes.
func unquote(s string) (string, bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), i == len(s)-1
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\'):
			i++
			b.WriteByte(s[i])
		case s[i] == '\\':
			return "", false
		default:
			b.WriteByte(s[i])
		}
	}
	return "", false
}

// fingerprint tells requests with different meanings apart. It covers the decoded request, so
// white space and the order of members do not count; a capture and a refund never look the same.
func fingerprint(request any) (string, error) {
	canonical, err := json.Marshal(request)
	if err != nil {
		return "", fmt.Errorf("psp: encode the request for its fingerprint: %w", err)
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:]), nil
}
