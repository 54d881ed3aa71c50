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
	// The first secret signs, and all verify.
	secrets  []string
	audience string
}

// NewSigner returns a signer for SHOP_SECRET: secrets separated by spaces, the same on every node.
// What one audience signed is not valid for another, even under the same secret.
func NewSigner(secrets, audience string) Signer {
	return Signer{secrets: strings.Fields(secrets), audience: audience}
}

// Sign returns value with a signature that is valid for this purpose only.
func (s Signer) Sign(purpose, value string) string {
	return s.signWith(s.secrets[0], purpose, value)
}

func (s Signer) signWith(secret, purpose, value string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(s.audience + "\x00" + purpose + "\x00" + value))
	return base64.RawURLEncoding.EncodeToString([]byte(value)) + "." +
		base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// Verify returns the value passed to Sign, or ErrBadSignature.
func (s Signer) Verify(purpose, signed string) (string, error) {
	encoded, _, _ := strings.Cut(signed, ".")
	value, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return "", ErrBadSignature
	}
	for _, secret := range s.secrets {
		// Sign the value again and compare the whole text: base64 has several encodings of the same
		// bytes.
		if hmac.Equal([]byte(signed), []byte(s.signWith(secret, purpose, string(value)))) {
			return string(value), nil
		}
	}
	return "", ErrBadSignature
}
