package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestLabOnTheDemo(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	needs(t, "lab", "demo")
	dir := dataDir(t)
	d := startDemo(t, dir)
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"lab", "--json", "unique-double-click", "memory-one-process"},
		[]string{"SHOP_DATA_DIR=" + dir}, &stdout, &stderr)
	if code != exitFine || !strings.Contains(stderr.String(), "the demo that runs on "+dir) {
		t.Fatalf("exit code %d\n%s", code, stderr.String())
	}
	type twin struct {
		Verdict string
		Steps   []json.RawMessage
	}
	var report struct {
		Results []struct {
			Experiment     string
			Naive, Guarded twin
		}
		Latency []json.RawMessage
	}
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
		t.Fatalf("%v\n%s", err, stdout.String())
	}
	if len(report.Results) != 2 || len(report.Latency) == 0 {
		t.Fatalf("%d results, %d latencies", len(report.Results), len(report.Latency))
	}
	if r := report.Results[0]; r.Experiment != "unique-double-click" || r.Naive.Verdict != "duplicates" ||
		r.Guarded.Verdict != "holds" || len(r.Naive.Steps) == 0 {
		t.Errorf("%+v", r)
	}
	if status := d.get(t, "/lab", ""); status != 200 {
		t.Errorf("the lab's page: %d", status)
	}
	if err := d.stop(t, syscall.SIGINT); err != nil {
		t.Error(err)
	}
}

// labProcess starts `shop lab` where nothing runs but what it brings itself. All it leaves behind
// would be in the returned folder.
func labProcess(t *testing.T, args ...string) (cmd *exec.Cmd, output *shoptest.Transcript, left func() []string) {
	t.Helper()
	needs(t, "lab", "demo")
	temporary, stale := dataDir(t), t.TempDir()
	// What a demo that was killed says of itself is no reason to fail.
	note := `{"pid":1,"database_url":"postgres://shop@127.0.0.1:1/shop",` +
		`"redis_url":"redis://127.0.0.1:1","nats_url":"nats://127.0.0.1:1"}`
	if err := os.WriteFile(filepath.Join(stale, "running.json"), []byte(note), 0o600); err != nil {
		t.Fatal(err)
	}
	output = &shoptest.Transcript{}
	cmd = exec.CommandContext(t.Context(), os.Args[0], append([]string{"lab"}, args...)...)
	cmd.Env = append(os.Environ(), asShop+"=1", "TMPDIR="+temporary, "SHOP_DATA_DIR="+stale)
	cmd.Stdout, cmd.Stderr = output, output
	return cmd, output, func() []string {
		found, err := filepath.Glob(filepath.Join(temporary, "*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
}

func TestLabAlone(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	cmd, output, left := labProcess(t, "redis-two-nodes", "unique-double-click")
	err := cmd.Run()
	said := output.String()
	if strings.Contains(said, "apt-get install postgresql") {
		shoptest.Missing(t, said)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	for _, want := range []string{"for this run only", "Postgres", "STRATEGY", "Double click",
		"duplicates (orders: 2 instead of 1", "MEDIAN"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not in\n%s", want, said)
		}
	}
	plainText(t, said)
	if found := left(); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
}

// plainText expects no control characters in what goes to no terminal.
func plainText(t *testing.T, output string) {
	t.Helper()
	if strings.ContainsFunc(output, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r == 0x7f }) {
		t.Errorf("control characters in %q", output)
	}
}

// Ctrl-C in the middle of an experiment ends its servers too.
func TestLabStops(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	cmd, output, left := labProcess(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	shoptest.Eventually(t, time.Minute, "the first experiment", func() bool {
		return strings.Contains(output.String(), "Experiments to run: 22") ||
			strings.Contains(output.String(), "apt-get")
	})
	if strings.Contains(output.String(), "apt-get install postgresql") {
		shoptest.Missing(t, output.String())
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil || strings.Contains(output.String(), "MEDIAN") {
			t.Errorf("%v\n%s", err, output)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("it does not stop:\n%s", output)
	}
	if found := left(); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
}

func TestLabWrongUse(t *testing.T) {
	t.Parallel()
	needs(t, "lab")
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"lab", "unique-triple-click"}, []string{"SHOP_DATA_DIR=/nonexistent"},
		&stdout, &stderr); code != exitWrongUse {
		t.Errorf("exit code %d, %s", code, stderr.String())
	}
	for _, want := range []string{`"unique-triple-click"`, "unique-double-click", "Double click", "broker-all-layers"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("%q is not in\n%s", want, stderr.String())
		}
	}
}
