package psp

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Sign returns the webhook-signature of a message as Standard Webhooks defines it: v1, and the
// base64 of an HMAC-SHA256 over id, Unix seconds and body, joined by dots. The error names a
// secret that is not whsec_ followed by base64.
func Sign(secret, id string, at time.Time, body []byte) (string, error) {
	key, err := secretKey(secret)
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%d.%s", id, at.Unix(), body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)), nil
}

func secretKey(secret string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(secret, "whsec_")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(key) == 0 {
		return nil, errors.New("psp: the webhook secret (PSP_WEBHOOK_SECRET) must be whsec_ followed by base64")
	}
	return key, nil
}
