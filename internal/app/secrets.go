package app

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
)

// secretSettings are the settings that can come from a file, because they are secrets or addresses
// with a password.
var secretSettings = []string{"SHOP_SECRET", "DATABASE_URL", "REDIS_URL", "BROKER_URL", "NATS_URL", "SMTP_URL",
	"PSP_URL", "PSP_WEBHOOK_SECRET", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET",
	"OTEL_EXPORTER_OTLP_HEADERS"}

// readSecretFiles adds the settings whose NAME_FILE names a file. The line break at the end of a
// file is not part of its secret.
func readSecretFiles(settings map[string]string) error {
	var wrong []error
	for _, name := range secretSettings {
		path := settings[name+"_FILE"]
		if path == "" {
			continue
		}
		if settings[name] != "" {
			wrong = append(wrong, fmt.Errorf("%s and %s_FILE are both set: leave one of them out", name, name))
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s_FILE: %w", name, err))
			continue
		}
		if settings[name] = strings.TrimRight(string(content), "\r\n"); settings[name] == "" {
			wrong = append(wrong, fmt.Errorf("%s_FILE: %s is empty", name, path))
		}
	}
	return errors.Join(wrong...)
}

const (
	minSecret = 32
	// minCharacters is how many different ones a secret has. Any that was made at random has more.
	minCharacters = 5
)

// checkSecrets reports secrets that can be guessed. Several secrets are separated by spaces.
func (c Config) checkSecrets() error {
	var wrong []error
	for _, secret := range strings.Fields(c.Secret) {
		switch {
		case len(secret) < minSecret:
			wrong = append(wrong, fmt.Errorf("SHOP_SECRET has %d bytes and needs %d: try `openssl rand -hex 32`. A "+
				"space separates two secrets", len(secret), minSecret))
		case differentBytes(secret) < minCharacters:
			wrong = append(wrong, errors.New("SHOP_SECRET repeats a few characters: try `openssl rand -hex 32`"))
		}
	}
	for name, secrets := range map[string]string{"PSP_WEBHOOK_SECRET": c.PSPWebhookSecret,
		"STRIPE_WEBHOOK_SECRET": c.StripeWebhookSecret} {
		for _, secret := range strings.Fields(secrets) {
			secret = strings.TrimPrefix(secret, "whsec_")
			if decoded, err := base64.StdEncoding.DecodeString(secret); err == nil {
				secret = string(decoded)
			}
			if differentBytes(secret) < 2 {
				wrong = append(wrong, fmt.Errorf("%s repeats one character: anyone can guess it", name))
			}
		}
	}
	return errors.Join(wrong...)
}

func differentBytes(text string) int {
	seen := make(map[byte]bool)
	for i := range len(text) {
		seen[text[i]] = true
	}
	return len(seen)
}
