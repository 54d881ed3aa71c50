package app_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/app"
)

// serveSettings are enough for every role of `shop serve`.
func serveSettings() map[string]string {
	return map[string]string{"DATABASE_URL": "postgres://127.0.0.1:1/shop", "REDIS_URL": "redis://127.0.0.1:1",
		"NATS_URL": "nats://127.0.0.1:1", "SMTP_URL": "smtp://127.0.0.1:1?tls=none", "PSP_URL": "http://127.0.0.1:1",
		"PSP_WEBHOOK_SECRET": "whsec_c2VjcmV0IGZvciB0ZXN0cw==",
		"SHOP_SECRET":        "a-secret-for-tests-32-bytes-long!", "SHOP_URL": "https://shop.example.com"}
}

// require reads the settings as `shop serve` does.
func require(settings map[string]string) (app.Config, error) {
	var environ []string
	for name, value := range settings {
		environ = append(environ, name+"="+value)
	}
	config, err := app.ConfigFrom(environ)
	if err == nil {
		err = errors.Join(config.Require(app.Everything), config.Valid())
	}
	return config, err
}

func wantUsage(t *testing.T, what string, err error, names string) {
	t.Helper()
	if _, usage := errors.AsType[app.UsageError](err); (names != "") != usage {
		t.Errorf("%s: %v, want an error of use: %t", what, err, names != "")
	}
	for _, name := range strings.Fields(names) {
		if err != nil && !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v does not name %s", what, err, name)
		}
	}
}

func TestPublicURL(t *testing.T) {
	t.Parallel()
	for address, names := range map[string]string{
		"https://shop.example.com": "", "HTTPS://Shop.Example.COM/": "", "https://shop.example.com:8443": "",
		"http://localhost:8080": "", "http://127.0.0.2": "", "http://[::1]:8080": "", "HTTP://shop.localhost": "",
		"":                        "SHOP_URL missing",
		"http://shop.example.com": "SHOP_URL SHOP_ALLOW_HTTP=1", "http://10.0.0.7:8080": "SHOP_URL SHOP_ALLOW_HTTP=1",
		"http://localhost.example.com": "SHOP_URL SHOP_ALLOW_HTTP=1",
		"shop.example.com":             "SHOP_URL", "https://": "SHOP_URL", "https:///x": "SHOP_URL",
		"ftp://shop": "SHOP_URL", "https://:443": "SHOP_URL", "https://shop.example.com:port": "SHOP_URL",
		"https://shop.example.com/shop": "SHOP_URL",
		"https://a:b@shop.example.com":  "SHOP_URL", "https://shop.example.com?x=1": "SHOP_URL", "%zz": "SHOP_URL",
	} {
		settings := serveSettings()
		settings["SHOP_URL"] = address
		_, err := require(settings)
		wantUsage(t, address, err, names)
		settings["SHOP_ALLOW_HTTP"] = "1"
		_, err = require(settings)
		if strings.Contains(names, "ALLOW") {
			names = ""
		}
		wantUsage(t, address+" with SHOP_ALLOW_HTTP", err, names)
	}
}

