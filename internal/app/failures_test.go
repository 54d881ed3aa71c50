package app_test

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// webConfig is a node for the web alone.
func webConfig(t *testing.T, databaseURL string) app.Config {
	t.Helper()
	config, err := app.ConfigFrom([]string{"DATABASE_URL=" + databaseURL,
		"SHOP_SECRET=a-secret-for-tests-32-bytes-long!", "SHOP_URL=http://localhost",
		"PSP_URL=http://127.0.0.1:1", "PSP_WEBHOOK_SECRET=" + apptest.WebhookSecret, "SHOP_DRAIN_DELAY=0s"})
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// A panic is one client's failure: it is told nothing of ours, the log is told all, and the node
// goes on.
func TestPanics(t *testing.T) {
	t.Parallel()
	var log shoptest.Transcript
	a, err := app.New(t.Context(), webConfig(t, shoptest.DatabaseURL(t)), app.OnlyWeb,
		slog.New(slog.NewJSONHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	handler := a.PublicHandler()
	for _, path := range []string{"/v1/panic", "/panic"} {
		handler.GET(path, func(echo.Context) error { panic(errors.New("the secret of panics")) })
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, contentType := range map[string]string{"/v1/panic": "application/problem+json",
		"/panic": "text/html; charset=UTF-8"} {
		answer, err := client.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusInternalServerError ||
			!strings.EqualFold(answer.Header.Get("Content-Type"), contentType) {
			t.Errorf("%s: %d %s %v", path, answer.StatusCode, answer.Header, err)
		}
		if found := regexp.MustCompile(`(?i)secret of|goroutine|panic|\.go:|runtime`).Find(body); found != nil {
			t.Errorf("%s says %q: %s", path, found, body)
		}
	}
	if n := strings.Count(log.String(), `"msg":"panic","method":"GET"`); n != 2 ||
		!strings.Contains(log.String(), "failures_test.go") {
		t.Errorf("the log tells of %d panics, want 2 and where they were:\n%s", n, log.String())
	}
}

// A setting that cannot be used is named, and the password in it is not repeated.
func TestErrorsHidePasswords(t *testing.T) {
	t.Parallel()
	const password = "hunter2-hunter2"
	at := func(scheme, rest string) string { return scheme + "://shop:" + password + "@" + rest }
	for name, change := range map[string]func(*app.Config){
		"DATABASE_URL, a port": func(c *app.Config) { c.DatabaseURL = at("postgres", "127.0.0.1:port/shop") },
		"DATABASE_URL, a space": func(c *app.Config) {
			c.DatabaseURL = at("postgres", "127.0.0.1:1/shop?sslmode=per haps")
		},
		"DATABASE_URL, escapes": func(c *app.Config) { c.DatabaseURL = at("postgres", "%zz/shop") },
		"REDIS_URL, a port":     func(c *app.Config) { c.RedisURL = at("redis", "127.0.0.1:port") },
		"REDIS_URL, a scheme":   func(c *app.Config) { c.RedisURL = at("rediss-", "127.0.0.1") },
		"REDIS_URL, escapes":    func(c *app.Config) { c.RedisURL = at("redis", "%zz") },
		"BROKER_URL, a port":    func(c *app.Config) { c.BrokerURL = at("nats", "127.0.0.1:port") },
		"BROKER_URL, Pulsar":    func(c *app.Config) { c.BrokerURL = at("pulsar", "127.0.0.1:6650") },
		"BROKER_URL, escapes":   func(c *app.Config) { c.BrokerURL = at("nats", "%zz") },
		"SMTP_URL, a port":      func(c *app.Config) { c.SMTPURL = at("smtp", "127.0.0.1:port") },
		"SMTP_URL, a scheme":    func(c *app.Config) { c.SMTPURL = at("mail", "127.0.0.1") },
		"SMTP_URL, escapes":     func(c *app.Config) { c.SMTPURL = at("smtp", "%zz") },
		"PSP_WEBHOOK_SECRET":    func(c *app.Config) { c.PSPWebhookSecret = password },
		"SHOP_SECRET":           func(c *app.Config) { c.Secret = password },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := webConfig(t, "postgres://127.0.0.1:1/shop")
			config.RedisURL, config.BrokerURL, config.SMTPURL = "redis://127.0.0.1:1", "nats://127.0.0.1:1",
				"smtp://127.0.0.1:1?tls=none"
			change(&config)
			var log shoptest.Transcript
			a, err := app.New(t.Context(), config, app.Everything, slog.New(slog.NewJSONHandler(&log, nil)))
			if err == nil {
				a.Close()
				t.Fatal("the setting is accepted")
			}
			setting, _, _ := strings.Cut(name, ",")
			if !strings.Contains(err.Error(), setting) {
				t.Errorf("the error does not name %s: %v", setting, err)
			}
			if strings.Contains(err.Error()+log.String(), password) {
				t.Errorf("the password is told: %v", err)
			}
		})
	}
}
