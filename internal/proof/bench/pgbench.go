package bench

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed pgbench.sql
var pgbenchScript []byte

// pgbenchTime is what its rounds take in all.
const pgbenchTime = rounds * time.Second

// findPgbench looks where Debian puts the newest, then in PATH.
func findPgbench() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
	if err == nil && len(found) > 0 {
		return slices.Max(found), nil
	}
	return exec.LookPath("pgbench")
}

// addPgbench adds the naive transaction as pgbench runs it, which is as fast as it gets without a
// program around it, or a note.
func (b *bench) addPgbench(scenarios []scenario) ([]scenario, []string) {
	program, err := findPgbench()
	if err != nil {
		return scenarios, []string{"pgbench was not found: what it makes of the naive transaction is left out " +
			"(Debian: apt-get install postgresql-contrib)"}
	}
	each := entry{Orders: 1, Units: 2}
	return append(scenarios, scenario{"place uniform, of pgbench", []int{maxCallers},
		side{run: b.pgbench(program), books: &books{b.naive}, each: each},
		side{open: b.place(uniform), books: &books{b.ours}, each: each}}), nil
}

var (
	pgbenchRate  = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)
	pgbenchCalls = regexp.MustCompile(`(?m)^number of transactions actually processed: (\d+)`)
)

// pgbench runs the script with as many clients as there are callers, for whole seconds, as it knows
// no others.
func (b *bench) pgbench(program string) func(context.Context, int, time.Duration) (sample, error) {
	return func(ctx context.Context, callers int, length time.Duration) (s sample, err error) {
		dir, err := os.MkdirTemp("", "onceshop-pgbench-")
		if err != nil {
			return s, fmt.Errorf("make a folder for pgbench: %w", err)
		}
		defer os.RemoveAll(dir)
		script := filepath.Join(dir, "naive.sql")
		if err := os.WriteFile(script, pgbenchScript, 0o600); err != nil {
			return s, fmt.Errorf("write pgbench's script: %w", err)
		}
		if err := b.makeRoom(ctx); err != nil {
			return s, err
		}
		// On a busy machine the time may be up before all clients are connected.
		for seconds := int(math.Ceil(length.Seconds())); s.calls == 0 && err == nil && seconds <= 16; seconds *= 2 {
			//nolint:gosec // findPgbench found the program
			cmd := exec.CommandContext(ctx, program, "--no-vacuum", "--protocol=prepared", "--file="+script,
				"--client="+strconv.Itoa(callers), "--jobs=2", "--time="+strconv.Itoa(seconds))
			cmd.Env = append(os.Environ(), pgEnvironment(b.naive.Config().ConnConfig)...)
			s, err = runPgbench(cmd)
		}
		return s, err
	}
}

// runPgbench reads the rate and the number of transactions; both are 0 if there was no time for
// any.
func runPgbench(cmd *exec.Cmd) (s sample, err error) {
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 5 * time.Second
	var failures bytes.Buffer
	cmd.Stderr = &failures
	output, err := cmd.Output()
	if err != nil {
		return s, fmt.Errorf("pgbench: %w: %s", err, bytes.TrimSpace(failures.Bytes()))
	}
	calls := pgbenchCalls.FindSubmatch(output)
	if calls == nil {
		return s, fmt.Errorf("pgbench says something unexpected: %s", output)
	}
	if s.calls, err = strconv.Atoi(string(calls[1])); err != nil || s.calls == 0 {
		return s, err
	}
	rate := pgbenchRate.FindSubmatch(output)
	if rate == nil {
		return s, fmt.Errorf("pgbench says something unexpected: %s", output)
	}
	s.rate, err = strconv.ParseFloat(string(rate[1]), 64)
	return s, err
}

// makeRoom closes connections that are not needed now, and waits until they are gone at the server,
// which has a hundred in all unless told otherwise: pgbench's come on top.
func (b *bench) makeRoom(ctx context.Context) error {
	for _, pool := range []*pgxpool.Pool{b.naive, b.guarded, b.unguarded} {
		pool.Reset()
	}
	patience := time.After(5 * time.Second)
	for {
		var open int
		err := b.lock.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "+
			"application_name = ANY($1)",
			[]string{naiveSchema, guardedSchema, unguardedSchema, "pgbench"}).Scan(&open)
		if err != nil {
			return fmt.Errorf("count the connections: %w", err)
		}
		if open == 0 {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-patience:
			return nil // somebody else's; pgbench says so if there is no room
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pgEnvironment tells a program of Postgres where the schema is, without showing the password among
// the arguments.
func pgEnvironment(c *pgx.ConnConfig) []string {
	plain := func(f *pgconn.FallbackConfig) bool { return f.TLSConfig == nil }
	mode := "require"
	switch {
	case c.TLSConfig == nil:
		mode = "disable"
	case slices.ContainsFunc(c.Fallbacks, plain):
		mode = "prefer"
	}
	return []string{"PGHOST=" + c.Host, "PGPORT=" + strconv.Itoa(int(c.Port)), "PGUSER=" + c.User,
		"PGPASSWORD=" + c.Password, "PGDATABASE=" + c.Database,
		"PGSSLMODE=" + mode, "PGOPTIONS=-c search_path=" + naiveSchema}
}
