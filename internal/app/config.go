// Package app builds the service from its settings, runs it, and stops it in order.
package app

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/caarlos0/env/v11"
)

// Config is the environment; see the README for what each setting means.
type Config struct {
	Addr             string `env:"SHOP_ADDR"`
	OpsAddr          string `env:"SHOP_OPS_ADDR"`
	PublicURL        string `env:"SHOP_URL"`
	DataDir          string `env:"SHOP_DATA_DIR"`
	Secret           string `env:"SHOP_SECRET"`
	DatabaseURL      string `env:"DATABASE_URL"`
	RedisURL         string `env:"REDIS_URL"`
	NATSURL          string `env:"NATS_URL"`
	SMTPURL          string `env:"SMTP_URL"`
	PSPURL           string `env:"PSP_URL"`
	PSPWebhookSecret string `env:"PSP_WEBHOOK_SECRET"`
	PSPAddr          string `env:"SHOP_PSP_ADDR"`
	MailboxSMTPAddr  string `env:"SHOP_MAILBOX_SMTP_ADDR"`
	MailboxAddr      string `env:"SHOP_MAILBOX_ADDR"`

	// StripeSecretKey makes Stripe the payment provider. PSP_URL and PSP_WEBHOOK_SECRET are then
	// ignored.
	StripeSecretKey     string `env:"STRIPE_SECRET_KEY"`
	StripeWebhookSecret string `env:"STRIPE_WEBHOOK_SECRET"`
	// StripeURL is empty except in tests. It is not a setting, because the secret key is sent to
	// it.
	StripeURL string `env:"-"`

	Windows
	Limits

	// Sections are pages of other wings. They are not a setting.
	Sections []Section `env:"-"`

	// Demo accepts the demo's tokens and offers the simulated provider's payment methods.
	Demo bool `env:"-"`
}

// UsageError reports invalid settings or arguments. The command ends with exit code 2.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }
func (e UsageError) Unwrap() error { return e.Err }

// ConfigFrom reads the settings from environment entries of the form NAME=value.
func ConfigFrom(environ []string) (Config, error) {
	var c Config
	if err := env.ParseWithOptions(&c, env.Options{Environment: env.ToMap(environ)}); err != nil {
		return c, UsageError{err}
	}
	if c.DataDir == "" {
		dir, err := defaultDataDir()
		if err != nil {
			return c, UsageError{err}
		}
		c.DataDir = dir
	}
	return c, nil
}

// defaultDataDir returns a folder in the user's cache folder. Root gets another: the unprivileged
// user that Postgres runs as cannot read root's cache folder.
func defaultDataDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/onceshop", nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no folder for the data: set SHOP_DATA_DIR: %w", err)
	}
	return filepath.Join(cache, "onceshop"), nil
}

// Role is the part of the service that a process runs.
type Role struct{ Web, Workers bool }

// The roles of `shop serve`.
var (
	Everything = Role{Web: true, Workers: true}
	OnlyWeb    = Role{Web: true}
	OnlyWorker = Role{Workers: true}
)

const minSecret = 32

// Require reports every setting that the role needs and that is missing.
func (c Config) Require(role Role) error {
	needed := []struct {
		name, value string
		needed      bool
	}{
		{"DATABASE_URL", c.DatabaseURL, true},
		{"PSP_URL", c.PSPURL, !c.stripe()},
		{"PSP_WEBHOOK_SECRET", c.PSPWebhookSecret, role.Web && !c.stripe()},
		{"STRIPE_WEBHOOK_SECRET", c.StripeWebhookSecret, role.Web && c.stripe()},
		{"SHOP_SECRET", c.Secret, role.Web},
		{"REDIS_URL", c.RedisURL, role.Workers},
		{"NATS_URL", c.NATSURL, role.Workers},
		{"SMTP_URL", c.SMTPURL, role.Workers},
	}
	var missing []string
	for _, setting := range needed {
		if setting.needed && setting.value == "" {
			missing = append(missing, setting.name)
		}
	}
	if len(missing) > 0 {
		return UsageError{fmt.Errorf("missing settings: %s: set them in the environment, or run `shop demo`, which "+
			"brings its own servers", strings.Join(missing, ", "))}
	}
	if c.PayAttempts < 0 || c.CancelWindow < 0 {
		return UsageError{errors.New("SHOP_PAY_ATTEMPTS and SHOP_CANCEL_WINDOW must not be negative; 0 means no limit")}
	}
	if role.Web && len(c.Secret) < minSecret {
		return UsageError{fmt.Errorf("SHOP_SECRET has %d bytes and needs %d: try `openssl rand -hex 32`",
			len(c.Secret), minSecret)}
	}
	return nil
}

// stripe reports whether Stripe moves the money.
func (c Config) stripe() bool { return c.StripeSecretKey != "" }

// RequireDatabase is Require for commands that need nothing else.
func (c Config) RequireDatabase() error {
	if c.DatabaseURL == "" {
		return UsageError{errors.New("DATABASE_URL is missing and no demo is running on SHOP_DATA_DIR: set one of " +
			"them")}
	}
	return nil
}

// publicURL returns the shop's public address. Its host is part of every receipt's Message-ID, so
// the default must not depend on the node.
func (c Config) publicURL() (*url.URL, error) {
	if c.PublicURL == "" {
		return &url.URL{Scheme: "http", Host: "localhost:8080"}, nil
	}
	u, err := url.Parse(c.PublicURL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, UsageError{fmt.Errorf("SHOP_URL %q is not an address such as https://shop.example.com",
			c.PublicURL)}
	}
	return u, nil
}

// mailHost returns the domain for the shop's mails: the public host, or localhost for an IP
// address.
func mailHost(public *url.URL) string {
	if net.ParseIP(public.Hostname()) != nil {
		return "localhost"
	}
	return public.Hostname()
}
