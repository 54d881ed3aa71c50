// Package app builds the service from its settings, runs it, and stops it in order.
package app

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caarlos0/env/v11"
	"go.opentelemetry.io/otel/trace"

	"github.com/onceshop/onceshop/internal/tracing"
)

// Config is the environment; see docs/operating.md for what each setting means.
type Config struct {
	// Name is the shop's name on pages and in mails.
	Name             string `env:"SHOP_NAME" envDefault:"Onceshop"`
	Addr             string `env:"SHOP_ADDR"`
	OpsAddr          string `env:"SHOP_OPS_ADDR"`
	PublicURL        string `env:"SHOP_URL"`
	AllowHTTP        bool   `env:"SHOP_ALLOW_HTTP"`
	DataDir          string `env:"SHOP_DATA_DIR"`
	Secret           string `env:"SHOP_SECRET"`
	DatabaseURL      string `env:"DATABASE_URL"`
	RedisURL         string `env:"REDIS_URL"`
	BrokerURL        string `env:"BROKER_URL"` // NATS_URL is a second name
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

	LogLevel slog.Level `env:"SHOP_LOG_LEVEL" envDefault:"INFO"`

	// StreamReplicas is the number of copies of each stream. Zero is 3 in a cluster, else 1.
	StreamReplicas int `env:"SHOP_STREAM_REPLICAS"`
	// DrainDelay is how long requests are still served after the stop signal. By default it is zero
	// in the demo, else defaultDrainDelay.
	DrainDelay *time.Duration `env:"SHOP_DRAIN_DELAY"`

	Windows
	Limits
	tracing.Export

	// Traces is where the spans of a test go. It is not a setting.
	Traces trace.TracerProvider `env:"-"`

	// Sections are pages of other wings. They are not a setting.
	Sections []Section `env:"-"`

	// Brokers are clients of brokers that the program has beside those of this package. They are
	// not a setting.
	Brokers []BrokerClient `env:"-"`

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
	settings := env.ToMap(environ)
	if err := readSecretFiles(settings); err != nil {
		return c, UsageError{err}
	}
	settings["BROKER_URL"] = cmp.Or(settings["BROKER_URL"], settings["NATS_URL"])
	if err := env.ParseWithOptions(&c, env.Options{Environment: settings}); err != nil {
		return c, UsageError{settingErrors(err, settings)}
	}
	c.DataDir = cmp.Or(c.DataDir, defaultDataDir())
	return c, nil
}

// defaultDataDir returns a folder in the user's cache folder, or "" for a user without one: only
// the demo needs it. Root gets another: the unprivileged user that Postgres runs as cannot read
// root's cache folder.
func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/onceshop"
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "onceshop")
}

// RequireDataDir reports that there is no folder for a demo.
func (c Config) RequireDataDir() error {
	if c.DataDir == "" {
		return UsageError{errors.New("no folder for the demo's data, as HOME is not set: set SHOP_DATA_DIR")}
	}
	return nil
}

// Role is the part of the service that a process runs.
type Role struct{ Web, Workers bool }

// The roles of `shop serve`.
var (
	Everything = Role{Web: true, Workers: true}
	OnlyWeb    = Role{Web: true}
	OnlyWorker = Role{Workers: true}
)

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
		{"BROKER_URL", c.BrokerURL, role.Workers},
		{"SMTP_URL", c.SMTPURL, role.Workers},
		{"SHOP_URL", c.PublicURL, !c.Demo},
	}
	var missing []string
	for _, setting := range needed {
		if setting.needed && strings.TrimSpace(setting.value) == "" {
			missing = append(missing, setting.name)
		}
	}
	if len(missing) > 0 {
		return UsageError{fmt.Errorf("missing settings: %s: set them in the environment, or run `shop demo`, which "+
			"brings its own servers", strings.Join(missing, ", "))}
	}
	return nil
}

// Valid reports every setting that no role can use, before anything is started.
func (c Config) Valid() error {
	var negative, live error
	if c.PayAttempts < 0 || c.CancelWindow < 0 {
		negative = errors.New("SHOP_PAY_ATTEMPTS and SHOP_CANCEL_WINDOW must not be negative; 0 means no limit")
	}
	if c.Demo && strings.Contains(c.StripeSecretKey, "_live_") {
		live = errors.New("STRIPE_SECRET_KEY is a live key, and the demo takes no real money: use a test key")
	}
	if c.DrainDelay != nil && *c.DrainDelay < 0 {
		negative = errors.Join(negative, fmt.Errorf("SHOP_DRAIN_DELAY (%s) must not be negative", *c.DrainDelay))
	}
	if c.StreamReplicas < 0 || c.StreamReplicas > 5 {
		negative = errors.Join(negative, fmt.Errorf("SHOP_STREAM_REPLICAS (%d) must be 1 to 5, or 0 for what the "+
			"cluster can hold", c.StreamReplicas))
	}
	_, public := c.publicURL()
	err := errors.Join(negative, live, c.checkName(), public, c.checkAddresses(), c.checkSecrets(), c.Check(),
		c.check())
	if err != nil {
		return UsageError{err}
	}
	return nil
}

// maxName is in characters: a name has to fit on a phone and into the subject of a mail.
const maxName = 40

func (c Config) checkName() error {
	if name := strings.TrimSpace(c.Name); name == "" || utf8.RuneCountInString(name) > maxName ||
		!utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("SHOP_NAME %q must be one line of 1 to %d characters", c.Name, maxName)
	}
	return nil
}

// defaultDrainDelay is longer than most balancers take to see two failed probes.
const defaultDrainDelay = 5 * time.Second

func (c Config) drainDelay() time.Duration {
	switch {
	case c.DrainDelay != nil:
		return *c.DrainDelay
	case c.Demo:
		return 0
	}
	return defaultDrainDelay
}

// audience keeps what a demo signs from opening the service, even if both have one secret.
func (c Config) audience() string {
	if c.Demo {
		return "demo"
	}
	return "serve"
}

// stripe reports whether Stripe moves the money.
func (c Config) stripe() bool { return c.StripeSecretKey != "" }

// RequireDatabase is Require for commands that need nothing else.
func (c Config) RequireDatabase() error {
	if c.DatabaseURL == "" {
		folder, err := filepath.Abs(c.DataDir)
		if err != nil {
			folder = c.DataDir
		}
		return UsageError{fmt.Errorf("DATABASE_URL is missing, and no demo is running on %s: set DATABASE_URL, or "+
			"start `shop demo`, or name the demo's folder in SHOP_DATA_DIR", folder)}
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
	if err != nil || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("SHOP_URL is not an address such as https://shop.example.com, without a path")
	}
	if u.Scheme == "http" && !c.AllowHTTP && !isLoopback(u.Hostname()) {
		return nil, fmt.Errorf("SHOP_URL %s sends orders and cookies in the clear: use https, or set "+
			"SHOP_ALLOW_HTTP=1", c.PublicURL)
	}
	return u, nil
}

// secure reports whether buyers reach the shop over https.
func (c Config) secure() bool {
	u, err := c.publicURL()
	return err == nil && u.Scheme == "https"
}

// isLoopback reports whether a host name always means this machine.
func isLoopback(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().IsLoopback()
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// mailHost returns the domain for the shop's mails: the public host, or localhost for an IP
// address.
func mailHost(public *url.URL) string {
	if net.ParseIP(public.Hostname()) != nil {
		return "localhost"
	}
	return public.Hostname()
}
