package pglocal

import (
	"context"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func mustStart(t *testing.T, c Config) *Server {
	t.Helper()
	p, err := Start(deadline(t), c)
	needPostgres(t, err)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustStop(t, p) })
	return p
}

func mustStop(t *testing.T, p *Server) {
	t.Helper()
	if err := p.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

// ask returns the one value that the query yields, as text.
func ask(t *testing.T, url, query string) string {
	t.Helper()
	conn, err := pgx.Connect(deadline(t), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var answer string
	if err := conn.QueryRow(deadline(t), query).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return answer
}

// run executes statements that yield nothing.
func run(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(deadline(t), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(deadline(t), sql); err != nil {
		t.Fatal(err)
	}
}

func gone(pid int) bool { return commandLine(pid) == "" }

func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "initdb-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestDataSurviveARestart(t *testing.T) {
	t.Parallel()
	var told []string
	c := Config{
		Dir: folder(t), Volatile: true, Settings: []string{"max_connections=17"},
		Progress: func(what string) { told = append(told, what) },
	}
	p := mustStart(t, c)
	if got := ask(t, p.URL(), "SHOW max_connections"); got != "17" {
		t.Errorf("max_connections = %s, want 17", got)
	}
	if got := ask(t, p.URL(), "SHOW fsync"); got != "off" {
		t.Errorf("fsync = %s, want off", got)
	}
	if got := ask(t, p.URL(), "SELECT current_database() || current_user"); got != "shopshop" {
		t.Errorf("database and user = %s, want shop and shop", got)
	}
	run(t, p.URL(), "CREATE TABLE kept AS SELECT 42 AS n")
	mustStop(t, p)
	<-p.Done()
	if !gone(p.Pid()) {
		t.Error("the server still runs after Stop")
	}

	p = mustStart(t, c)
	if got := ask(t, p.URL(), "SELECT n::text FROM kept"); got != "42" {
		t.Errorf("kept = %s, want 42", got)
	}
	if want := []string{"creating the database", "starting Postgres", "starting Postgres"}; !slices.Equal(told, want) {
		t.Errorf("progress %q, want %q", told, want)
	}
}

func TestPassword(t *testing.T) {
	t.Parallel()
	c := Config{Dir: folder(t), Password: "it's/a:p@ss word"}
	p := mustStart(t, c)
	if got := ask(t, p.URL(), "SHOW fsync"); got != "on" {
		t.Errorf("fsync = %s, want on", got)
	}
	wrong, err := url.Parse(p.URL())
	if err != nil {
		t.Fatal(err)
	}
	wrong.User = url.UserPassword("shop", "guess")
	var refused *pgconn.PgError
	if _, err := pgx.Connect(deadline(t), wrong.String()); !errors.As(err, &refused) || refused.Code != "28P01" {
		t.Errorf("wrong password: %v, want 28P01", err)
	}
	mustStop(t, p)

	c.Password = "another"
	_, err = Start(deadline(t), c)
	wantError(t, err, "another password", "--fresh")
	if left := leftovers(t, c.Dir); left != nil {
		t.Errorf("left behind: %q", left)
	}
}

func TestFolderInUse(t *testing.T) {
	t.Parallel()
	p := mustStart(t, Config{Dir: folder(t), Volatile: true})
	dir := filepath.Dir(ask(t, p.URL(), "SHOW data_directory"))
	_, err := Start(deadline(t), Config{Dir: dir})
	wantError(t, err, dir, "in use", "SHOP_DATA_DIR")
	ask(t, p.URL(), "SELECT 'alive'")
}

func TestKilledParentLeavesNoServer(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ties a child's life to its parent's")
	}
	dir := folder(t)
	mustStop(t, mustStart(t, Config{Dir: dir})) // or skip
	parent, lines := helper(t, dir)
	if !lines.Scan() {
		t.Fatal("the helper said nothing")
	}
	pid, err := strconv.Atoi(lines.Text())
	if err != nil {
		t.Fatal(lines.Text())
	}
	if gone(pid) {
		t.Fatal("the helper's server does not run")
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server ends with its parent", func() bool { return gone(pid) })
	mustStart(t, Config{Dir: dir})
}

func TestNextStartRecovers(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	p := mustStart(t, Config{Dir: dir})
	run(t, p.URL(), "CREATE TABLE kept AS SELECT 42 AS n")
	if err := syscall.Kill(p.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	p = mustStart(t, Config{Dir: dir})
	if got := ask(t, p.URL(), "SELECT n::text FROM kept"); got != "42" {
		t.Errorf("kept = %s, want 42", got)
	}
}

func TestHalfFinishedInitdbIsRedone(t *testing.T) {
	long(t)
	t.Parallel()
	_, err := machine(t.Context()).find(deadline(t), 0, nil, func(string) {})
	needPostgres(t, err)
	dir := folder(t)
	parent, _ := helper(t, dir)
	eventually(t, "initdb is at work", func() bool { return initdbWorks(dir) })
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // reports the kill
	if leftovers(t, dir) == nil {
		t.Fatal("the helper was not killed in the middle of initdb")
	}
	p := mustStart(t, Config{Dir: dir, Volatile: true})
	ask(t, p.URL(), "SELECT 'alive'")
	if left := leftovers(t, dir); left != nil {
		t.Errorf("left behind: %q", left)
	}
}

func TestCancelLeavesNothing(t *testing.T) {
	long(t)
	t.Parallel()
	for _, moment := range []string{"creating the database", "starting Postgres"} {
		t.Run(moment, func(t *testing.T) {
			t.Parallel()
			dir := folder(t)
			ctx, cancel := context.WithCancel(deadline(t))
			p, err := Start(ctx, Config{Dir: dir, Volatile: true, Progress: func(what string) {
				switch {
				case what != moment:
				case what == "creating the database": // cancel in the middle of it
					go func() {
						poll(ctx, func() bool { return initdbWorks(dir) })
						cancel()
					}()
				default:
					cancel()
				}
			}})
			needPostgres(t, err)
			if p != nil || !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v, %v; want context.Canceled", p, err)
			}
			if left := leftovers(t, dir); left != nil {
				t.Errorf("left behind: %q", left)
			}
			eventually(t, "no process works on the folder", func() bool { return !mentioned(t, dir) })
			mustStart(t, Config{Dir: dir, Volatile: true})
		})
	}
}

// initdbWorks tells whether initdb has begun to write below dir.
func initdbWorks(dir string) bool {
	begun, _ := filepath.Glob(filepath.Join(dir, "initdb-*", "data", "PG_VERSION"))
	return begun != nil
}

// mentioned tells whether any process was called with dir among its arguments.
func mentioned(t *testing.T, dir string) bool {
	t.Helper()
	all, err := exec.Command("ps", "-A", "-o", "command=").Output()
	if err != nil {
		t.Skip("no ps here: ", err)
	}
	return strings.Contains(string(all), dir)
}

func TestStopInAHurry(t *testing.T) {
	long(t)
	t.Parallel()
	c := Config{Dir: folder(t)}
	p := mustStart(t, c)
	// A stopped process cannot shut down in order, and SIGQUIT has to wait for SIGCONT.
	if err := syscall.Kill(p.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Stop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Stop: %v, want context.Canceled", err)
	}
	if !gone(p.Pid()) {
		t.Error("the server still runs")
	}
	ask(t, mustStart(t, c).URL(), "SELECT 'recovered'")
}

// serveByHand leaves a server on the data as an earlier process would that nothing ended.
func serveByHand(t *testing.T, dir string) *Server {
	t.Helper()
	k := &cluster{config: Config{Dir: dir}}
	if err := k.settle(); err != nil {
		t.Fatal(err)
	}
	var err error
	if k.binaries, err = machine(t.Context()).find(deadline(t), 0, k.owner, func(string) {}); err != nil {
		t.Fatal(err)
	}
	p, err := k.serveOnce(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestLeftoverServerIsStopped(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	mustStop(t, mustStart(t, Config{Dir: dir}))
	leftover := serveByHand(t, dir)
	p := mustStart(t, Config{Dir: dir})
	<-leftover.exited
	ask(t, p.URL(), "SELECT 'alive'")
}

func TestStaleNote(t *testing.T) {
	long(t)
	t.Parallel()
	dir := folder(t)
	c := Config{Dir: dir, Volatile: true}
	p := mustStart(t, c)
	note := filepath.Join(dir, "data", "postmaster.pid")
	text, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	mustStop(t, p)
	info, err := os.Stat(filepath.Join(dir, "data", "PG_VERSION"))
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	other := mustStart(t, Config{Dir: folder(t), Volatile: true}) // same user, same program, other data

	_, rest, _ := strings.Cut(string(text), "\n")
	for name, stale := range map[string]string{
		"another process has the number": strconv.Itoa(other.Pid()) + "\n" + rest,
		"we have the number":             strconv.Itoa(os.Getpid()) + "\n" + rest,
		"nobody has the number":          "99999999\n" + rest,
		"empty":                          "",
	} {
		if err := os.WriteFile(note, []byte(stale), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(note, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
		again, err := Start(deadline(t), c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		mustStop(t, again)
	}
	ask(t, other.URL(), "SELECT 'unharmed'")
}

// TestLiveServerIsNeverDoubled holds even when its note has lost its process id.
func TestLiveServerIsNeverDoubled(t *testing.T) {
	long(t)
	t.Parallel()
	dir := folder(t)
	mustStop(t, mustStart(t, Config{Dir: dir}))
	live := serveByHand(t, dir)
	defer live.quit()
	note := filepath.Join(dir, "data", "postmaster.pid")
	text, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n")
	if err := os.WriteFile(note, []byte("99999999\n"+rest), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Start(deadline(t), Config{Dir: dir})
	wantError(t, err, "still in use")
	ask(t, live.URL(), "SELECT 'unharmed'")
}

func TestBadSettingShowsTheLog(t *testing.T) {
	t.Parallel()
	c := Config{Dir: folder(t), Volatile: true, Settings: []string{"no_such_setting=1"}}
	_, err := Start(deadline(t), c)
	needPostgres(t, err)
	wantError(t, err, "exited while it started", "no_such_setting")
}

func TestOtherVersionsData(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	mustStop(t, mustStart(t, Config{Dir: dir, Volatile: true}))
	if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(deadline(t), Config{Dir: dir})
	wantError(t, err, "made by Postgres 99", "here is only Postgres ", "PG_BIN", "--fresh")
}

func TestUnreachableUnderRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root drops its rights")
	}
	closed := folder(t) // as a home folder is: 0700
	_, err := Start(deadline(t), Config{Dir: filepath.Join(closed, "shop")})
	needPostgres(t, err)
	wantError(t, err, "SHOP_DATA_DIR", closed, "/var/lib/onceshop")
}

func TestForeignFolderIsNotTouched(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	photo := filepath.Join(dir, "data", "photo")
	if err := os.Mkdir(filepath.Dir(photo), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(photo, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Start(deadline(t), Config{Dir: dir})
	wantError(t, err, "something else", "--fresh")
	if _, err := os.Stat(photo); err != nil {
		t.Error(err)
	}
}
