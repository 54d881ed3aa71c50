package accounts

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
)

// ErrBadSignature reports a value that this shop did not sign, or signed for another purpose.
var ErrBadSignature = errors.New("accounts: bad signature")

// Signer signs the values kept in cookies, so that a guest cannot pose as another.
type Signer struct {
	secret []byte
}

// NewSigner returns a signer for SHOP_SECRET: at least 32 bytes, the same on every node.
func NewSigner(secret string) Signer {
	return Signer{secret: []byte(secret)}
}

// Sign returns value with a signature that is valid for this purpose only.
func (s Signer) Sign(purpose, value string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(value)) + "." +
		base64.RawURLEncoding.EncodeToString(s.mac(purpose, value))
}

// Verify returns the value passed to Sign, or ErrBadSignature.
func (s Signer) Verify(purpose, signed string) (string, error) {
	encoded, _, _ := strings.Cut(signed, ".")
	value, err := base64.RawURLEncoding.DecodeString(encoded)
	// Sign the value again and compare the whole text: base64 has several encodings of the same
	// bytes.
	if err != nil || !hmac.Equal([]byte(signed), []byte(s.Sign(purpose, string(value)))) {
		return "", ErrBadSignature
	}
	return string(value), nil
}

func (s Signer) mac(purpose, value string) []byte {
	mac := hmac.New(sha256.New, s.secret)
	mac.Write([]byte(purpose + "\x00" + value))
	return mac.Sum(nil)
}
