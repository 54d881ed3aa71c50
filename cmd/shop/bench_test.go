package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/shoptest"
)

// Ctrl-C in the middle of a run ends its server too.
func TestBenchStops(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	needs(t, "bench", "demo")
	temporary, output := dataDir(t), &shoptest.Transcript{}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "bench")
	cmd.Env = append(os.Environ(), asShop+"=1", "TMPDIR="+temporary, "SHOP_DATA_DIR="+t.TempDir(), "DATABASE_URL=")
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	shoptest.Eventually(t, time.Minute, "a scenario is under way", func() bool {
		return strings.Contains(output.String(), "%") || strings.Contains(output.String(), "apt-get")
	})
	if strings.Contains(output.String(), "apt-get install postgresql") {
		shoptest.Missing(t, output.String())
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil || strings.Contains(output.String(), "RATIO") {
			t.Errorf("%v\n%s", err, output)
		}
	case <-time.After(time.Minute):
		t.Fatalf("it does not stop:\n%s", output)
	}
	if found, err := filepath.Glob(filepath.Join(temporary, "*")); err != nil || len(found) > 0 {
		t.Errorf("left behind: %v, %v", found, err)
	}
}

func TestBenchTooShort(t *testing.T) {
	t.Parallel()
	needs(t, "bench")
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"bench", "--duration=1s"}, []string{"HOME=" + t.TempDir()}, &stdout, &stderr)
	if says := stderr.String(); code != exitWrongUse || !strings.Contains(says, "--duration 1s") ||
		!strings.Contains(says, "20s") {
		t.Errorf("exit code %d, %s", code, says)
	}
}