func TestSecretsThatCanBeGuessed(t *testing.T) {
	t.Parallel()
	good := serveSettings()["SHOP_SECRET"]
	for _, test := range []struct{ setting, secret, names string }{
		{"SHOP_SECRET", good, ""}, {"SHOP_SECRET", strings.ToUpper(good) + " " + good, ""},
		{"SHOP_SECRET", "x", "SHOP_SECRET 32"}, {"SHOP_SECRET", strings.Repeat("s", 64), "SHOP_SECRET"},
		{"SHOP_SECRET", strings.Repeat("ab", 32), "SHOP_SECRET"}, {"SHOP_SECRET", good + " short", "SHOP_SECRET 32"},
		{"SHOP_SECRET", good + " " + strings.Repeat("s", 32), "SHOP_SECRET"},
		{"SHOP_SECRET", " ", "SHOP_SECRET"},
		{"PSP_WEBHOOK_SECRET", "x", "PSP_WEBHOOK_SECRET"}, {"PSP_WEBHOOK_SECRET", "whsec_eA==", "PSP_WEBHOOK_SECRET"},
		{"PSP_WEBHOOK_SECRET", "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "PSP_WEBHOOK_SECRET"},
		{"PSP_WEBHOOK_SECRET", "whsec_c2VjcmV0IGZvciB0ZXN0cw== whsec_eHh4eHh4", "PSP_WEBHOOK_SECRET"},
		{"STRIPE_WEBHOOK_SECRET", "whsec_xxxxxxxxx", "STRIPE_WEBHOOK_SECRET"},
	} {
		settings := serveSettings()
		settings[test.setting] = test.secret
		_, err := require(settings)
		wantUsage(t, test.setting+"="+test.secret, err, test.names)
	}
}

// Every secret can come from a file, but not from two places.
func TestSecretFiles(t *testing.T) {
	t.Parallel()
	names := []string{"SHOP_SECRET", "DATABASE_URL", "REDIS_URL", "NATS_URL", "SMTP_URL", "PSP_URL",
		"PSP_WEBHOOK_SECRET", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "BROKER_URL"}
	given := serveSettings()
	given["BROKER_URL"] = given["NATS_URL"]
	given["STRIPE_SECRET_KEY"], given["STRIPE_WEBHOOK_SECRET"] = "sk_test_x", "whsec_abcdef"
	want, err := require(given)
	if err != nil {
		t.Fatal(err)
	}
	fromFiles := map[string]string{"SHOP_URL": given["SHOP_URL"]}
	for _, name := range names {
		path := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(path, []byte(given[name]+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		fromFiles[name+"_FILE"] = path
	}
	got, err := require(fromFiles)
	if err != nil {
		t.Fatal(err)
	}
	got.PerToken, want.PerToken = nil, nil
	for i, pair := range [][2]string{{got.Secret, want.Secret}, {got.DatabaseURL, want.DatabaseURL},
		{got.RedisURL, want.RedisURL}, {got.BrokerURL, want.BrokerURL}, {got.SMTPURL, want.SMTPURL},
		{got.PSPURL, want.PSPURL},
		{got.PSPWebhookSecret, want.PSPWebhookSecret}, {got.StripeSecretKey, want.StripeSecretKey},
		{got.StripeWebhookSecret, want.StripeWebhookSecret}, {got.BrokerURL, want.BrokerURL}} {
		if pair[0] != pair[1] || pair[0] == "" {
			t.Errorf("%s is %q, want %q", names[i], pair[0], pair[1])
		}
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		for what, setting := range map[string]string{"both": fromFiles["SHOP_SECRET_FILE"], "missing": "/nonexistent",
			"empty": empty} {
			environ := []string{name + "_FILE=" + setting}
			if what == "both" {
				environ = append(environ, name+"=x")
			}
			_, err := app.ConfigFrom(environ)
			wantUsage(t, name+", "+what, err, name+"_FILE")
		}
	}
}

// NATS_URL is a second name of BROKER_URL, which wins.
func TestBrokerURL(t *testing.T) {
	t.Parallel()
	for broker, want := range map[string]string{"": "nats://127.0.0.1:1", "nats://127.0.0.1:2": "nats://127.0.0.1:2"} {
		settings := serveSettings() // with NATS_URL
		settings["BROKER_URL"] = broker
		if config, err := require(settings); err != nil || config.BrokerURL != want {
			t.Errorf("BROKER_URL=%s: %q, %v, want %q", broker, config.BrokerURL, err, want)
		}
	}
	settings := serveSettings()
	delete(settings, "NATS_URL")
	_, err := require(settings)
	wantUsage(t, "no broker", err, "BROKER_URL missing")
	for name, value := range map[string]string{"SHOP_DRAIN_DELAY": "-1s", "SHOP_STREAM_REPLICAS": "-1"} {
		settings := serveSettings()
		settings[name] = value
		_, err := require(settings)
		wantUsage(t, name+"="+value, err, name)
	}
}

func TestBrokerOfAScheme(t *testing.T) {
	t.Parallel()
	const azure = "Endpoint=sb://127.0.0.1/;SharedAccessKeyName=shop;"
	for address, names := range map[string]string{
		"nats://127.0.0.1:1": "", "127.0.0.1:1": "", "NATS://127.0.0.1:1,nats://127.0.0.1:2": "",
		"tls://127.0.0.1:1,tls://127.0.0.1:2": "", "shop:hidden@127.0.0.1:1,nats://127.0.0.1:2": "",
		"pulsar://shop:hidden@127.0.0.1:6650": "BROKER_URL pulsar:// shop-pulsar",
		"servicebus://shop:hidden@127.0.0.1":  "", azure + "SharedAccessKey=hidden": "",
		azure + "Key=hidden":                       "BROKER_URL Azure",
		"servicebus://shop.servicebus.windows.net": "BROKER_URL servicebus://key-name:key@",
		"servicebus://shop:hidden@[::1":            "BROKER_URL servicebus://key-name:key@",
		"nats://shop:hidden@[::1":                  "BROKER_URL nats://user:password@host:4222",
	} {
		settings := serveSettings()
		settings["BROKER_URL"] = address
		config, err := require(settings)
		if err != nil {
			t.Fatal(err)
		}
		a, err := app.New(t.Context(), config, app.OnlyWorker, slog.New(slog.DiscardHandler))
		if err == nil {
			a.Close()
		}
		wantUsage(t, address, err, names)
		if err != nil && strings.Contains(err.Error(), "hidden") {
			t.Errorf("%v has the password", err)
		}
	}
}
