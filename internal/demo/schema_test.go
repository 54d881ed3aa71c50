package demo

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/app"
)

// runOn runs a demo that fails before it starts a server and returns its error.
func runOn(t *testing.T, dir string) error {
	t.Helper()
	err := Run(t.Context(), app.Config{DataDir: dir, Addr: "no address"}, false, t.Output(),
		slog.New(slog.DiscardHandler))
	if err == nil {
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
