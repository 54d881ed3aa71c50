package main

import (
	"bytes"
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// asShop makes the test binary the program itself, so that tests can run it as a process of its
// own.
const asShop = "SHOP_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asShop) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// needs skips the test in a program whose wing with the commands was removed.
func needs(t *testing.T, commands ...string) {
	t.Helper()
	var help bytes.Buffer
	run(t.Context(), []string{"--help"}, nil, &help, &help)
	for _, command := range commands {
		if !strings.Contains(help.String(), "\n  "+command+" ") {
			t.Skipf("this program has no command %q", command)
		}
	}
}

func TestWrongUse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args, environ []string
		says          []string
	}{
		"no command":      {nil, nil, []string{"serve", "migrate"}},
		"unknown command": {[]string{"sell"}, nil, []string{"sell", "--help"}},
		"unknown flag":    {[]string{"serve", "--fast"}, nil, []string{"--fast"}},
		"wrong part":      {[]string{"serve", "--only=half"}, nil, []string{"--only", "web", "workers"}},
		"nothing is named": {[]string{"serve"}, nil,
			[]string{"DATABASE_URL", "REDIS_URL", "NATS_URL", "SMTP_URL", "PSP_URL", "PSP_WEBHOOK_SECRET",
				"SHOP_SECRET", "shop demo"}},
		"web needs less": {[]string{"serve", "--only=web"}, []string{"DATABASE_URL=postgres://x"},
			[]string{"missing settings: PSP_URL, PSP_WEBHOOK_SECRET, SHOP_SECRET:"}},
		"short secret": {[]string{"serve", "--only=web"},
			[]string{"DATABASE_URL=postgres://x", "PSP_URL=http://x", "PSP_WEBHOOK_SECRET=x", "SHOP_SECRET=short"},
			[]string{"SHOP_SECRET", "32"}},
		"windows do not nest": {[]string{"serve", "--only=web"},
			[]string{"DATABASE_URL=postgres://x", "PSP_URL=http://x", "PSP_WEBHOOK_SECRET=whsec_c2VjcmV0",
				"SHOP_SECRET=" + strings.Repeat("s", 32), "SHOP_CHARGE_LEASE=5s"},
			[]string{"SHOP_CHARGE_LEASE", "SHOP_PROVIDER_TIMEOUT"}},
		"no database": {[]string{"token", "--customer=a@example.com"}, []string{"SHOP_DATA_DIR=/nonexistent"},
			[]string{"DATABASE_URL", "SHOP_DATA_DIR"}},
		"no such file": {[]string{"import", "nowhere.csv"}, nil, []string{"nowhere.csv"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			environ := append([]string{"HOME=" + t.TempDir()}, c.environ...)
			if code := run(t.Context(), c.args, environ, &stdout, &stderr); code != exitWrongUse {
				t.Errorf("exit code %d", code)
			}
			for _, want := range c.says {
				if !strings.Contains(stdout.String()+stderr.String(), want) {
					t.Errorf("does not name %q: %s", want, stderr.String())
				}
			}
			if strings.Contains(stderr.String(), "goroutine") {
				t.Errorf("a stack trace: %s", stderr.String())
			}
		})
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"serve", "--help"}, {"import", "--help"}} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), args, nil, &stdout, &stderr); code != exitFine ||
			!strings.Contains(stdout.String(), "Usage: shop") {
			t.Errorf("%v: exit code %d, %s", args, code, stdout.String())
		}
	}
}

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
