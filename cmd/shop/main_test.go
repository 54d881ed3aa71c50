package main

import (
	"bytes"
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
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
		"unknown command": {[]string{"sell"}, nil, []string{"sell", "--help"}},
		"unknown flag":    {[]string{"serve", "--fast"}, nil, []string{"--fast"}},
		"wrong part":      {[]string{"serve", "--only=half"}, nil, []string{"--only", "web", "workers"}},
		"nothing is named": {[]string{"serve"}, nil,
			[]string{"DATABASE_URL", "REDIS_URL", "BROKER_URL", "SMTP_URL", "PSP_URL", "PSP_WEBHOOK_SECRET",
				"SHOP_SECRET", "SHOP_URL", "shop demo"}},
		"web needs less": {[]string{"serve", "--only=web"}, []string{"DATABASE_URL=postgres://x"},
			[]string{"missing settings: PSP_URL, PSP_WEBHOOK_SECRET, SHOP_SECRET, SHOP_URL:"}},
		"short secret": {[]string{"serve", "--only=web"},
			[]string{"DATABASE_URL=postgres://x", "PSP_URL=http://x", "PSP_WEBHOOK_SECRET=x", "SHOP_SECRET=short",
				"SHOP_URL=http://localhost"},
			[]string{"SHOP_SECRET", "32"}},
		"windows do not nest": {[]string{"serve", "--only=web"},
			[]string{"DATABASE_URL=postgres://x", "PSP_URL=http://x", "PSP_WEBHOOK_SECRET=whsec_c2VjcmV0",

				"SHOP_SECRET=a-secret-for-tests-32-bytes-long!", "SHOP_URL=http://localhost", "SHOP_CHARGE_LEASE=5s"},
			[]string{"SHOP_CHARGE_LEASE", "SHOP_PROVIDER_TIMEOUT"}},
		"no database": {[]string{"token", "--customer=a@example.com"}, []string{"SHOP_DATA_DIR=/nonexistent"},
			[]string{"DATABASE_URL", "SHOP_DATA_DIR"}},
		"folder without a demo": {[]string{"check"}, []string{"SHOP_DATA_DIR=/nonexistent"}, []string{"/nonexistent"}},
		"several wrong values": {[]string{"serve"}, []string{"SHOP_GUEST_RATE_LIMIT=many", "SHOP_DRAIN_DELAY=soon",
			"SHOP_ALLOW_HTTP=maybe", "SHOP_LOG_LEVEL=loud", "SHOP_UNPAID_ORDERS=few", "SHOP_TOKEN_RATE_LIMIT=1.5"},
			[]string{`SHOP_GUEST_RATE_LIMIT "many" must be a whole number`, `SHOP_DRAIN_DELAY "soon" must be a time`,
				`SHOP_ALLOW_HTTP "maybe" must be true or false`, `SHOP_LOG_LEVEL "loud" must be debug`,
				`SHOP_UNPAID_ORDERS "few"`, `SHOP_TOKEN_RATE_LIMIT "1.5" must be a whole number`}},
		"wrong addresses": {[]string{"serve", "--only=web"},
			[]string{"DATABASE_URL=postgres://x", "PSP_URL=there", "PSP_WEBHOOK_SECRET=whsec_c2VjcmV0",
				"SHOP_SECRET=a-secret-for-tests-32-bytes-long!", "SHOP_URL=http://localhost", "SHOP_ADDR=here",
				"SHOP_PSP_ADDR=1:x"},
			[]string{`SHOP_ADDR "here"`, `SHOP_PSP_ADDR "1:x"`, "PSP_URL"}},
		"no time": {[]string{"recover", "--since=yesterday"}, nil,
			[]string{"--since: must be a time such as 2026-"}},
		"no servers": {[]string{"recover", "--since=2026-11-29T08:00:00Z"}, nil,
			[]string{"BROKER_URL", "PSP_URL"}},
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
			if strings.Contains(stderr.String(), "goroutine") || fieldName.MatchString(stderr.String()) {
				t.Errorf("a stack trace or a Go field: %s", stderr.String())
			}
		})
	}
}

// fieldName matches what Go's libraries report about a field.
var fieldName = regexp.MustCompile(`field "|PerGuest|strconv\.|PublicURL`)

func TestVersion(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"version"}, nil, &stdout, &stderr); code != exitFine ||
		!strings.Contains(stdout.String(), "commit ") || !strings.Contains(stdout.String(), runtime.Version()) {
		t.Errorf("exit code %d, %s%s", code, stdout.String(), stderr.String())
	}
	metrics, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, metric := range metrics {
		names = append(names, metric.GetName())
	}
	if !slices.Contains(names, "onceshop_build_info") {
		t.Errorf("no metric onceshop_build_info in %v", names)
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"--help"}, {"serve", "--help"}, {"import", "--help"}} {
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
