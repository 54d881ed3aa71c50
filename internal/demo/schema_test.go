package demo

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/app"
)

// runOn runs a demo that fails before it starts a server and returns its error.
func runOn(t *testing.T, dir string, environ ...string) error {
	t.Helper()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	config, err := app.ConfigFrom(append([]string{"SHOP_DATA_DIR=" + dir, "SHOP_ADDR=" + taken.Addr().String()},
		environ...))
	if err != nil {
		t.Fatal(err)
	}
	if err = Run(t.Context(), config, false, 1, nil, t.Output(), slog.New(slog.DiscardHandler)); err == nil {
		t.Fatal("the demo ran")
	}
	return err
}

func TestDataOfAnotherVersion(t *testing.T) {
	t.Parallel()
	for name, record := range map[string]string{
		"without a record":    "",
		"a changed migration": `{"00001_accounts.sql": "0000"}`,
		"a removed migration": `{"00000_gone.sql": "0000"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, postgresDir), 0o700); err != nil {
				t.Fatal(err)
			}
			if record != "" {
				if err := os.WriteFile(filepath.Join(dir, schemaFile), []byte(record), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := runOn(t, dir)
			if !strings.Contains(err.Error(), "shop demo --fresh") || !strings.Contains(err.Error(), dir) {
				t.Errorf("%v names no way out", err)
			}
		})
	}
}

func TestDataOfThisVersion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 2 {
		if err := runOn(t, dir); !strings.Contains(err.Error(), "SHOP_ADDR") {
			t.Errorf("%v, want only the address refused", err)
		}
		if err := os.MkdirAll(filepath.Join(dir, postgresDir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

// Settings that no demo can use are refused before a server is started or a file is written.
func TestDemoRefuses(t *testing.T) {
	t.Parallel()
	for setting, name := range map[string]string{
		"STRIPE_SECRET_KEY=sk_live_abc": "STRIPE_SECRET_KEY", "STRIPE_SECRET_KEY=rk_live_abc": "STRIPE_SECRET_KEY",
		"SHOP_URL=shop": "SHOP_URL", "SHOP_URL=http://shop.example.com": "SHOP_ALLOW_HTTP",
		"SHOP_SECRET=x": "SHOP_SECRET", "SHOP_CHARGE_LEASE=1s": "SHOP_CHARGE_LEASE",
	} {
		dir := filepath.Join(t.TempDir(), "data")
		if err := runOn(t, dir, setting); !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v does not name %s", setting, err, name)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s: the data folder was made (%v)", setting, err)
		}
	}
}

// A link or a file that a stranger planted in the data folder is neither followed nor trusted.
func TestPlantedFiles(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"lock", secretsFile, secretsFile + ".new", schemaFile, schemaFile + ".new", pspLog,
		app.RunningFile, app.RunningFile + ".new", postgresDir, natsDir, mailboxDir} {
		for how, plant := range map[string]func(target, path string) error{"link": os.Symlink, "second name": os.Link} {
			dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "victim")
			if err := os.WriteFile(outside, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := plant(outside, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			err := runOn(t, dir)
			if !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "SHOP_DATA_DIR") {
				t.Errorf("%s, %s: %v", name, how, err)
			}
			if text, err := os.ReadFile(outside); err != nil || string(text) != "precious" {
				t.Errorf("%s, %s: the victim holds %q, %v", name, how, text, err)
			}
		}
		dir := t.TempDir()
		if os.Geteuid() == 0 {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(path, 65534, 65534); err != nil {
				t.Fatal(err)
			}
			if err := runOn(t, dir); !strings.Contains(err.Error(), name) {
				t.Errorf("%s of another user: %v", name, err)
			}
		}
	}
}
