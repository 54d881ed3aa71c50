package pglocal

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// helperEnv makes the test binary a process that starts Postgres on the named folder, prints its
// process id, and waits to be killed.
const helperEnv = "PGLOCAL_TEST_SERVE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperEnv); dir != "" {
		p, err := Start(context.Background(), Config{Dir: dir})
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println(p.Pid())
		<-p.Done()
		return
	}
	goleak.VerifyTestMain(m)
}

// helper runs this test binary as a process that serves Postgres on dir, and returns it and the
// lines it prints.
func helper(t *testing.T, dir string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, bufio.NewScanner(out)
}

// folder is a new folder in memory, where there is such a thing, that other users can reach, as
// t.TempDir is not.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pglocal-test-") //nolint:usetesting // see above
	if err != nil {
		dir, err = os.MkdirTemp("", "pglocal-test-") //nolint:usetesting // see above
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// deadline is a context that outlasts whatever a test may reasonably wait for.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	if !poll(deadline(t), condition) {
		t.Fatalf("never happened: %s", what)
	}
}

// poll waits until the condition holds, and returns false when ctx ends before that.
func poll(ctx context.Context, condition func() bool) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// needPostgres skips the test when err says that this machine has no Postgres; in CI it must have
// one.
func needPostgres(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrNoPostgres) {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	t.Skip(err)
}

// long does what shoptest.Long does. That package needs this one and cannot be imported here.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("CI") == "" && flag.Lookup("test.run").Value.String() == "" {
		t.Skip("it takes long; -run . runs all")
	}
}

// wantError fails unless err mentions every one of the words.
func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error %q does not mention %q", err, word)
		}
	}
}
