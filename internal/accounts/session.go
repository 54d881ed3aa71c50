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

// Signer signs what a browser keeps for us, so that a guest cannot become another.
type Signer struct {
	secret []byte
}

// NewSigner uses SHOP_SECRET: 32 bytes or more, the same on every node.
func NewSigner(secret string) Signer {
	return Signer{secret: []byte(secret)}
}

// Sign returns value with a signature that holds for this purpose only.
func (s Signer) Sign(purpose, value string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(value)) + "." +
		base64.RawURLEncoding.EncodeToString(s.mac(purpose, value))
}

// Verify returns the value that Sign was given, or ErrBadSignature.
func (s Signer) Verify(purpose, signed string) (string, error) {
	encoded, _, _ := strings.Cut(signed, ".")
	value, err := base64.RawURLEncoding.DecodeString(encoded)
	// Signed again and compared as a whole, since base64 has more than one way to write the same
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
