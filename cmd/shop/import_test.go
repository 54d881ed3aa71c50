package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/onceshop/onceshop/internal/shoptest"
)

// TestImportCapsItsList checks that a file with many bad lines gives a short list and a sum.
func TestImportCapsItsList(t *testing.T) {
	t.Parallel()
	file := "delivery_id,line,sku,quantity\n" + strings.Repeat("d,1,NO-SUCH,5\n", 500)
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"import", writeFile(t, "deliveries.csv", file)},
		[]string{"DATABASE_URL=" + shoptest.DatabaseURL(t), "SHOP_DATA_DIR=" + t.TempDir()}, &stdout, &stderr)
	if n := strings.Count(stdout.String(), "unknown sku"); code != exitFailed || n != 20 ||
		!strings.Contains(stdout.String(), "… and 480 more bad lines") ||
		!strings.Contains(stderr.String(), "nothing was imported: 500 lines are bad") {
		t.Errorf("exit code %d, %d lines\n%s%s", code, n, stdout.String(), stderr.String())
	}
}

// What comes through a pipe can be read once only, and an import reads its file more than once.
func TestImportFromPipes(t *testing.T) {
	t.Parallel()
	database := shoptest.DatabaseURL(t)
	pool := shoptest.Pool(t, database)
	if _, err := pool.Exec(t.Context(), `INSERT INTO products (sku, name, description, currency, unit_price, position)
		VALUES ('CUP', 'Cup', '', 'EUR', 100, 0)`); err != nil {
		t.Fatal(err)
	}
	file := func(id string) string { return "delivery_id,line,sku,quantity\n" + id + ",1,CUP,5\n" }
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"-", "/dev/stdin", fifo} {
		command := exec.CommandContext(t.Context(), os.Args[0], "import", path)
		command.Env = append(os.Environ(), asShop+"=1", "DATABASE_URL="+database, "SHOP_DATA_DIR="+t.TempDir())
		if path == fifo {
			go func() { _ = os.WriteFile(fifo, []byte(file(path)), 0) }()
		} else {
			command.Stdin = strings.NewReader(file(path))
		}
		var out bytes.Buffer
		command.Stdout, command.Stderr = &out, &out
		if err := command.Run(); err != nil || !strings.Contains(out.String(), "1 lines booked (5 units)") {
			t.Errorf("%s: %v %s", path, err, out.String())
		}
		plainText(t, out.String())
	}
	var units int
	if err := pool.QueryRow(t.Context(), "SELECT available FROM stock").Scan(&units); err != nil || units != 15 {
		t.Errorf("%d units, %v, want 15", units, err)
	}
}
