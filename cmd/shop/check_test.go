package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// The check finds the running demo, is clean after an order, and finds what somebody broke.
func TestCheckOnTheDemo(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	dir := dataDir(t)
	d := startDemo(t, dir)
	if status, body := d.order(t, "k"); status != 201 {
		t.Fatalf("%d %s", status, body)
	}
	data, err := os.ReadFile(filepath.Join(dir, "running.json"))
	if err != nil {
		t.Fatal(err)
	}
	var running app.Running
	if err := json.Unmarshal(data, &running); err != nil {
		t.Fatal(err)
	}
	check := func(want int, environ []string, says ...string) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), []string{"check"}, environ, &stdout, &stderr); code != want {
			t.Errorf("exit code %d\n%s%s", code, stdout.String(), stderr.String())
		}
		for _, want := range says {
			if !strings.Contains(stdout.String()+stderr.String(), want) {
				t.Errorf("%q is not in\n%s%s", want, stdout.String(), stderr.String())
			}
		}
		if want == exitFine && strings.Contains(stdout.String(), "not checked") != (len(environ) > 1) {
			t.Error(stdout.String())
		}
	}
	onDemo := []string{"SHOP_DATA_DIR=" + dir}
	check(exitFine, onDemo, "I1 ", "I13 ", "ok", "PROMISE", "\n15 hold\n")
	var table, complaint bytes.Buffer
	if code := run(t.Context(), []string{"check", "--since=24h"}, onDemo, &table, &complaint); code != exitFine ||
		!strings.Contains(table.String(), "it is about all orders") {
		t.Errorf("--since: exit code %d\n%s%s", code, table.String(), complaint.String())
	}
	if code := run(t.Context(), []string{"check", "--since=-1h"}, onDemo, &table, &complaint); code != exitWrongUse ||
		!strings.Contains(complaint.String(), "--since") {
		t.Errorf("--since=-1h: exit code %d\n%s", code, complaint.String())
	}
	check(exitFine, []string{"HOME=" + t.TempDir(), "DATABASE_URL=" + running.DatabaseURL},
		"not checked: PSP_URL is missing", "not checked: SHOP_MAILBOX_ADDR is missing")
	check(exitFailed, append(onDemo, "SHOP_MAILBOX_ADDR=127.0.0.1:1"), "not checked: the mailbox does not answer",
		"SHOP_MAILBOX_ADDR")

	conn, err := pgx.Connect(t.Context(), running.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(),
		"UPDATE stock SET available = available + 1 WHERE sku = 'PIN-KEY'"); err != nil {
		t.Fatal(err)
	}
	check(exitFailed, onDemo, "I7 VIOLATED", "PIN-KEY", "\n14 hold, 1 violated: I7\n",
		"1 of 15 invariants are violated")
	watch(t, onDemo)
	if err := d.stop(t, syscall.SIGINT); err != nil {
		t.Error(err)
	}
}

// watch repeats the check and ends it as Ctrl-C does, after the third table.
func watch(t *testing.T, environ []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out := &tables{enough: 3, stop: cancel}
	var stderr bytes.Buffer
	if code := run(ctx, []string{"check", "--watch=10ms"}, environ, out, &stderr); code != exitFailed ||
		!strings.Contains(stderr.String(), "violated") {
		t.Errorf("--watch: exit code %d, %s", code, stderr.String())
	}
}

// tables counts the tables that are written and stops whoever writes them when it has enough.
type tables struct {
	seen, enough int
	stop         func()
}

func (w *tables) Write(p []byte) (int, error) {
	if w.seen += bytes.Count(p, []byte("INVARIANT")); w.seen >= w.enough {
		w.stop()
	}
	return len(p), nil
}

func TestCheckWrongUse(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"check"}, {"check", "--watch=often"}, {"check", "--watch=-1s"},
		{"check", "--watch", "5s"}} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), args, []string{"SHOP_DATA_DIR=/nonexistent"}, &stdout,
			&stderr); code != exitWrongUse {
			t.Errorf("%v: exit code %d, %s", args, code, stderr.String())
		}
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"check", "--help"}, nil, &stdout, &stderr); code != exitFine ||
		!strings.Contains(stdout.String(), "I2, I4, I14 and I15 are not checked") {
		t.Errorf("--help: exit code %d, %s", code, stdout.String())
	}
	if code := run(t.Context(), []string{"check", "--watch"}, []string{"SHOP_DATA_DIR=/nonexistent"}, &stdout,
		&stderr); code != exitWrongUse || !strings.Contains(stderr.String(), "DATABASE_URL") {
		t.Errorf("--watch alone: exit code %d, %s", code, stderr.String())
	}
}
