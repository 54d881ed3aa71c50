package accounts_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/accounts"
)

const (
	secret  = "0123456789abcdef0123456789abcdef"
	purpose = "guest"
)

func TestSignerRoundTrip(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"", "0193588e-6c00-7a3b-8f21-5d0c9e4b7a10", "a.b", "a\x00b", "ä\xff",
		strings.Repeat("v", 1000)} {
		signed := accounts.NewSigner(secret, "shop").Sign(purpose, value)
		// Another signer, as on another node.
		if got, err := accounts.NewSigner(secret, "shop").Verify(purpose, signed); err != nil || got != value {
			t.Errorf("%q comes back as %q, %v", value, got, err)
		}
		if strings.ContainsFunc(signed, func(c rune) bool {
			return c <= ' ' || c > '~' || strings.ContainsRune(`",;\`, c)
		}) {
			t.Errorf("%q cannot be the value of a cookie", signed)
		}
	}
}

func TestSignerRefuses(t *testing.T) {
	t.Parallel()
	signer := accounts.NewSigner(secret, "shop")
	signed := signer.Sign(purpose, "alice")
	value, signature, _ := strings.Cut(signed, ".")
	othersValue, othersSignature, _ := strings.Cut(signer.Sign(purpose, "bob"), ".")
	for name, test := range map[string]struct {
		signer          accounts.Signer
		purpose, signed string
	}{
		"another purpose":           {signer, "csrf", signed},
		"no purpose":                {signer, "", signed},
		"another secret":            {accounts.NewSigner(secret+"!", "shop"), purpose, signed},
		"another audience":          {accounts.NewSigner(secret, "demo"), purpose, signed},
		"nothing":                   {signer, purpose, ""},
		"a dot":                     {signer, purpose, "."},
		"no signature":              {signer, purpose, value},
		"an empty signature":        {signer, purpose, value + "."},
		"another's value":           {signer, purpose, othersValue + "." + signature},
		"another's signature":       {signer, purpose, value + "." + othersSignature},
		"the value in the clear":    {signer, purpose, "alice." + signature},
		"a cut signature":           {signer, purpose, signed[:len(signed)-4]},
		"a longer signature":        {signer, purpose, signed + "AAAA"},
		"two signatures":            {signer, purpose, signed + "." + signature},
		"what is no base64":         {signer, purpose, value + ".!" + signature[1:]},
		"a value that is no base64": {signer, purpose, "!" + signed},
		"a letter moved from the purpose": {signer, "gues",
			base64.RawURLEncoding.EncodeToString([]byte("talice")) + "." + signature},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := test.signer.Verify(test.purpose, test.signed); !errors.Is(err, accounts.ErrBadSignature) ||
				got != "" {
				t.Errorf("got %q, %v; want ErrBadSignature", got, err)
			}
		})
	}
}

// Whichever bit a client changes, it never makes another value of it.
func TestSignerNoticesEachBit(t *testing.T) {
	t.Parallel()
	signer := accounts.NewSigner(secret, "shop")
	signed := signer.Sign(purpose, "alice")
	for i := range signed {
		for bit := range 8 {
			changed := []byte(signed)
			changed[i] ^= 1 << bit
			if got, err := signer.Verify(purpose, string(changed)); err == nil {
				t.Errorf("%q is good for %q", changed, got)
			}
		}
	}
}

// The first secret signs, and what an earlier one signed stays valid while it is named.
func TestSignerRotation(t *testing.T) {
	t.Parallel()
	const next = "fedcba9876543210fedcba9876543210"
	before, during := accounts.NewSigner(secret, "shop"), accounts.NewSigner(next+" "+secret, "shop")
	after := accounts.NewSigner(next, "shop")
	old, young := before.Sign(purpose, "alice"), during.Sign(purpose, "alice")
	for name, test := range map[string]struct {
		signer accounts.Signer
		signed string
		valid  bool
	}{
		"old while both are named":   {during, old, true},
		"young while both are named": {during, young, true},
		"young afterwards":           {after, young, true},
		"old afterwards":             {after, old, false},
		"young before":               {before, young, false},
	} {
		if value, err := test.signer.Verify(purpose, test.signed); (err == nil) != test.valid ||
			test.valid != (value == "alice") {
			t.Errorf("%s: %q, %v", name, value, err)
		}
	}
}
